"""Malformed messages, thousands to each queue: all end as dead letters, and the shop goes on.

The messages are made by hypothesis, the same ones on each run. Each is malformed by the way in
which it is made, so that the shop's own check is not what says so. They are sent in bulk, to all
queues at the same time, and judged queue by queue when all is quiet.
"""

import datetime
import decimal
import gzip
import itertools
import json
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pika.data
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from labkit import amqp, dead_letters
from labkit.clock import Pace
from labkit.confirms import ConfirmWindow
from labkit.events import Recorder
from labkit.load import basket
from labkit.shop import OrderEvent, ReliableShop, Request, topology, violations

#: The flood counts as part of the first test.
pytestmark = pytest.mark.timeout(900)

SPEED = 20
#: To each queue.
MALFORMED = 5_000
#: To each queue: valid events in odd envelopes, which are to be worked on.
ODD = 12
#: Good orders, by the shop's door, while the others arrive.
GOOD = 12

TYPES = ("ORDER_CREATED", "PAYMENT_COMPLETED", "PAYMENT_FAILED", "LABEL_PRINTED")
OWNERS = {queue: owner for queue, (owner, _) in topology.QUEUES.items()}
QUEUES = list(OWNERS)


def types_of(queue, concerned=True):
    """The types of event that a queue is bound for, or those that it is not."""
    return [t for t in TYPES if topology.concerns(queue, routing_key(t)) == concerned]


def routing_key(type):
    return type.lower().replace("_", ".")


def fields(queue, **changes):
    """The fields of a valid event for a queue, some of them changed."""
    valid = {
        "order_id": "bad-1",
        "basket": "bad-1",
        "customer_email": "bad@example.com",
        "product_id": "mug",
        "quantity": 1,
        "amount": 1200,
        "event_id": "event-1",
        "type": types_of(queue)[0],
        "time": 1_700_000_000.5,
    }
    return valid | changes


def event(queue, **changes):
    return json.dumps(fields(queue, **changes)).encode()


# What is malformed. A body is made for a queue, since it must be malformed in one way alone: of a
# type that the queue is bound for, unless that is what is wrong with it.


@dataclass(frozen=True)
class Malformed:
    """A kind of defect, and the body for a queue."""

    kind: str
    body: Callable[[str], bytes]


#: What the shop must have noted as the reason, by kind of defect.
REASONS = {
    "no JSON": "JSON",
    "cut off": "JSON",
    "no event": "required|should be an object",
    "a field is missing": "required",
    "a field of a wrong type": "should be",
    "a value out of bounds": "should|valid",
    "text in another encoding": "JSON|UTF-8|should be an object",
    "a lone surrogate": "JSON|surrogate",
    "too deep": "recursion",
    "huge": "at most|JSON|should be",
    "somebody else's event": "nothing to do|should be",
}

FIELDS = tuple(fields("payment_processing"))
TEXTS = ("order_id", "basket", "customer_email", "product_id", "event_id")
NUMBERS = ("quantity", "amount", "time")

no_json = st.one_of(
    st.binary(max_size=40).map(lambda data: b"\x00" + data),
    st.text(max_size=20).map(lambda text: ("order: " + text).encode("utf-8", "replace")),
    st.sampled_from([b"", b" ", b"NULL", b"undefined", b"<order/>", b"quantity=1", b"{'a': 1}"]),
).map(lambda data: Malformed("no JSON", lambda queue: data))

