"""The shop through RabbitMQ as most people write it first; notebook 04 takes it apart.

Each comment says what its author took the line for. Only the two brakes are the course's own.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Self

import pika
from flask import Flask, jsonify, request
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import Crashed, stop_all
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.shop.decoupled import SAMPLES_AT_REST
from labkit.shop.departments import DepartmentError
from labkit.shop.order_service import STATUS
from labkit.shop.orders import Order, OrderEvent, Request
from labkit.shop.premises import WEB_WORKERS, Premises
from labkit.web import HttpService

#: The course's brakes: without them, what goes round in this shop goes round for ever.
CHARGES_AT_MOST = 5
REDELIVERIES_AT_MOST = 500

QUEUES = ("payment_processing", "email_notifications", "shipping_labels", "order_updates")


class ObviousShop(Premises):
    """An order service, payment, email and shipping, and one exchange between them.

    Args:
        folder: an empty folder for the databases.
        pace: shop time.
        recorder: where everything that happens is noted.
        url: the broker's AMQP URL; its virtual host must hold no other shop.

    Attributes:
        connection: the order service's connection.
        consumers: each department's consumer, by name; they can be changed before `start()`.
        brakes: how often each of the course's brakes has ended what went round, by department.

    A context manager.
    """

    def __init__(self, folder: Path, pace: Pace, recorder: Recorder, url: str) -> None:
        super().__init__(folder, pace, recorder, idempotent_payment=False)
        self.amqp_url = url
        self.brakes: Counter[str] = Counter()
        self.redeliveries = 0
        self._charges: Counter[str] = Counter()
        self.door = HttpService(self._app(), "order_service", WEB_WORKERS, recorder)
        consumer = partial(Consumer, url=url, recorder=recorder)
        self.consumers = {
            "payment": consumer(self.on_payment, "payment_processing", name="payment"),
            # Ten mails are sent at the same time.
            "email": consumer(self.on_email, "email_notifications", name="email", prefetch=10),
            "shipping": consumer(self.on_shipping, "shipping_labels", name="shipping"),
        }

    # What is declared, and by whom.

    @staticmethod
    def declare_exchange(channel: BlockingChannel) -> None:
        """What the order service does at each start."""
        # One exchange for everything: whoever is interested binds a queue to it.
        # The queues are durable, so nothing can get lost.
        channel.exchange_declare("orders", exchange_type="fanout")

    @staticmethod
    def declare_queues(channel: BlockingChannel) -> None:
        """What the departments do when they are set up."""
        for queue in QUEUES:
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, "orders")

    @staticmethod
    def publish(channel: BlockingChannel, event: OrderEvent, **properties: Any) -> None:
        """Tells the others what has happened."""
        channel.basic_publish(
            exchange="orders",
            routing_key="",
            body=event.to_json(),
            properties=pika.BasicProperties(correlation_id=event.order_id, **properties),
        )

    # The order service.

    def listen(self) -> None:
        """Follows what becomes of the orders."""
        # From here on, pika calls on_update for each message.
        self.channel.basic_consume("order_updates", self.on_update)

    def create_order(self, wanted: Request) -> Order:
        """Takes an order in."""
        # First the database, then the message: nobody hears of an order that is not saved.
        order = self.orders.save(wanted, told="received")
        # The service has a connection; every request uses it.
        self.publish(self.channel, OrderEvent.about(order, "ORDER_CREATED"), delivery_mode=2)
        return order

    def on_update(
        self, channel: BlockingChannel, method: Any, properties: Any, body: bytes
    ) -> None:
        """An order has come further."""
        event = OrderEvent.read(body)
        if event.type in STATUS:
            self.orders.advance(event.order_id, STATUS[event.type])
        channel.basic_ack(method.delivery_tag)

    def _app(self) -> Flask:
        app = Flask("order_service")
        app.config["PROPAGATE_EXCEPTIONS"] = True

        @app.post("/orders")
        def create_order() -> Any:
            order = self.create_order(Request.read(request.get_data()))
            return jsonify(order_id=order.order_id, status="received, being processed"), 202

        @app.get("/orders/<order_id>")
        def order_status(order_id: str) -> Any:
            return jsonify(order_id=order_id, status=self.orders.status(order_id))

        return app

    # The departments.

    def on_payment(
        self, channel: BlockingChannel, method: Any, properties: Any, body: bytes
    ) -> None:
        """Charges the customer, and tells the others."""
        event = OrderEvent.read(body)
        if self._charges[event.order_id] >= CHARGES_AT_MOST:  # a brake of the course
            self.brakes["payment"] += 1
            channel.basic_ack(method.delivery_tag)
            return
        # What is in payment's queue is to be paid.
        try:
            result = self.departments["payment"].handle(event)
        except DepartmentError:
            # Out of the way with it, so that it can't block the queue.
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        self._charges[event.order_id] += 1
        news = OrderEvent.about(
            event, "PAYMENT_COMPLETED" if result == "charged" else "PAYMENT_FAILED"
        )
        # Into durable queues, so it is safe there.
        self.publish(channel, news)
        channel.basic_ack(method.delivery_tag)

    def on_email(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        """Writes to the customer."""
        self.redeliveries += method.redelivered
        if self.redeliveries >= REDELIVERIES_AT_MOST:  # a brake of the course
            self.brakes["email"] += 1
            raise Crashed
        try:
            self.departments["email"].handle(OrderEvent.read(body))
        except Exception:
            # Something went wrong, so try it again.
            channel.basic_reject(method.delivery_tag, requeue=True)
        else:
            channel.basic_ack(method.delivery_tag)

    def on_shipping(
        self, channel: BlockingChannel, method: Any, properties: Any, body: bytes
    ) -> None:
        """Prints a label for what is paid."""
        event = OrderEvent.read(body)
        if event.type == "PAYMENT_COMPLETED":
            self.departments["shipping"].handle(event)
        channel.basic_ack(method.delivery_tag)

    # Opening and closing.

    def start(self) -> Self:
        """Declares what is needed, starts the departments, and opens the door.

        Raises:
            BrokerError: no broker answers.
        """
        try:
            self.open()
            # Without heartbeats, since a notebook's reader may take a break.
            self.connection = amqp.connect(self.amqp_url, "order_service", heartbeat_wall_s=0)
            self.channel = self.connection.channel()
            self.declare_exchange(self.channel)
            self.declare_queues(self.channel)
            self.listen()
            for consumer in self.consumers.values():
                consumer.start()
            self.door.start()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_quiet(self, timeout_wall_s: float = 120.0) -> None:
        """Returns when nothing waits and nothing happens, several looks in a row.

        Raises:
            ServiceError: something still does after `timeout_wall_s` real seconds.
        """
        deadline = time.monotonic() + timeout_wall_s
        if self.connection.is_open and self.channel.is_open:
            # Once the broker answers, what was published before on this channel is in the queues.
            self.channel.queue_declare("order_updates", passive=True)
        connection = amqp.connect(self.amqp_url, "wait-until-quiet")
        try:
            channel, looks, noted = connection.channel(), 0, -1
            while looks < SAMPLES_AT_REST:
                at_work = [c for c in self.consumers.values() if c.running]
                ready = sum(
                    channel.queue_declare(c.queue, passive=True).method.message_count
                    for c in at_work
                )
                before, noted = noted, len(self.recorder)
                busy = ready or noted != before or any(c.in_hand for c in at_work)
                looks = 0 if busy else looks + 1
                if time.monotonic() > deadline:
                    raise ServiceError("The shop does not come to rest.", f"{ready} still wait")
                time.sleep(0.02)
        finally:
            connection.close()

    def stop(self) -> None:
        """Closes the door and stops the departments; may be called twice.

        Raises:
            ServiceError: something did not stop, or had failed.
        """
        try:
            stop_all([self.door, *self.consumers.values()], timeout_wall_s=30.0)
        finally:
            connection = getattr(self, "connection", None)
            if connection is not None and connection.is_open:
                connection.close()
            self.close()
