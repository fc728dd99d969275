"""The decoupled flow on a real broker, and what the audit finds after it."""

import json
import threading
import time

import pytest
import requests

from labkit import amqp
from labkit.clock import Pace
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.load import Customers, basket, constant, http_door
from labkit.shop import DecoupledShop, OrderEvent, Request, audit, topology
from tests.broker.fakes import eventually


@pytest.fixture
def shop(vhost, tmp_path):
    pace = Pace(20)
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        yield shop


def order(shop, number=1, **changes):
    return requests.post(f"{shop.url}/orders", json=basket(number) | changes, timeout=60)


def worked(shop, **times):
    """Waits until departments have worked so often: a message may be long on its way to one."""
    count = shop.recorder.count
    eventually(lambda: all(count("done", name) >= n for name, n in times.items()))


def dead_letters(shop):
    connection = amqp.connect(shop.amqp_url)
    count = connection.channel().queue_declare(topology.DEAD_LETTER_QUEUE, passive=True)
    connection.close()
    return count.method.message_count


def test_the_customer_has_an_answer_before_the_payment_could_be_made(shop):
    start = shop.pace.now()
    answer = order(shop)
    assert answer.status_code == 202
    assert answer.json() == {"order_id": "order-001", "status": "received, being processed"}
    assert shop.recorder.count("done", "payment") == 0 or shop.pace.now() - start > 3


def test_no_customer_waits_for_a_connection_of_the_order_services_to_open(shop):
    connections = shop.service._publisher.channels.connections
    opened = list(connections)
    assert len(opened) == shop.door.workers
    for number in range(1, 7):
        assert order(shop, number).status_code == 202
    assert connections == opened


def test_a_broker_that_goes_away_while_a_worker_prepares_itself_fails_no_door(shop, monkeypatch):
    connect = amqp.connect

    def connect_and_break(url, name):
        connection = connect(url, name)
        amqp.drop_socket(connection)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(amqp, "connect", connect_and_break)
        shop.door.crash()
        shop.door.restart()
    assert order(shop).status_code == 202
    shop.door.raise_if_failed()


def test_an_order_goes_from_pending_to_paid_to_completed(shop):
    order(shop)
    shop.wait_until_done(1)
    statuses = [e.detail for e in shop.recorder if e.kind == "status"]
    assert statuses == ["pending", "paid", "completed"]
    assert requests.get(f"{shop.url}/orders/order-001", timeout=10).json()["status"] == "completed"


def test_thirty_customers_orders_are_all_done_once(shop):
    with Customers(http_door(shop.url), constant(4, 30), shop.pace, shop.recorder) as customers:
        customers.wait()
    shop.wait_until_done(30)
    worked(shop, inventory=30, email=60, analytics=90)
    result = audit(shop.folder)
    assert result.consistent, str(result)
    assert (result.orders[["charges", "labels", "stock"]] == 1).all().all()
    assert (result.orders.emails == 2).all()  # the order, then the payment
    assert len(shop.inbox.messages) == 60
    assert len(shop.departments["analytics"].database.rows("SELECT 1 FROM facts")) == 90


def test_a_declined_payment_ends_the_order_and_no_label_is_printed(shop):
    shop.gateway.declines.add("customer-001@example.com")
    order(shop)
    shop.wait_until_done(1)
    worked(shop, email=2)
    row = audit(shop.folder).orders.loc["order-001"]
    assert (row.status, row.charges, row.labels, row.emails) == ("declined", 0, 0, 2)


def test_a_department_that_is_away_delays_its_own_work_alone(shop):
    shop.consumers["email"].crash()
    order(shop)
    eventually(lambda: shop.orders.status("order-001") == "completed")
    assert not shop.inbox.messages
    shop.consumers["email"].restart()
    shop.wait_until_done(1)
    worked(shop, email=2)
    assert len(shop.inbox.messages) == 2


def test_it_is_not_done_while_a_message_waits_or_is_in_hand(shop):
    email, consumer, go_on = shop.departments["email"], shop.consumers["email"], threading.Event()
    ask = email.ask
    email.ask = lambda order: go_on.wait(20) and ask(order)
    consumer.crash()
    order(shop)
    eventually(lambda: shop.orders.status("order-001") == "completed")
    with pytest.raises(ServiceError, match="2 messages wait"):
        shop.wait_until_done(1, timeout_wall_s=1)
    consumer.restart()
    eventually(lambda: consumer.in_hand)
    with pytest.raises(ServiceError, match="1 in hand"):
        shop.wait_until_done(1, timeout_wall_s=1)
    go_on.set()
    shop.wait_until_done(1)


def test_a_crash_of_payment_in_the_middle_charges_once(shop):
    payment, consumer = shop.departments["payment"], shop.consumers["payment"]
    ask, charged, crashed = payment.ask, threading.Event(), threading.Event()

    def ask_and_wait(order):
        answer = ask(order)
        charged.set()
        crashed.wait(20)
        return answer

    payment.ask = ask_and_wait
    order(shop)
    assert charged.wait(30)
    consumer.crash()
    crashed.set()
    consumer.restart()
    shop.wait_until_done(1)
    assert shop.recorder.count("redelivered", "payment") == 1
    assert audit(shop.folder).orders.loc["order-001"].charges == 1
    assert audit(shop.folder).consistent


