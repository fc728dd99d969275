"""What an order and an event hold."""

import json

import pytest

from labkit.errors import MessageError
from labkit.shop import Order, OrderEvent, Request

ORDER = Order(
    order_id="order-1",
    basket="order-1",
    customer_email="ann@example.com",
    product_id="mug",
    quantity=2,
    amount=2400,
)


def test_an_event_comes_back_from_its_message_unchanged():
    event = OrderEvent.about(ORDER, "PAYMENT_COMPLETED")
    assert OrderEvent.read(event.to_json()) == event
    assert event.routing_key == "payment.completed"


def test_a_field_that_nobody_knows_is_ignored():
    message = json.loads(OrderEvent.about(ORDER, "ORDER_CREATED").to_json()) | {"colour": "blue"}
    assert OrderEvent.read(json.dumps(message)).order_id == "order-1"


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        (b"not json", "JSON"),
        (b"\xff\xfe", "utf-8|UTF-8|JSON"),
        (b"[]", "object|instance"),
        (b"{}", "order_id"),
        (b"null", "object|instance"),
    ],
)
def test_a_body_that_is_no_event_is_refused_with_what_is_wrong(body, seen):
    with pytest.raises(MessageError, match=seen):
        OrderEvent.read(body)


@pytest.mark.parametrize("field", list(OrderEvent.model_fields))
def test_an_event_with_a_missing_field_is_refused_by_the_fields_name(field):
    message = json.loads(OrderEvent.about(ORDER, "ORDER_CREATED").to_json())
    del message[field]
    with pytest.raises(MessageError, match=field):
        OrderEvent.read(json.dumps(message))


@pytest.mark.parametrize("quantity", [0, -1, 1.5, "2", None, 10**9])
def test_a_quantity_that_makes_no_sense_is_refused(quantity):
    wanted = {"customer_email": "ann@example.com", "product_id": "mug", "quantity": quantity}
    with pytest.raises(MessageError, match="quantity"):
        Request.read(wanted)


def test_a_product_that_the_shop_does_not_sell_is_refused():
    wanted = Request.read({"customer_email": "a@b.c", "product_id": "boat", "quantity": 1})
    with pytest.raises(MessageError, match="boat"):
        _ = wanted.amount