cut_off = st.floats(0, 0.99).map(
    lambda part: Malformed("cut off", lambda queue: event(queue)[: int(len(event(queue)) * part)])
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
no_event = json_values.map(
    lambda value: Malformed("no event", lambda queue: json.dumps(value).encode())
)

missing = st.sets(st.sampled_from(FIELDS), min_size=1).map(
    lambda names: Malformed(
        "a field is missing",
        lambda queue: json.dumps(
            {name: value for name, value in fields(queue).items() if name not in names}
        ).encode(),
    )
)


def changed(kind):
    """Makes of a name and a value the defect that this field has this value."""
    return lambda pair: Malformed(kind, lambda queue: event(queue, **{pair[0]: pair[1]}))


no_text = st.none() | st.booleans() | st.integers() | st.lists(st.text(max_size=3), max_size=2)
no_number = st.none() | st.booleans() | st.text(max_size=5) | st.just({}) | st.just([1])
wrong_type = st.one_of(
    st.tuples(st.sampled_from((*TEXTS, "type")), no_text | st.floats(-1e9, 1e9)),
    st.tuples(st.sampled_from(NUMBERS), no_number),
    st.tuples(st.sampled_from(NUMBERS[:2]), st.integers(0, 900).map(lambda n: n + 0.5)),
).map(changed("a field of a wrong type"))

control = st.sampled_from([*map(chr, range(32)), "\x7f"])
with_control = st.tuples(st.text(max_size=4), control, st.text(max_size=4)).map("".join)
out_of_bounds = st.one_of(
    st.tuples(st.sampled_from(TEXTS), with_control | st.just("") | st.just("x" * 201)),
    st.tuples(st.just("quantity"), st.integers(max_value=0) | st.integers(min_value=1001)),
    st.tuples(st.just("quantity"), st.sampled_from([10**19, 10**400, 10**9_999])),
    st.tuples(st.just("amount"), st.integers(max_value=-1) | st.integers(min_value=10**12 + 1)),
    st.tuples(st.just("time"), st.sampled_from([float("nan"), float("inf"), float("-inf")])),
    st.tuples(
        st.just("type"),
        st.text(max_size=9) | st.sampled_from(["order_created", "ORDER_CREATED ", "Order.Created"]),
    ),
)


def out_of_bounds_body(pair):
    name, value = pair

    def body(queue):
        # json refuses to write a number of 10,000 digits, which anybody else may send.
        text = json.dumps(fields(queue, **{name: 0 if name == "quantity" else value}))
        if name == "quantity":
            text = text.replace('"quantity": 0', f'"quantity": {digits(value)}')
        return text.encode()

    return Malformed("a value out of bounds", body)


def digits(number):
    return "1" + "0" * 9_999 if number == 10**9_999 else str(number)


out_of_bounds = out_of_bounds.map(out_of_bounds_body)

ENCODINGS = {
    "Latin-1": lambda text: text.encode("latin-1"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "EBCDIC": lambda text: text.encode("cp500"),
    "gzip": lambda text: gzip.compress(text.encode(), mtime=0),
    "JSON in JSON": lambda text: json.dumps(text).encode(),
}
other_encoding = st.tuples(
    st.sampled_from(list(ENCODINGS.values())), st.text("äöüéßÀ", min_size=1, max_size=9)
).map(
    lambda pair: Malformed(
        "text in another encoding",
        lambda queue: pair[0](json.dumps(fields(queue, order_id=pair[1]), ensure_ascii=False)),
    )
)

surrogate = st.tuples(
    st.sampled_from(TEXTS),
    st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=["Cs"]),
).map(changed("a lone surrogate"))


def deep(depth, opening, closing):
    return opening * depth + "1" + closing * depth


too_deep = st.tuples(
    st.sampled_from([300, 1_000, 5_000] * 10 + [100_000]),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ("[", "")]),
    st.sampled_from([*TEXTS, "quantity", "more", None]),
).map(
    lambda drawn: Malformed(
        "too deep",
        lambda queue: (
            deep(drawn[0], *drawn[1])
            if drawn[2] is None
            else json.dumps(fields(queue) | {drawn[2]: "@"}).replace(
                '"@"', deep(drawn[0], *drawn[1])
            )
        ).encode(),
    )
)

