"""The obvious shop has the nine defects that notebook 04 shows, and its brakes hold."""

import threading

import pika
import pytest
import requests

from labkit import amqp, measure
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.load import basket
from labkit.shop import ObviousShop, Order, OrderEvent, Request, audit
from labkit.shop.obvious import CHARGES_AT_MOST, REDELIVERIES_AT_MOST
from tests.broker.fakes import eventually


@pytest.fixture
def shop(vhost, tmp_path):
    """Declared, and not open yet."""
    pace = Pace(20)
    shop = ObviousShop(tmp_path, pace, Recorder(pace), vhost.url)
    yield shop
    shop.stop()


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test")
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()


def fill_mailbox(channel, broken=0, good=0):
    ObviousShop.declare_exchange(channel)
    ObviousShop.declare_queues(channel)
    orders = [Order(order_id=f"order-{n}", amount=1200, **basket(n)) for n in range(1, good + 1)]
    bodies = [b"{"] * broken + [OrderEvent.about(o, "ORDER_CREATED").to_json() for o in orders]
    for body in bodies:
        channel.basic_publish("", "email_notifications", body)


def let_it_go_round(shop):
    """Until the brake holds payment, and all has been heard; then until nothing happens any more.

    The shop looks quiet, too, while a message is on its way from the broker to a consumer.
    """
    eventually(lambda: shop.brakes["payment"], 60)
    eventually(lambda: shop.recorder.count("acked", "shipping") == 1 + CHARGES_AT_MOST)
    shop.wait_until_quiet()


def test_payment_hears_itself_and_charges_until_the_brake_holds_it(shop):
    shop.start()
    answer = requests.post(f"{shop.door.url}/orders", json=basket(1), timeout=10)
    assert answer.json() == {"order_id": "order-001", "status": "received, being processed"}
    let_it_go_round(shop)
    row = audit(shop.folder).orders.loc["order-001"]
    assert (row.charges, row.labels) == (CHARGES_AT_MOST, CHARGES_AT_MOST)
    assert shop.brakes == {"payment": 1}
    assert audit(shop.folder).counts()["charged twice"] == 1


def test_its_exchange_is_a_fanout_that_is_not_durable(shop, vhost):
    shop.start()
    (orders,) = [e for e in vhost.broker.admin.exchanges(vhost.name) if e["name"] == "orders"]
    assert (orders["type"], orders["durable"]) == ("fanout", False)


def is_there(connection, exchange):
    try:
        connection.channel().exchange_declare(exchange, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def test_a_restart_forgets_its_exchange_and_bindings_up_to_4_1_and_no_longer_since_4_2(own_broker):
    """What notebook 04 says of each version, on a broker that was new on the evening before."""
    kept = tuple(int(part) for part in own_broker.version.split(".")[:2]) >= (4, 2)
    with own_broker.virtual_host("test") as room:
        with amqp.connect(room.url, "evening") as connection:
            channel = connection.channel()
            ObviousShop.declare_exchange(channel)
            ObviousShop.declare_queues(channel)
            channel.exchange_declare("lasting", "fanout", durable=True)
            channel.queue_bind("payment_processing", "lasting")
        own_broker.stop()
        own_broker.start()
        with amqp.connect(room.url, "morning") as connection:
            assert is_there(connection, "orders") is kept
            assert is_there(connection, "lasting")
            channel = connection.channel()
            ObviousShop.declare_exchange(channel)  # as the order service does when it starts
            channel.confirm_delivery()
            for exchange, reached in (("lasting", 1), ("orders", 1 + kept)):
                channel.basic_publish(exchange, "", b"an order")
                waiting = channel.queue_declare("payment_processing", passive=True).method
                assert waiting.message_count == reached


def test_only_what_the_order_service_publishes_is_persistent(shop, channel):
    shop.start()
    shop.create_order(Request(**basket(1)))
    let_it_go_round(shop)
    shop.stop()  # what order_updates was sent comes back into the queue
    modes = {}
    while (got := channel.basic_get("order_updates", auto_ack=True))[0]:
        modes[OrderEvent.read(got[2]).type] = got[1].delivery_mode
    assert modes["ORDER_CREATED"] == pika.DeliveryMode.Persistent.value
    assert modes["PAYMENT_COMPLETED"] != pika.DeliveryMode.Persistent.value


@pytest.mark.parametrize(("broken", "sent"), [(0, 12), (1, 12), (10, 0)])
def test_broken_messages_go_round_and_ten_of_them_hold_up_the_rest(shop, channel, broken, sent):
    fill_mailbox(channel, broken, good=12)
    shop.start()
    email = shop.consumers["email"]
    eventually(lambda: not email.running if broken else len(shop.inbox.messages) == sent, 60)
    shop.wait_until_quiet()
    assert len(shop.inbox.messages) == sent
    assert shop.redeliveries == (REDELIVERIES_AT_MOST if broken else 0)
    assert email.running is not bool(broken)


def test_an_order_is_gone_where_the_gateway_was_down(shop, vhost):
    shop.start()
    shop.gateway.stop()
    shop.create_order(Request(**basket(1)))
    eventually(lambda: shop.recorder.count("rejected", "payment"))
    shop.wait_until_quiet()
    shop.gateway.start()
    shop.wait_until_quiet()
    assert audit(shop.folder).counts()["lost"] == 1
    assert vhost.depths(["payment_processing"]) == {"payment_processing": 0}


def test_the_order_service_holds_its_messages_and_never_looks_at_them(shop, channel):
    shop.start()
    shop.create_order(Request(**basket(1)))
    let_it_go_round(shop)
    held = channel.queue_declare("order_updates", passive=True).method
    assert (held.consumer_count, held.message_count) == (1, 0)
    assert shop.orders.status("order-001") == "pending"
    shop.stop()
    messages = channel.queue_declare("order_updates", passive=True).method.message_count
    assert messages == 1 + CHARGES_AT_MOST


def test_a_crash_between_saving_and_publishing_loses_the_order_for_good(shop, vhost, tmp_path):
    shop.start()
    amqp.drop_socket(shop.connection)
    with pytest.raises(pika.exceptions.AMQPError):
        shop.create_order(Request(**basket(1)))
    shop.stop()
    with ObviousShop(tmp_path, shop.pace, shop.recorder, vhost.url) as again:
        again.wait_until_quiet()
    assert audit(tmp_path).counts()["lost"] == 1


def test_email_holds_ten_messages_and_sends_one_at_a_time(shop, channel):
    fill_mailbox(channel, good=10)
    shop.start()
    eventually(lambda: len(shop.inbox.messages) == 10)
    shop.wait_until_quiet()
    spans = measure.spans(shop.recorder.frame())
    assert len(spans) == 10
    assert (spans.start_s.to_numpy()[1:] >= spans.end_s.to_numpy()[:-1]).all()


def test_its_web_threads_publish_on_the_one_channel_that_it_has(vhost, tmp_path):
    used = []

    class Watched(ObviousShop):
        @staticmethod
        def publish(channel, event, **properties):
            used.append((channel, threading.current_thread()))

    pace = Pace(20)
    with Watched(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        for n in (1, 2):
            requests.post(f"{shop.door.url}/orders", json=basket(n), timeout=10)
        assert [channel for channel, _ in used] == [shop.channel, shop.channel]
    assert threading.current_thread() not in [thread for _, thread in used]


def test_it_closes_twice_and_leaves_nothing_behind(shop, vhost):
    shop.start()
    shop.stop()
    shop.stop()
    with amqp.connect(vhost.url) as connection:
        declared = connection.channel().queue_declare("payment_processing", passive=True)
    assert declared.method.consumer_count == 0
