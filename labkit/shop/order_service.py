"""The decoupled order service: saves the order, announces it, and answers at once."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pika.exceptions
from flask import Flask, jsonify, request
from pika.adapters.blocking_connection import BlockingChannel

from labkit.amqp import Publisher
from labkit.background import Background
from labkit.errors import BrokerError, MessageError
from labkit.events import Recorder
from labkit.shop.door import door_app
from labkit.shop.orders import Order, OrderEvent, Request
from labkit.shop.premises import OrderBook
from labkit.shop.topology import EXCHANGE

#: What an event means for the status of its order.
STATUS = {"PAYMENT_COMPLETED": "paid", "PAYMENT_FAILED": "declined", "LABEL_PRINTED": "completed"}

MARK_EVERY_WALL_S = 0.5


class OrderService:
    """Knows orders and the exchange, and none of the departments.

    An order is saved, then published. A crash in between leaves an order in the database that
    nobody else has heard of. So each is saved as not announced yet, and marked once the broker has
    confirmed it; what is not marked at the next `start()` is published then. An order that was
    published and not marked in time is announced twice, which the departments must stand.

    Args:
        orders: its database.
        url: the broker's AMQP URL.
        recorder: where orders and publishes are noted.
    """

    without_broker = "saved; it will be processed once the broker is back"

    def __init__(self, orders: OrderBook, url: str, recorder: Recorder) -> None:
        self.orders = orders
        self.recorder = recorder
        self._publisher = Publisher(url, "order_service")
        self._confirmed: list[str] = []
        self._lock = threading.Lock()
        self._marker = Background("announcements", self._mark_regularly)

    def start(self) -> None:
        """Announces what a crash left unannounced, and begins to mark."""
        for order in self.orders.unannounced():
            self._announce(order)
        self._marker.start()

    def stop(self) -> None:
        """Marks the last ones and closes its connections."""
        try:
            self._marker.stop()
            self._mark()
        finally:
            self._publisher.close()

    def prepare(self) -> None:
        """Opens what the calling thread needs for its first order, so that no customer waits."""
        self.orders.database.open()
        with contextlib.suppress(BrokerError, pika.exceptions.AMQPError):
            self._connect()  # where the broker is away, the first order after it is back does

    def _connect(self) -> None:
        """Opens the calling thread's connection to the broker."""
        self._publisher.open()

    def create_order(self, wanted: Request) -> Order:
        """Accepts an order: it is on disk and the broker has taken charge of it on return.

        Raises:
            MessageError: the shop does not sell the product.
            BrokerError: no broker answers; the order is saved, and announced at the next start.
        """
        order = self.orders.save(wanted, told="received")
        self.recorder.record("status", "order_service", order.order_id, "pending")
        self._announce(order)
        return order

    def _announce(self, order: Order) -> None:
        event = OrderEvent.about(order, "ORDER_CREATED")
        # Before the publish: a fast consumer may record its delivery before the confirm is here.
        self.recorder.record("published", "order_service", order.order_id, event.routing_key)
        self._publisher.publish(
            EXCHANGE,
            event.routing_key,
            event.to_json(),
            correlation_id=order.order_id,
            message_id=event.event_id,
            content_type="application/json",
        )
        with self._lock:
            self._confirmed.append(order.order_id)

    def _mark(self) -> None:
        with self._lock:
            confirmed, self._confirmed = self._confirmed, []
        if confirmed:
            self.orders.mark_announced(confirmed)

    def _mark_regularly(self, stop: threading.Event) -> None:
        while not stop.wait(MARK_EVERY_WALL_S):
            self._mark()

    def on_update(
        self,
        channel: BlockingChannel,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        """Takes a message from `order_updates`: the order has come further."""
        self.follow(OrderEvent.read(body))
        channel.basic_ack(method.delivery_tag)

    def follow(self, event: OrderEvent) -> None:
        """Brings the order's status forward; the same event twice changes nothing.

        Raises:
            MessageError: there is no such order; recorded.
        """
        status = STATUS.get(event.type)
        if not status:
            return
        if self.orders.advance(event.order_id, status):
            self.recorder.record("status", "order_service", event.order_id, status)
        elif self.orders.status(event.order_id) is None:
            unknown = MessageError(
                "The order service has no such order.",
                f"order_id is {event.order_id!r}",
                "look where the event comes from: the shop accepts an order before it tells of it",
            )
            self.recorder.record("failed", "order_service", event.order_id, unknown.failed)
            raise unknown

    def app(self) -> Flask:
        """Its door: `POST /orders` answers 202, or 503 without a broker; `GET /orders/<id>`."""
        app = door_app(self.orders)

        @app.post("/orders")
        def create_order() -> Any:
            try:
                order = self.create_order(Request.read(request.get_data()))
            except MessageError as exc:
                return jsonify(error=str(exc)), 422
            except (BrokerError, pika.exceptions.AMQPError):
                return jsonify(error=self.without_broker), 503
            return jsonify(order_id=order.order_id, status="received, being processed"), 202

        return app