huge = st.tuples(
    st.sampled_from([2_000, 10_000] * 20 + [1_000_000]), st.sampled_from([*TEXTS, "type", None])
).map(
    lambda drawn: Malformed(
        "huge",
        lambda queue: (
            b"x" * drawn[0] if drawn[1] is None else event(queue, **{drawn[1]: "x" * drawn[0]})
        ),
    )
)

foreign = st.integers(0, 2).map(
    lambda n: Malformed(
        "somebody else's event",
        # Analytics has to do with every type there is.
        lambda queue: event(queue, type=[*types_of(queue, concerned=False), "PARCEL_LOST"][0]),
    )
)

KINDS = (
    no_json,
    cut_off,
    no_event,
    missing,
    wrong_type,
    out_of_bounds,
    other_encoding,
    surrogate,
    too_deep,
    huge,
    foreign,
)

# Envelopes: properties and headers as nobody should send them, and the broker takes them.


class Raw(bytes):
    """A header's value as it goes over the wire, for what pika would not write.

    Type and value as in the field table of AMQP 0-9-1 with RabbitMQ's errata
    (https://www.rabbitmq.com/amqp-0-9-1-errata#section_3).
    """


def nested(depth):
    """A table in a table in a table."""
    inner = b""
    for _ in range(depth):
        inner = b"\x01aF" + struct.pack(">I", len(inner)) + inner
    return Raw(b"F" + struct.pack(">I", len(inner)) + inner)


#: Another client may send each of these. (A NaN it may not: the broker closes its connection.)
RAW = [
    Raw(b"d" + struct.pack(">d", 1.5)),
    Raw(b"T" + struct.pack(">Q", 1_700_000_000_000)),  # milliseconds, where seconds are meant
    Raw(b"T" + struct.pack(">Q", 2**64 - 1)),
    Raw(b"S" + struct.pack(">I", 2) + b"\xff\xfe"),
    Raw(b"D\xff" + struct.pack(">i", 1)),
    nested(10),
    nested(600),
]

header_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=10),
    st.binary(max_size=10),
    st.lists(st.text(max_size=3) | st.integers(0, 9), max_size=2),
    st.dictionaries(st.text("abc", max_size=3), st.integers(0, 9), max_size=2),
    st.sampled_from([decimal.Decimal("1.5"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]),
    st.sampled_from(RAW),
)
header_names = st.sampled_from(
    [
        "x-retries",
        "x-retried-because",
        "x-put-back",
        "x-death",
        "x-first-death-queue",
        "x-delivery-count",
        "x-match",
        "",
        "\N{SNOWMAN}",
        b"\xff\xfe",
        "n" * 255,
    ]
)
short_texts = st.text(max_size=20) | st.sampled_from([b"\xff\xfe", "x" * 255])
envelopes = st.fixed_dictionaries(
    {"headers": st.dictionaries(header_names, header_values, max_size=3)},
    optional={
        "content_type": st.sampled_from(["text/plain", "image/png", "application/xml", "", "/"])
        | short_texts,
        "content_encoding": st.sampled_from(["gzip", "latin-1", "utf-16"]) | short_texts,
        "correlation_id": short_texts,
        "message_id": short_texts,
        "reply_to": short_texts,
        "type": short_texts,
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**64 - 1),
        "expiration": st.just("3600000"),
    },
)


#: Of an event that is valid all the same.
unknown_fields = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=5), json_values | st.just("x" * 5_000), min_size=1
)


def drawn(number, *strategies, size):
    """So many draws, as many of each strategy, the same ones on each run.

    They are drawn in batches with `size` of each, since one large draw costs less time than many
    small ones.
    """
    found = []
    batch = st.tuples(*(st.lists(each, min_size=size, max_size=size) for each in strategies))

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=number // (size * len(strategies)) + 1,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(batch)
    def draw(lists):
        found.extend(itertools.chain.from_iterable(zip(*lists, strict=True)))

    draw()
    assert len(found) >= number
    return found[:number]


# The flood, once for all tests of this file, and what is left when all is quiet.


