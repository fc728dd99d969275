"""The check of notebook 06's handler: a line in the ledger for each event, whatever happens."""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotYet
from labkit.exercises._looking import connected, waiting
from labkit.exercises._plug import Plug, PulledPlug, WatchedDatabase, database
from labkit.shop.inbox import MessageInbox
from labkit.shop.orders import EventType, Order, OrderEvent

Handler = Callable[..., object]

LEDGER = "CREATE TABLE IF NOT EXISTS ledger (order_id TEXT, type TEXT, amount INTEGER)"
#: Four messages need four deliveries and one more after a crash; with this many, something loops.
MOST_DELIVERIES = 20


def book(connection: sqlite3.Connection, event: OrderEvent) -> None:
    """Writes an event's line into the ledger, in the caller's transaction."""
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?)", (event.order_id, event.type, event.amount)
    )


def _event(order_id: str, type: EventType) -> OrderEvent:
    order = Order(
        order_id=order_id,
        basket=order_id,
        customer_email=f"{order_id}@example.com",
        product_id="mug",
        quantity=1,
        amount=1200,
    )
    return OrderEvent.about(order, type)


def _messages() -> list[OrderEvent]:
    """Two events of one order, a copy of the first, and another order; new ids each time."""
    created, paid = _event("order-001", "ORDER_CREATED"), _event("order-001", "PAYMENT_COMPLETED")
    return [created, paid, created, _event("order-002", "ORDER_CREATED")]


class _Run:
    """The four messages, given to the learner's handler once, with the plug pulled or not.

    Attributes:
        events: what the messages tell, in their order.
        lines: how often the ledger holds each line, by order id and type.
        plug: what was passed.
        again: events that were delivered once more after the plug was pulled.
        left: messages that the handler left unanswered.
    """

    def __init__(
        self,
        on_event: Handler,
        connection: pika.BlockingConnection,
        books: WatchedDatabase,
        plug: Plug,
    ) -> None:
        self.plug = plug
        self.events = _messages()
        self.again: list[OrderEvent] = []
        self.left = 0
        queue = f"check-{uuid.uuid4().hex[:8]}"
        ours = connection.channel()
        ours.queue_declare(queue, durable=True)
        try:
            for event in self.events:
                amqp.publish(ours, "", queue, event.to_json(), delivery_mode=1)
            for table in ("ledger", "seen_messages"):
                books.write(f"DELETE FROM {table}")
            books.plug = plug
            self._deliver(on_event, connection.channel(), queue, books)
            rows = books.rows("SELECT order_id, type FROM ledger")
            self.lines = Counter((str(order_id), str(kind)) for order_id, kind in rows)
        finally:
            books.plug = Plug()
            ours.queue_delete(queue)

    def _deliver(
        self, on_event: Handler, channel: BlockingChannel, queue: str, books: WatchedDatabase
    ) -> None:
        give_back = channel.basic_nack
        self.plug.watch(channel, "basic_ack", "basic_nack", "basic_reject")
        for _ in range(MOST_DELIVERIES):
            method, properties, body = channel.basic_get(queue)
            if method is None:
                give_back(delivery_tag=0, multiple=True, requeue=True)
                self.left = len(waiting(channel, queue))
                return
            if self.plug.pulled and method.redelivered:
                self.again.append(OrderEvent.read(body))
            try:
                on_event(channel, method, properties, body, books)
            except PulledPlug:
                # The program starts again, and this time nothing happens. What it had not answered
                # goes back, as the broker does it for a connection that is lost.
                self.plug.end()
                books.plug = Plug()
                give_back(delivery_tag=0, multiple=True, requeue=True)
        raise NotYet(
            f"After {MOST_DELIVERIES} deliveries of 4 messages, there is still one to come",
            "each message is acknowledged, a copy as well",
            "a copy, or a message that has failed, is put back again and again",
        )

    def judge(self) -> None:
        """Returns where the ledger has a line for each event, and nothing is left.

        Raises:
            NotYet: a line is missing or there twice, or a message was not answered.
        """
        when = f"The plug was pulled {self.plug.points[-1]}: " if self.plug.pulled else ""
        for event in self.events:
            found = self.lines[event.order_id, event.type]
            line = f"the line for {event.type} of {event.order_id}"
            if found == 0:
                raise NotYet(
                    f"{when}{line} is missing from the ledger, and nobody will write it",
                    "a line for each event, written once",
                    self._why_missing(event),
                )
            if found > 1:
                raise NotYet(
                    f"{when}{line} is there {found} times",
                    "a line for each event, written once, however often its message comes",
                    self._why_twice(),
                )
        if self.left:
            raise NotYet(
                f"{when}{self.left} of 4 messages are back in the queue at the end",
                "each is acknowledged, a copy as well",
                "a way through the function without basic_ack, such as the one for a copy",
            )

    def _why_missing(self, event: OrderEvent) -> str:
        if not self.plug.pulled:
            return (
                "the order id stands where the event id belongs: an order has several events"
                if event is self.events[1]
                else "book(connection, event) is not reached, or its transaction is rolled back"
            )
        if event not in self.again:
            return (
                "the message was acknowledged before the line was committed, so it did not come "
                "again"
            )
        return (
            "the message came again and was taken for done. The mark `redelivered` does not say "
            "that the work was done, and an event id that is committed before the line does not, "
            "either: both belong in one transaction"
        )

    def _why_twice(self) -> str:
        if not self.plug.pulled:
            return "a publisher sent the message twice; nothing asks first_time whether it is new"
        return (
            "the line was committed, and the event id was not, so the message passed for new when "
            "it came again: both belong in one transaction"
        )


def check_on_event(on_event: Handler, url: str) -> None:
    """Lets the learner's handler run without a crash, then with one at each point that it passes.

    Raises:
        NotYet: the ledger misses a line, or holds one twice.
    """
    with connected(url) as connection, database(LEDGER) as books:
        MessageInbox(books)
        try:
            whole = _Run(on_event, connection, books, Plug())
            whole.judge()
            for number in range(1, len(whole.plug.points) + 1):
                _Run(on_event, connection, books, Plug(number)).judge()
        except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ChannelWrongStateError):
            raise NotYet(
                "The broker has closed the channel",
                "each delivery is acknowledged once",
                "a delivery that was acknowledged twice",
            ) from None
