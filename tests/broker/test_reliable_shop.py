"""The reliable shop on a real broker: a crash at each point, and what the proof finds after it."""

import gc
import json
import re
import sqlite3
import time
import warnings
from dataclasses import replace

import pytest
import requests

from labkit import amqp, dead_letters
from labkit.background import Crashed, checkpoint
from labkit.clock import Pace
from labkit.crash_points import POINTS
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.faults.wire import Wire
from labkit.load import Customers, basket, constant, http_door
from labkit.shop import (
    ACK_AFTER_WORK,
    AUTO_ACK,
    CONFIRMED,
    DESIGNS,
    EFFECTIVELY_ONCE,
    OrderEvent,
    ReliableShop,
    Request,
    audit,
    topology,
    violations,
)
from labkit.shop.orders import Order
from labkit.shop.outbox import RELAY_POINTS
from tests.broker.fakes import eventually

SPEED = 20


@pytest.fixture
def opened(vhost, tmp_path):
    """Opens a shop of a design in the test's folder and virtual host; it is a context manager."""

    def shop(guarantees=EFFECTIVELY_ONCE, url=vhost.url, **more):
        pace = Pace(SPEED)
        return ReliableShop(
            tmp_path,
            pace,
            Recorder(pace),
            url,
            guarantees=guarantees,
            **{"retry_delays_s": (1.0, 4.0, 16.0), **more},
        )

    yield shop
    # A crash leaves an HTTP request to a company outside as it was; Python's collector closes it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def shop(opened):
    with opened() as shop:
        yield shop


def order(shop, number=1, **changes):
    return requests.post(f"{shop.url}/orders", json=basket(number) | changes, timeout=60)


def kinds(shop):
    """Of which kinds the violations are."""
    return {violation.kind for violation in violations(shop)}


def letters(shop):
    connection = amqp.connect(shop.amqp_url)
    found = dead_letters.look(connection.channel(), topology.DEAD_LETTER_QUEUE)
    connection.close()
    return found


def copies(shop):
    """How many messages the departments have got once more than they should."""
    return sum(inbox.copies for inbox in shop.inboxes.values())


def crash_inside(shop, name, where):
    """Has a department crash once: `before note`, or `after note`, when all is committed."""
    department, consumer = shop.departments[name], shop.consumers[name]
    ask, handle = department.ask, department.handle
    crashed = []

    def crash():
        if not crashed:
            crashed.append(True)
            consumer.crash()
            raise Crashed

    def ask_and_crash(order):
        answer = ask(order)
        crash()
        return answer

    def handle_and_crash(order, work=None):
        result = handle(order, work)
        crash()
        return result

    if where == "before note":
        department.ask = ask_and_crash
    else:
        department.handle = handle_and_crash
    return crashed


# Without faults.


@pytest.mark.parametrize("design", DESIGNS)
def test_without_faults_each_design_does_each_order_once(opened, tmp_path, design):
    with opened(DESIGNS[design]) as shop:
        shop.gateway.declines.add("customer-003@example.com")
        with Customers(http_door(shop.url), constant(4, 10), shop.pace, shop.recorder) as customers:
            customers.wait()
        shop.wait_until_done(10)
        assert violations(shop) == []
    assert violations(tmp_path) == []
    assert audit(tmp_path).consistent


def test_a_department_added_later_works_on_what_comes_from_then_on(opened):
    essential = ("payment", "inventory", "email", "shipping")
    with opened(departments=essential) as shop:
        order(shop, 1)
        shop.wait_until_done(1)
        assert violations(shop) == []
        shop.add("analytics")
        order(shop, 2)
        shop.wait_until_done(2)
        late = {v.order_id for v in violations(shop)}
    assert late == {"order-001"}  # which analytics has never heard of


# A crash at each point, with every gap closed.