@dataclass
class Aftermath:
    """What was sent to each queue, and what became of it."""

    sent: dict[str, dict[str, Malformed]]  # by queue, then by correlation id
    odd: dict[str, list[str]]  # order ids, by queue
    good: list[int]  # the door's answers
    letters: list[dead_letters.DeadLetter]
    reasons: dict[str, dict[str, str]]  # by service, then by correlation id
    done: dict[str, Counter]  # order ids, by service
    alive: dict[str, int]  # threads that consume, by service
    violations: list
    events: list


@pytest.fixture(scope="module")
def raw_headers():
    """Lets pika write `Raw` values; it reads and writes all else as it always does."""
    encode_value = pika.data.encode_value

    def encode(pieces, value):
        if isinstance(value, Raw):
            pieces.append(bytes(value))
            return len(value)
        return encode_value(pieces, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pika.data, "encode_value", encode)
        yield


@pytest.fixture(scope="module")
def aftermath(broker, raw_headers, tmp_path_factory):
    pace = Pace(SPEED)
    with (
        broker.virtual_host("malformed") as vhost,
        ReliableShop(tmp_path_factory.mktemp("shop"), pace, Recorder(pace), vhost.url) as shop,
    ):
        yield flood(shop, borne_by(broker))


def borne_by(broker):
    """What an envelope may hold for this broker not to break down over it.

    RabbitMQ 3.10.8 can't bear a forged `x-death` that is a list of anything but tables: the
    process that hands over dead letters at least once ends, that of every other queue with it,
    and nothing more is dead-lettered until a restart (measured; 4.3.6 bears it).
    """
    if int(broker.version.split(".")[0]) >= 4:
        return lambda envelope: envelope
    return lambda envelope: (
        envelope | {"headers": {k: v for k, v in envelope["headers"].items() if k != "x-death"}}
    )


