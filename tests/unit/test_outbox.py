"""The outbox's table: a message is there if the data is, in the order of saving, until marked."""

import contextlib

import pytest

from labkit.shop.database import Database
from labkit.shop.orders import Order, OrderEvent
from labkit.shop.outbox import Outbox


@pytest.fixture
def outbox(tmp_path):
    database = Database(tmp_path / "service.db", "CREATE TABLE data (order_id TEXT)")
    yield Outbox(database)
    database.close()


def event(number):
    name = f"order-{number}"
    fields = {"customer_email": "a@b.c", "product_id": "mug", "quantity": 1, "amount": 1200}
    return OrderEvent.about(Order(order_id=name, basket=name, **fields), "ORDER_CREATED")


def save(outbox, number, then=None):
    """Saves an order and what tells of it, together."""
    with outbox.transaction() as connection:
        connection.execute("INSERT INTO data VALUES (?)", (f"order-{number}",))
        outbox.add(connection, event(number))
        if then is not None:
            raise then


def test_what_is_saved_waits_in_the_order_of_saving(outbox):
    for number in range(5):
        save(outbox, number)
    assert [m.order_id for m in outbox.waiting(10)] == [f"order-{n}" for n in range(5)]
    assert [m.order_id for m in outbox.waiting(2)] == ["order-0", "order-1"]
    assert outbox.unsent == 5


def test_a_message_tells_what_it_was_given(outbox):
    said = event(1)
    with outbox.transaction() as connection:
        outbox.add(connection, said)
    (message,) = outbox.waiting(10)
    assert OrderEvent.read(message.body) == said
    assert (message.event_id, message.routing_key) == (said.event_id, "order.created")


def test_data_that_is_not_saved_is_not_told_of(outbox):
    with contextlib.suppress(RuntimeError):
        save(outbox, 1, then=RuntimeError("the service dies here"))
    assert outbox.waiting(10) == []
    assert outbox.database.rows("SELECT 1 FROM data") == []
    assert not outbox.news.is_set()


def test_a_relay_that_waits_hears_of_news_when_they_are_committed(outbox):
    with outbox.transaction() as connection:
        outbox.add(connection, event(1))
        assert not outbox.news.is_set()
    assert outbox.news.is_set()


def test_what_is_marked_does_not_wait_and_the_rest_does(outbox):
    for number in range(4):
        save(outbox, number)
    first, _, third, _ = outbox.waiting(10)
    outbox.mark_sent([first, third])
    assert [m.order_id for m in outbox.waiting(10)] == ["order-1", "order-3"]
    assert outbox.unsent == 2


def test_what_waits_outlives_the_process(outbox, tmp_path):
    save(outbox, 1)
    outbox.database.close()
    database = Database(tmp_path / "service.db", "")
    assert [m.order_id for m in Outbox(database).waiting(10)] == ["order-1"]
    database.close()