@pytest.mark.parametrize("name", ["payment", "email", "shipping", "order_service"])
def test_a_consumer_that_crashes_loses_and_doubles_nothing(shop, name):
    for number, point in enumerate(POINTS, start=1):
        crashed = shop.consumers[name].crash_at(point)
        order(shop, number)
        eventually(crashed.is_set)
        shop.consumers[name].restart()
        shop.wait_until_done(number)
        assert violations(shop) == [], point
    if name in shop.inboxes:
        assert shop.inboxes[name].copies == 1  # the one whose acknowledgement was not sent


@pytest.mark.parametrize("where", ["before note", "after note"])
def test_a_crash_beside_the_transaction_loses_and_doubles_nothing(shop, where):
    names = ("payment", "inventory", "email", "shipping", "analytics", "recommendations")
    for number, name in enumerate(names, start=1):
        crashed = crash_inside(shop, name, where)
        order(shop, number)
        eventually(lambda crashed=crashed, name=name: crashed and not shop.consumers[name].running)
        shop.consumers[name].restart()
        shop.wait_until_done(number)
        assert violations(shop) == [], name
    if where == "before note":
        assert shop.inbox.duplicates == 1  # the mail was sent twice, with the same Message-ID
        assert not copies(shop)
    else:
        eventually(lambda: all(inbox.copies == 1 for inbox in shop.inboxes.values()))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("order_service", "order.created"),
        ("payment", "payment.completed"),
        ("shipping", "label.printed"),
    ],
)
def test_a_relay_that_crashes_loses_and_doubles_nothing(shop, name, told):
    hear = sum(topology.concerns(topology.queue_of(inbox), told) for inbox in shop.inboxes)
    assert hear
    expected = 0
    for number, point in enumerate(RELAY_POINTS, start=1):
        crashed = shop.relays[name].crash_at(point)
        order(shop, number)
        eventually(crashed.is_set)
        shop.relays[name].restart()
        shop.wait_until_done(number)
        assert violations(shop) == [], point
        if point == "between publish and mark":
            expected += hear
            # The order is done without them, and they may come after that.
            eventually(lambda: copies(shop) == hear)
        assert copies(shop) == expected, point


def test_a_relay_crashed_from_outside_goes_on_where_it_was(shop):
    shop.relays["order_service"].crash()
    order(shop)
    assert shop.outboxes["order_service"].unsent == 1
    assert not shop.recorder.count("started", "payment")
    shop.relays["order_service"].restart()
    shop.wait_until_done(1)
    assert violations(shop) == []


def test_an_order_service_that_crashes_after_the_save_has_lost_nothing(shop):
    crashed = shop.crash_order_service_at("after save")
    shop.relays["order_service"].stop()  # so that the relay can't be quicker
    with pytest.raises(requests.ConnectionError):
        order(shop)
    # Its end waits for its workers, 5 s at most; the one that crashes it must not be among them.
    assert crashed.wait(4.5)
    shop.restart_order_service()
    shop.wait_until_done(1)
    assert shop.orders.status("order-001") == "completed"
    assert violations(shop) == []


def test_what_a_shop_has_left_in_its_outbox_is_sent_by_the_next_one(opened, tmp_path):
    with opened() as shop:
        shop.relays["order_service"].stop()
        order(shop)
    with opened() as shop:
        shop.wait_until_done(1)
    assert violations(tmp_path) == []


def test_a_broker_that_is_away_keeps_nobody_from_ordering(own_broker, opened):
    with opened(url=own_broker.url) as shop:
        time.sleep(5)  # a queue just declared may not survive a SIGKILL: see test_consumer.py
        with Customers(http_door(shop.url), constant(2, 30), shop.pace, shop.recorder) as customers:
            eventually(lambda: shop.recorder.count("done", "payment") >= 5)
            own_broker.kill()
            customers.wait()
        own_broker.start()
        shop.wait_until_done(30)
        assert {e.detail for e in shop.recorder if e.kind == "answered"} == {202}
        assert violations(shop) == []


# The same crashes with one gap left open: the proof finds what comes of it.