def flood(shop, borne):
    """Sends everything to every queue, with good orders in between, and waits until all is quiet."""
    bad = drawn(MALFORMED, *KINDS, size=15)
    dress = itertools.cycle([borne(each) for each in drawn(300, envelopes, size=20)])
    extras = itertools.cycle(drawn(50, unknown_fields, size=25))
    sent, odd = {queue: {} for queue in QUEUES}, {queue: [] for queue in QUEUES}
    good = []
    with ConfirmWindow(shop.amqp_url, 200, name="sender") as window:
        for number, each in enumerate(bad):
            for queue in QUEUES:
                key = f"{queue}/{number}"
                window.publish("", queue, each.body(queue), **next(dress) | {"correlation_id": key})
                sent[queue][key] = each
                if number % (MALFORMED // ODD) == 0:
                    order = saved(shop, f"odd-{OWNERS[queue]}-{number}")
                    odd[queue].append(order.order_id)
                    body = next(extras) | json.loads(
                        OrderEvent.about(order, types_of(queue)[0]).to_json()
                    )
                    window.publish("", queue, json.dumps(body).encode(), **next(dress))
            if number % (MALFORMED // GOOD) == 0:
                wanted = basket(len(good))
                good.append(
                    requests.post(f"{shop.url}/orders", json=wanted, timeout=60).status_code
                )
        assert window.flush(200) == []
    shop.wait_until_quiet(200)
    return Aftermath(
        sent,
        odd,
        good,
        all_letters(shop),
        {
            owner: {
                e.order_id: e.detail
                for e in shop.recorder
                if (e.kind, e.service) == ("failed", owner)
            }
            for owner in OWNERS.values()
        },
        {
            owner: Counter(
                e.order_id
                for e in shop.recorder
                if e.service == owner and e.kind in ("done", "status") and e.detail != "pending"
            )
            for owner in OWNERS.values()
        },
        consumers(shop),
        [v for v in violations(shop) if not v.order_id.startswith("odd-")],
        [e for e in shop.recorder if e.kind in ("reconnecting", "crashed", "redelivered")],
    )


def saved(shop, order_id):
    """An order that the order service knows, and nobody else has heard of."""
    wanted = Request(customer_email="c@example.com", product_id="mug", quantity=1, basket=order_id)
    return shop.orders.save(wanted, told="received")


def all_letters(shop):
    """Takes all dead letters out, each read by `dead_letters`; a look at so many takes longer.

    A quorum queue hands its dead letters over in the background, at its own speed, in the order
    in which they died, and no count of AMQP shows those on their way. So each queue is sent one
    more that dies, the last: once it is here, all before it are.
    """
    with ConfirmWindow(shop.amqp_url, len(QUEUES), name="last") as window:
        for queue in QUEUES:
            window.publish("", queue, b"the last", correlation_id="last")
        assert window.flush(60) == []
    connection = amqp.connect(shop.amqp_url)
    channel = connection.channel()
    found, last = [], set()

    def take(channel, method, properties, body):
        letter = dead_letters.read(properties, body)
        if letter.order_id == "last":
            last.add(letter.queue)
        else:
            found.append(letter)

    channel.basic_consume(topology.DEAD_LETTER_QUEUE, take, auto_ack=True)
    while last != set(QUEUES):
        before = len(found), len(last)
        connection.process_data_events(30)
        late = set(QUEUES) - last
        assert (len(found), len(last)) > before, f"dead letters of {late} do not come"
    connection.close()
    return found


def consumers(shop):
    """How many threads consume from each service's queue, as the broker says."""
    connection = amqp.connect(shop.amqp_url)
    channel = connection.channel()
    found = {
        owner: channel.queue_declare(queue, passive=True).method.consumer_count
        for queue, owner in OWNERS.items()
    }
    connection.close()
    return found


def test_what_is_sent_is_malformed_in_many_ways(aftermath):
    for sent in aftermath.sent.values():
        assert len(sent) == MALFORMED
        assert {each.kind for each in sent.values()} == set(REASONS)


@pytest.mark.parametrize("queue", QUEUES)
def test_every_malformed_message_is_a_dead_letter_once(aftermath, queue):
    letters = [letter for letter in aftermath.letters if letter.queue == queue]
    assert Counter(letter.order_id for letter in letters) == Counter(aftermath.sent[queue].keys())
    assert {letter.reason for letter in letters} == {"rejected"}
    sent = aftermath.sent[queue]
    assert [
        letter.order_id for letter in letters if letter.body != sent[letter.order_id].body(queue)
    ] == []


@pytest.mark.parametrize("queue", QUEUES)
def test_the_reason_for_each_is_noted(aftermath, queue):
    reasons = aftermath.reasons[OWNERS[queue]]
    unexplained = {
        (each.kind, reasons.get(key))
        for key, each in aftermath.sent[queue].items()
        if not re.search(REASONS[each.kind], reasons.get(key) or "")
    }
    assert unexplained == set()


def test_nothing_else_is_a_dead_letter(aftermath):
    assert len(aftermath.letters) == MALFORMED * len(QUEUES)


@pytest.mark.parametrize("queue", QUEUES)
def test_a_valid_event_is_worked_on_whatever_its_properties_say_and_with_fields_unknown(
    aftermath, queue
):
    """A newer sender may add fields, and any sender may get a header wrong: the body is what counts."""
    done = aftermath.done[OWNERS[queue]]
    assert {order_id: done[order_id] for order_id in aftermath.odd[queue]} == dict.fromkeys(
        aftermath.odd[queue], 1
    )


def test_good_orders_in_between_are_done(aftermath):
    assert set(aftermath.good) == {202}
    assert len(aftermath.good) >= GOOD
    assert aftermath.violations == []


def test_no_consumer_is_down_or_was(aftermath):
    assert aftermath.events == []
    assert aftermath.alive == {
        "payment": 4,
        "inventory": 1,
        "email": 1,
        "shipping": 4,
        "order_service": 1,
        "analytics": 1,
        "recommendations": 1,
    }
