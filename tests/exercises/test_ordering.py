"""Notebook 08's exercises."""

from __future__ import annotations

import random

from labkit.exercises import _partitioning, ordering

PAIRS = "return sum({} for n, a in enumerate(done) for b in done[n + 1:])"


def test_overtakings_tells_right_from_wrong(prove):
    prove(
        ordering.overtakings,
        source="08-ordering",
        answer="overtakings",
        wrong=[
            ("return sum(b < a for a, b in zip(done, done[1:]))", "compares neighbours\\s+alone"),
            (
                "return sum(a != b for a, b in zip(done, sorted(done)))",
                "not in their place",
            ),
            (
                "return sum(any(b < a for b in done[n:]) for n, a in enumerate(done))",
                "message that overtook once",
            ),
            (
                "return sum(any(b > a for b in done[:n]) for n, a in enumerate(done))",
                "was overtaken once",
            ),
            (PAIRS.format("b > a"), "pairs that came in order"),
            ("return done != sorted(done)", "you count False"),
            ("return sum(abs(n - a) for n, a in enumerate(done, 1))", "Likely: +count the pairs"),
            ("return len(done) - done.index(1)", "ValueError|you count"),
            ("print(done)", "you count None"),
        ],
    )


def test_routing_key_tells_right_from_wrong(prove, vhost):
    prove(
        ordering.routing_key,
        source="08-ordering",
        answer="routing_key",
        wrong=[
            ('return event["order_id"]', "the order's id: the customer's\\s+next order"),
            ('return event["product_id"]', "a customer who buys two things"),
            ('return event["customer_email"] + event["product_id"]', "two things"),
            ('return event["event_id"]', "nothing stays together"),
            ('return event["type"].lower().replace("_", ".")', "depends on something|the type"),
            ('return event["customer_email"] + event["type"]', "the type of the event"),
            ("return str(random.randrange(4))", "two different keys"),
            ('return str(hash(event["customer_email"]))', "one process and another"),
            ('return str(hash(event["customer_email"]) % 4)', "one process and another"),
            ('return hash(event["customer_email"])', "a int|an? int"),
            ('return "changes"', "24 customers share 1\\s+key"),
            ('return event["customer_email"].split("@")[1]', "share 1\\s+key"),
            ('return event["customer_email"].encode()', "bytes"),
            ('return event["customer"]', "KeyError"),
        ],
        names={"random": random},
        url=vhost.url,
    )


def test_a_salted_hash_is_told_whatever_the_salts():
    def keys(salt):
        key = _partitioning._in_process(lambda customer: str(hash(customer) % 4), salt)
        return [key(customer) for customer in _partitioning.CUSTOMERS]

    # This process, too, salts its hashes by chance: two salts could agree in one of fifty.
    assert not any(keys(f"one {n}") == keys(f"another {n}") for n in range(1000))


def test_routing_key_takes_whatever_stands_for_a_customer(vhost):
    for right in (
        lambda event: event["customer_email"].upper(),
        lambda event: event["customer_email"].partition("@")[0],
    ):
        assert ordering.routing_key.judge(right, url=vhost.url).verdict == "correct"


DECLARED = 'channel.queue_declare("exercise.changes", durable=True{})'


def test_declare_changes_tells_right_from_wrong(prove, vhost):
    single = ', arguments={"x-single-active-consumer": True}'
    prove(
        ordering.declare_changes,
        source="08-ordering",
        answer="declare_changes",
        wrong=[
            (DECLARED.format(""), "one got [1-5], the\\s+other [1-5]"),
            (
                DECLARED.format(', arguments={"x-single-active-consumer": False}'),
                "one got [1-5], the\\s+other [1-5]",
            ),
            (DECLARED.format(', arguments={"single-active-consumer": True}'), "hands its messages"),
            (DECLARED.format(single + ", exclusive=True"), "your connection alone"),
            (DECLARED.format(single).replace("durable=True", "durable=False"), "is not durable"),
            (DECLARED.format(', arguments={"x-single-active-consumer": "yes"}'), "raised Channel"),
            (
                DECLARED.format("") + '\nchannel.basic_consume("exercise.changes", print, '
                "exclusive=True)",
                "refuses a second consumer: 403",
            ),
            (
                DECLARED.format(
                    ', arguments={"x-single-active-consumer": True, "x-max-length": 1}'
                ),
                "got 1 of|limits the queue",
            ),
        ],
        url=vhost.url,
    )


def test_declaring_another_queue_is_no_attempt(vhost):
    def elsewhere(channel):
        channel.queue_declare("changes", durable=True)

    judged = ordering.declare_changes.judge(elsewhere, url=vhost.url)
    assert judged.verdict == "not attempted"
    assert "no queue exercise.changes" in judged.message


NEWER = """
known = book.get(change["customer"])
if {}:
    book[change["customer"]] = change
"""


def test_keep_newer_tells_right_from_wrong(prove):
    prove(
        ordering.keep_newer,
        source="08-ordering",
        answer="keep_newer",
        wrong=[
            ('book[change["customer"]] = change', "compare the versions"),
            ('book.setdefault(change["customer"], change)', "here the first one\\s+stayed"),
            (
                NEWER.format('known is None or change["version"] == known["version"] + 1'),
                "still\\s+missing is no reason",
            ),
            (
                NEWER.format('all(change["version"] > each["version"] for each in book.values())'),
                "ben's have nothing to do",
            ),
            (
                NEWER.format('known is None or str(change["version"]) > str(known["version"])'),
                "versions are numbers",
            ),
            (NEWER.format('known and change["version"] > known["version"]'), "not in the book"),
            (NEWER.format('change["version"] > known["version"]'), "TypeError"),
            ('book[change["customer"]] = change["address"]', "with its\\s+version"),
            ('book["version"] = change["version"]', "not in the book"),
        ],
    )