def test_without_the_inbox_a_crash_before_the_ack_doubles(opened):
    with opened(replace(EFFECTIVELY_ONCE, inbox=False)) as shop:
        for number, name in enumerate(("payment", "inventory", "email", "shipping"), start=1):
            crashed = shop.consumers[name].crash_at("after work")
            order(shop, number)
            eventually(crashed.is_set)
            shop.consumers[name].restart()
            shop.wait_until_done(number)
        found = violations(shop)
    assert {violation.kind for violation in found} == {"doubled"}
    assert {violation.order_id for violation in found} == {f"order-{n:03d}" for n in range(1, 5)}


def test_without_the_outbox_a_crash_after_the_save_loses(opened):
    with opened(replace(EFFECTIVELY_ONCE, outbox=False)) as shop:
        crashed = shop.crash_order_service_at("after save")
        with pytest.raises(requests.ConnectionError):
            order(shop)
        assert crashed.wait(30)
        shop.restart_order_service()
        shop.wait_until_quiet()
        assert kinds(shop) == {"lost"}
        assert audit(shop.folder).counts()["lost"] == 1
    with opened(replace(EFFECTIVELY_ONCE, outbox=False)) as shop:
        shop.wait_until_quiet()
        assert shop.orders.status("order-001") == "pending"


def test_with_an_inbox_and_no_outbox_a_crash_before_the_announcement_loses(opened):
    with opened(replace(EFFECTIVELY_ONCE, outbox=False)) as shop:
        crashed = crash_inside(shop, "payment", "after note")
        order(shop)
        eventually(lambda: crashed and not shop.consumers["payment"].running)
        shop.consumers["payment"].restart()
        shop.wait_until_quiet()
        assert audit(shop.folder).counts()["charged, not shipped"] == 1
        assert kinds(shop) == {"lost"}


@pytest.mark.parametrize("outbox", [True, False])
def test_without_confirms_what_a_dead_line_swallows_is_lost(opened, vhost, outbox):
    guarantees = replace(EFFECTIVELY_ONCE, confirms=False, outbox=outbox)
    assert swallowed(opened, vhost, guarantees) == {"lost"}


def test_with_confirms_what_a_dead_line_swallows_is_sent_again(opened, vhost):
    assert swallowed(opened, vhost, EFFECTIVELY_ONCE) == set()


def test_an_announcement_whose_confirm_is_lost_is_sent_twice_and_worked_on_once(opened, vhost):
    with Wire(vhost.url) as wire, opened(url=wire.url) as shop:
        order(shop, 1)
        shop.wait_until_done(1)  # all is connected, and nothing is said on the line
        wire.go_dead("from broker")
        order(shop, 2)
        eventually(lambda: wire.lost_bytes > 0)
        wire.mend()
        shop.wait_until_done(2)
        eventually(lambda: shop.inboxes["payment"].copies == 1)
        assert violations(shop) == []


def swallowed(opened, vhost, guarantees):
    """Has a line go dead under an order's announcement; the kinds of violations after it."""
    with Wire(vhost.url) as wire, opened(guarantees, url=wire.url, web_workers=1) as shop:
        order(shop, 1)
        shop.wait_until_done(1)
        wire.go_dead("to broker")
        assert order(shop, 2).status_code == 202
        eventually(lambda: wire.lost_bytes > 0)
        if guarantees.outbox and not guarantees.confirms:
            # A line that broke in the middle of the publish would have it sent again.
            eventually(lambda: shop.outboxes["order_service"].unsent == 0)
        wire.mend()
        eventually(lambda: shop.recorder.count("reconnecting") > 0)
        shop.wait_until_quiet()
        return kinds(shop)


def test_with_auto_ack_a_crash_loses_what_was_in_hand(opened):
    with opened(AUTO_ACK) as shop:
        crashed = shop.consumers["payment"].crash_at("before work")
        order(shop)
        eventually(crashed.is_set)
        shop.consumers["payment"].restart()
        shop.wait_until_quiet()
        assert kinds(shop) == {"lost"}
        assert audit(shop.folder).counts()["lost"] == 1