def test_a_mail_server_that_is_down_delays_the_mail_and_loses_none(shop):
    shop.inbox.stop()
    order(shop)
    eventually(lambda: shop.recorder.count("requeued", "email"))
    shop.inbox.start()
    shop.wait_until_done(1)
    worked(shop, email=2)
    assert len(shop.inbox.messages) == 2


def test_a_department_added_later_gets_what_happens_from_then_on(vhost, tmp_path):
    pace = Pace(20)
    essential = ("payment", "inventory", "email", "shipping")
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url, departments=essential) as shop:
        order(shop, 1)
        shop.wait_until_done(1)
        shop.add("analytics")
        order(shop, 2)
        shop.wait_until_done(2)
        worked(shop, analytics=3)
        facts = shop.departments["analytics"].database.rows("SELECT order_id, type FROM facts")
    assert {order_id for order_id, _ in facts} == {"order-002"}
    assert len(facts) == 3


def test_an_order_saved_and_not_published_is_announced_at_the_next_start(vhost, tmp_path):
    pace = Pace(20)
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        shop.orders.save(Request.read(basket(1)), told="received")  # and then, a crash
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        shop.wait_until_done(1)
        assert shop.orders.unannounced() == [] or shop.orders.status("order-001") == "completed"
    assert audit(tmp_path).consistent
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        assert shop.orders.unannounced() == []


BAD = {
    "not JSON": b"hello",
    "not text": b"\xff\xfe\x00",
    "a missing field": json.dumps({"order_id": "order-9"}).encode(),
    "a negative quantity": json.dumps(
        json.loads(
            OrderEvent(
                event_id="e",
                type="ORDER_CREATED",
                time=0.0,
                order_id="order-9",
                basket="order-9",
                customer_email="a@b.c",
                product_id="mug",
                quantity=1,
                amount=1,
            ).to_json()
        )
        | {"quantity": -1}
    ).encode(),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_message_that_is_no_event_goes_to_the_dead_letters_and_orders_go_on(shop, body):
    connection = amqp.connect(shop.amqp_url)
    amqp.publish(connection.channel(), topology.EXCHANGE, "order.created", body)
    connection.close()
    order(shop)
    shop.wait_until_done(1)
    # payment, email, analytics and recommendations each had a copy
    eventually(lambda: dead_letters(shop) == 4)
    assert audit(shop.folder).consistent


def test_without_a_broker_the_order_is_saved_and_the_customer_told_so(own_broker, tmp_path):
    pace = Pace(20)
    with DecoupledShop(tmp_path, pace, Recorder(pace), own_broker.url) as shop:
        own_broker.stop()
        shop.door.crash()
        shop.door.restart()  # its workers can't prepare themselves, and serve all the same
        answer = order(shop)
        assert answer.status_code == 503
        assert "saved" in answer.json()["error"]
        own_broker.start()
    with DecoupledShop(tmp_path, pace, Recorder(pace), own_broker.url) as shop:
        shop.wait_until_done(1)
    assert audit(tmp_path).consistent


def test_the_shop_leaves_no_connection_behind(vhost, tmp_path, broker):
    pace = Pace(20)
    shop = DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url).start()
    order(shop)
    shop.wait_until_done(1)
    shop.stop()
    shop.stop()
    eventually(lambda: not broker.admin.connections(vhost.name))


def test_a_broker_killed_under_load_and_back_costs_no_order(own_broker, tmp_path):
    pace = Pace(20)
    recorder = Recorder(pace)
    with DecoupledShop(tmp_path, pace, recorder, own_broker.url) as shop:
        time.sleep(3)  # a queue just declared may not survive a SIGKILL: see test_consumer.py
        customers = Customers(http_door(shop.url), constant(2, 1000), pace, recorder)
        with customers:
            eventually(lambda: recorder.count("done", "payment") >= 5)
            own_broker.kill()
            eventually(lambda: any(e.kind == "answered" and e.detail == 503 for e in recorder))
        answers = {e.order_id: e.detail for e in recorder if e.kind == "answered"}
        assert set(answers.values()) == {202, 503}  # some came while the broker was away

        def unfinished():
            """Orders that the broker has taken charge of and that are not completed."""
            safe = [order_id for order_id, answer in answers.items() if answer == 202]
            return [order_id for order_id in safe if shop.orders.status(order_id) != "completed"]

        assert unfinished()
        own_broker.start()
        # The same consumers connect again and go on with what the kill has interrupted.
        eventually(lambda: not unfinished(), within_wall_s=60)
    with DecoupledShop(tmp_path, pace, recorder, own_broker.url) as shop:
        shop.wait_until_done(len(answers))
    result = audit(tmp_path)
    assert result.consistent, str(result)
    assert (result.orders.charges == 1).all()
    assert len(result.orders) == len(answers)
