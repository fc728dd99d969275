"""The order service of the reliable shop: what it announces is saved together with the order."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pika.exceptions
from flask import Flask, jsonify

from labkit.background import sleep
from labkit.errors import BrokerError
from labkit.events import Recorder
from labkit.shop.announcing import Announcer
from labkit.shop.armed import Armed
from labkit.shop.order_service import OrderService
from labkit.shop.orders import Order, OrderEvent, Request
from labkit.shop.outbox import Outbox
from labkit.shop.premises import OrderBook

#: Where the order service can be made to crash, and what that leaves.
SERVICE_POINTS = {"after save": "the order is saved; whoever is to hear of it has not heard yet"}


class ReliableOrderService(OrderService):
    """Takes orders in, and loses none that it has accepted, if it has an outbox.

    With an outbox the order and its announcement are one transaction, and a relay publishes.
    Without, it saves and then publishes: a crash in between leaves an order that nobody hears
    of. Where it notices that it can't publish, it takes the order back and says so.

    Args:
        orders: its database.
        url: the broker's AMQP URL.
        recorder: where orders and publishes are noted.
        announcer: publishes at once.
        outbox: of the same database; None to publish at once.
        crash: what a crash of the whole service is.

    Attributes:
        points: where it can be made to crash.
    """

    without_broker = "the order could not be taken in; try again later"

    def __init__(
        self,
        orders: OrderBook,
        url: str,
        recorder: Recorder,
        announcer: Announcer,
        outbox: Outbox | None,
        crash: Callable[[], object],
    ) -> None:
        super().__init__(orders, url, recorder)
        self.announcer = announcer
        self.outbox = outbox
        self._crash = crash
        self.points = Armed(SERVICE_POINTS, self._crash_here)

    def start(self) -> None:
        """Nothing to catch up with: what waits in the outbox is the relay's to publish."""

    def stop(self) -> None:
        """Nothing of its own to stop."""

    def _connect(self) -> None:
        """Opens the calling thread's connection; with an outbox it is the relay that needs one."""
        if self.outbox is None:
            self.announcer.open()

    def create_order(self, wanted: Request) -> Order:
        """Accepts an order.

        Raises:
            MessageError: the shop does not sell the product.
            BrokerError: without an outbox, no broker answers; the order is marked as failed.
            sqlite3.OperationalError: the database can't be written to now; nothing is saved.
        """
        if self.outbox is None:
            return self._save_then_publish(wanted)
        with self.outbox.transaction() as connection:
            order = self.orders.insert(connection, wanted, told="received")
            self.outbox.add(connection, OrderEvent.about(order, "ORDER_CREATED"))
        self._accepted(order)
        return order

    def _save_then_publish(self, wanted: Request) -> Order:
        order = self.orders.save(wanted, told="received")
        self._accepted(order)
        try:
            self.announcer.announce("order_service", OrderEvent.about(order, "ORDER_CREATED"))
        except (BrokerError, pika.exceptions.AMQPError):
            self.orders.advance(order.order_id, "failed")
            self.orders.tell(order.order_id, "failed")
            self.recorder.record("status", "order_service", order.order_id, "failed")
            raise
        return order

    def _accepted(self, order: Order) -> None:
        self.recorder.record("status", "order_service", order.order_id, "pending")
        self.points.passes("after save")

    def _crash_here(self, crashed: threading.Event) -> None:
        """A crash of the whole service, which the thread of one request can't carry out itself."""

        def crash() -> None:
            self._crash()
            crashed.set()

        threading.Thread(target=crash, name="order_service-crash", daemon=True).start()
        while not crashed.is_set():
            sleep(0.01)  # where this is the service's own thread, the crash ends its work here

    def app(self) -> Flask:
        """Its door: `POST /orders` answers 202, or 503 where it can't; `GET /orders/<id>`."""
        app = super().app()

        @app.errorhandler(sqlite3.OperationalError)
        def locked(_: sqlite3.OperationalError) -> Any:
            return jsonify(error=self.without_broker), 503

        return app