@pytest.mark.parametrize("guarantees", [ACK_AFTER_WORK, CONFIRMED])
def test_acknowledged_after_work_a_crash_doubles_and_loses_nothing(opened, guarantees):
    with opened(guarantees) as shop:
        crashed = shop.consumers["payment"].crash_at("after work")
        order(shop)
        eventually(crashed.is_set)
        shop.consumers["payment"].restart()
        shop.wait_until_done(1)
        assert kinds(shop) == {"doubled"}
        assert audit(shop.folder).orders.loc["order-001"].charges == 2


def test_without_outbox_and_broker_the_order_is_not_taken_and_the_customer_knows(opened, vhost):
    with Wire(vhost.url) as wire, opened(CONFIRMED, url=wire.url) as shop:
        wire.stop()
        answer = order(shop)
        assert answer.status_code == 503
        assert "later" in answer.json()["error"]
        wire.start()
        shop.wait_until_done(1)
        assert shop.orders.status("order-001") == "failed"
        assert violations(shop) == []


# What can't be done now, and what can't be done at all.


def test_a_department_that_refuses_for_a_while_works_later(opened):
    with opened(retry_delays_s=(1.0, 4.0, 16.0, 400.0)) as shop:  # the last: time to open it again
        shop.departments["payment"].refuses = True
        order(shop)
        eventually(lambda: shop.recorder.count("failed", "payment") >= 2)
        shop.departments["payment"].refuses = False
        shop.wait_until_done(1)
        assert violations(shop) == []
        assert letters(shop) == []


def test_what_was_tried_too_often_is_a_dead_letter_and_can_be_put_back(opened):
    with opened(retry_delays_s=(1.0, 2.0)) as shop:
        shop.departments["shipping"].refuses = True
        order(shop)
        eventually(lambda: letters(shop))
        (letter,) = letters(shop)
        assert (letter.queue, letter.reason, letter.retries) == ("shipping_labels", "rejected", 2)
        assert "closed for now" in letter.because
        shop.wait_until_quiet()
        assert kinds(shop) == {"lost"}
        shop.departments["shipping"].refuses = False
        connection = amqp.connect(shop.amqp_url)
        dead_letters.put_back(connection.channel(), topology.DEAD_LETTER_QUEUE)
        connection.close()
        shop.wait_until_done(1)
        assert violations(shop) == []


def test_an_order_that_takes_the_program_with_it_each_time_is_a_dead_letter_in_the_end(shop):
    department, consumer = shop.departments["recommendations"], shop.consumers["recommendations"]
    ask = department.ask

    def crash_over_the_first(order):
        if order.basket == basket(1)["basket"]:
            consumer.crash()
            checkpoint()
        return ask(order)

    department.ask = crash_over_the_first
    order(shop, 1)
    deadline = time.monotonic() + 60
    while not (found := letters(shop)):
        assert time.monotonic() < deadline, "it comes again and again"
        if not consumer.running:
            consumer.restart()
    (letter,) = found
    assert (letter.queue, letter.reason) == ("recommendation_updates", "delivery_limit")
    assert shop.recorder.count("crashed", "recommendations") == 21  # the first, and 20 more
    consumer.restart()
    order(shop, 2)
    shop.wait_until_done(2)
    assert {violation.order_id for violation in violations(shop)} == {letter.order_id}


def test_a_database_that_somebody_else_writes_to_delays_the_work_alone(shop):
    department = shop.departments["shipping"]
    note, locked = department.note, iter([True, False])

    def note_or_fail(*args):
        if next(locked, False):
            raise sqlite3.OperationalError("database is locked")
        return note(*args)

    department.note = note_or_fail
    order(shop)
    shop.wait_until_done(1)
    assert shop.recorder.count("failed", "shipping") == 1
    assert violations(shop) == []


def test_an_order_service_whose_database_is_locked_says_so_and_takes_nothing(shop):
    def locked(*_, **__):
        raise sqlite3.OperationalError("database is locked")

    shop.orders.insert, insert = locked, shop.orders.insert
    assert order(shop).status_code == 503
    shop.orders.insert = insert
    assert shop.orders.count() == 0
    assert order(shop).status_code == 202
    shop.wait_until_done(1)


ORDER = Order(
    order_id="order-9",
    basket="order-9",
    customer_email="a@b.c",
    product_id="mug",
    quantity=1,
    amount=1200,
)


def event_with(**changes):
    fields = json.loads(OrderEvent.about(ORDER, "ORDER_CREATED").to_json())
    return json.dumps(fields | changes).encode()


BAD = {
    "not JSON": (b"hello", "JSON"),
    "not text": (b"\xff\xfe\x00", "JSON"),
    "a missing field": (b'{"order_id": "order-9"}', "required"),
    "a negative quantity": (event_with(quantity=-1), "quantity"),
    "an absurd quantity": (event_with(quantity=10**30), "quantity"),
    "no time": (event_with(time=float("inf")), "time"),
    "a line break in the address": (event_with(customer_email="a@b.c\nBcc: d@e.f"), "email"),
    "an event of somebody else": (event_with(type="LABEL_PRINTED"), "nothing to do"),
}


def test_a_message_that_is_no_event_is_a_dead_letter_with_its_reason(shop):
    connection = amqp.connect(shop.amqp_url)
    for name, (body, _) in BAD.items():
        amqp.publish(connection.channel(), "", "payment_processing", body, correlation_id=name)
    connection.close()
    order(shop)
    shop.wait_until_done(1)
    # The broker hands them over in the background.
    eventually(lambda: len(letters(shop)) == len(BAD))
    found = {letter.order_id: letter for letter in letters(shop)}
    assert set(found) == set(BAD)
    noted = {e.order_id: e.detail for e in shop.recorder if e.kind == "failed"}
    for name, (body, reason) in BAD.items():
        assert (found[name].queue, found[name].reason) == ("payment_processing", "rejected")
        assert found[name].body == body
        assert reason in noted[name], name
    assert violations(shop) == []


def test_an_address_that_the_mail_server_refuses_ends_in_the_dead_letters(shop):
    order(shop, customer_email=",")
    eventually(lambda: len(letters(shop)) == 2)  # the mail for the order, the mail for the payment
    assert {letter.queue for letter in letters(shop)} == {"email_notifications"}
    shop.wait_until_done(1)
    assert {v.what.split(" ", 1)[1] for v in violations(shop)} == {
        "mails that confirm the order, and not 1",
        "mails that confirm the payment, and not 1",
    }


def test_a_relay_that_fails_is_not_waited_for_in_vain(opened):
    shop = opened().start()
    shop.outboxes["order_service"].mark_sent = lambda _: 1 / 0
    order(shop)
    with pytest.raises(ServiceError, match="order_service-relay failed"):
        shop.wait_until_done(1)
    with pytest.raises(ServiceError, match="order_service-relay failed"):
        shop.stop()


def test_it_is_stopped_twice_and_leaves_no_connection_behind(opened, vhost, broker):
    shop = opened().start()
    order(shop)
    shop.wait_until_done(1)
    shop.stop()
    shop.stop()
    eventually(lambda: not broker.admin.connections(vhost.name))


def test_a_label_that_is_older_than_its_charge_is_a_violation(shop):
    order(shop)
    shop.wait_until_done(1)
    assert violations(shop) == []
    shop.departments["shipping"].database.write("UPDATE labels SET at = at - 60")
    (violation,) = violations(shop)
    assert violation.kind == "early"
    assert re.search(r"label is \d\d\.\d+ s older than its charge", violation.what)


def test_a_violation_tells_the_orders_history(shop):
    shop.orders.save(Request.read(basket(7)), told="received")  # and nobody hears of it
    (violation,) = {v for v in violations(shop) if "charges" in v.what}
    assert violation.order_id == "order-007"
    assert violation.kind == "lost"
    assert any(line.startswith("order_service: order-007") for line in violation.history)
    assert str(violation).startswith("order-007: 0 charges")
