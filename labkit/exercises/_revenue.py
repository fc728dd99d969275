"""Watches a learner's revenue service at work: what it takes, counts, acknowledges and loses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import Crashed
from labkit.broker import Broker
from labkit.checks import NotAttempted, NotYet
from labkit.exercises._looking import refusal_of
from labkit.shop import topology
from labkit.shop.orders import CATALOGUE, EventType, Order, OrderEvent
from labkit.start_consuming import in_background

QUEUE = "revenue"
#: The shop's own queues, which are none of a new service's business.
SHOP_QUEUES = tuple(topology.QUEUES)
PATIENCE_WALL_S = 4.0
POLL_WALL_S = 0.02

CREATED: EventType = "ORDER_CREATED"
#: What happens to whom, in this order. The kettle comes last: who has counted it has seen all.
STORY: tuple[tuple[str, int, EventType], ...] = (
    ("mug", 1, CREATED),
    ("mug", 1, "PAYMENT_COMPLETED"),
    ("mug", 2, CREATED),
    ("teapot", 1, CREATED),
    ("teapot", 1, "PAYMENT_FAILED"),
    ("mug", 1, "LABEL_PRINTED"),
    ("kettle", 1, CREATED),
)


class _Run:
    """A learner's service at work in the background, and what it does with its channel.

    Args:
        made: the learner's class.
        url: the broker's AMQP URL.
        hold: whether its handler is kept from ending, until `crash()`.
    """

    def __init__(self, made: Callable[[str], Any], url: str, hold: bool = False) -> None:
        self.service = made(url)
        missing = [n for n in ("connection", "channel", "revenue") if not hasattr(self.service, n)]
        if missing:
            raise NotYet(
                f"Your service has no `{missing[0]}`",
                "the attributes that the given __init__ makes",
                "leave __init__ as it is",
            )
        self.queue: str | None = None
        self.acked_too_soon = False
        self.in_hand = 0
        self._hold = hold
        self._crash = threading.Event()
        self._consume = self.service.channel.basic_consume
        self.service.channel.basic_consume = self._basic_consume
        self.background = in_background(self.service, "your service")

    def _basic_consume(
        self, queue: str, on_message_callback: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Any:
        self.queue = queue

        def handle(channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
            self.in_hand += 1
            if self._hold:
                self._crash.wait(PATIENCE_WALL_S)
                raise Crashed
            before, ack = dict(self.service.revenue), channel.basic_ack

            def basic_ack(*args: Any, **kwargs: Any) -> None:
                self.acked_too_soon |= dict(self.service.revenue) == before
                ack(*args, **kwargs)

            channel.basic_ack = basic_ack
            try:
                on_message_callback(channel, method, properties, body)
            finally:
                channel.basic_ack = ack

        return self._consume(queue, handle, *args, **kwargs)

    def wait(self, until: Callable[[], bool]) -> bool:
        """Waits for a condition; False where it does not come true, or the service has ended."""
        deadline = time.monotonic() + PATIENCE_WALL_S
        while not until():
            running = self.background.running  # before its failure is looked for, which ends it
            self.background.raise_if_failed()
            if not running or time.monotonic() > deadline:
                return until()
            time.sleep(POLL_WALL_S)
        return True

    def stop(self) -> None:
        """Ends it in good order, and closes its connection where its end has not."""
        with contextlib.suppress(Exception):  # a failure has been reported by `wait`
            self.background.stop()
        self._close()

    def crash(self) -> None:
        """Cuts its connection while its handler is at work."""
        amqp.drop_socket(self.service.connection)
        self._crash.set()
        self.background.join(PATIENCE_WALL_S)
        self._close()

    def _close(self) -> None:
        """Closes its connection, where its end has not, and gives the socket back in any case."""
        sock = amqp.socket_of(self.service.connection)
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            self.service.connection.close()
        if sock is not None:
            sock.close()


class _Desk:
    """The check's own way to the broker."""

    def __init__(self, connection: pika.BlockingConnection) -> None:
        self._connection = connection
        self._channel = connection.channel()
        topology.declare_exchanges(self._channel)
        for queue in SHOP_QUEUES:
            topology.declare_queue(self._channel, queue)
        self._number = 0

    def look(self, queue: str) -> tuple[int, int] | None:
        """A queue's ready messages and consumers; None where there is no such queue."""
        try:
            found = self._channel.queue_declare(queue, passive=True).method
        except pika.exceptions.ChannelClosedByBroker as exc:
            self._channel = self._connection.channel()
            # An exclusive queue of another connection is there, and may not be looked at (405).
            return None if exc.reply_code == 404 else (0, 1)
        return found.message_count, found.consumer_count

    def lasts(self, queue: str) -> bool:
        """Whether a queue is durable: to declare it so once more is refused where it is not."""
        ask = methodcaller("queue_declare", queue, durable=True)
        return "'durable'" not in refusal_of(self._connection, ask)

    def ready(self, queue: str) -> int:
        """A queue's ready messages; 0 where there is no such queue."""
        return (self.look(queue) or (0, 0))[0]

    def tell(self, product: str, quantity: int, type: EventType) -> int:
        """Publishes an event as the shop does; gives its amount in cents."""
        self._number += 1
        name, amount = f"order-{self._number}", CATALOGUE[product] * quantity
        order = Order(
            order_id=name,
            basket=name,
            customer_email="customer@example.com",
            product_id=product,
            quantity=quantity,
            amount=amount,
        )
        event = OrderEvent.about(order, type)
        amqp.publish(self._channel, topology.EXCHANGE, event.routing_key, event.to_json())
        return amount


def check_revenue(made: Callable[[str], Any], broker: Broker) -> None:
    with broker.virtual_host("revenue-check") as vhost:
        if not vhost.created:
            raise NotAttempted(
                "This check needs a virtual host of its own, and the user of this broker may not "
                "make one."
            )
        with contextlib.closing(amqp.connect(vhost.url, "check")) as connection:
            desk = _Desk(connection)
            queue = _counts_each_order_once(made, vhost.url, desk)
            _survives_a_crash(made, vhost.url, desk, queue)


def _counts_each_order_once(made: Callable[[str], Any], url: str, desk: _Desk) -> str:
    run = _Run(made, url)
    try:
        queue = _queue_of(run, desk)
        expected: dict[str, int] = {}
        for product, quantity, type in STORY:
            amount = desk.tell(product, quantity, type)
            if type == CREATED:
                expected[product] = expected.get(product, 0) + amount
        run.wait(lambda: "kettle" in run.service.revenue)
        if not run.background.running:
            raise NotYet(
                "start_consuming() came back while orders were still to come",
                "it goes on until it is stopped",
                "its last line is self.channel.start_consuming()",
            )
        _compare(dict(run.service.revenue), expected, desk.ready(queue))
        if run.acked_too_soon:
            raise NotYet(
                "Your handler acknowledged a message before it had counted it",
                "the work first, then basic_ack",
                "a crash in between would lose the message: the broker thinks that it is done",
            )
    finally:
        run.stop()
    if desk.look(queue) is None:
        raise NotYet(
            f"The queue {queue!r} was gone when your service stopped",
            "it stays, and keeps what is ordered meanwhile",
            "exclusive=True or auto_delete=True ties the queue to the service",
        )
    lasts = desk.lasts(queue)
    if queue != QUEUE or not lasts:
        raise NotYet(
            f"Your queue is named {queue!r}, and {'lasts' if lasts else 'is transient'}",
            f"it is named {QUEUE!r}, and durable, so that it outlives a restart of the broker",
            f'the whole of it is self.channel.queue_declare("{QUEUE}", durable=True)',
        )
    count = sum(type == CREATED for _, _, type in STORY)
    # The broker puts back what was not acknowledged, a moment after the connection has closed.
    if _soon(lambda: desk.ready(queue) > 0, 0.5):
        raise NotYet(
            f"When your service stopped, {desk.ready(queue)} messages that it had counted were "
            f"in {queue!r} again",
            "0: each is acknowledged, and gone",
            "no basic_ack: at its next start it would count them once more",
        )
    if desk.ready("payment_processing") != count:
        raise NotYet(
            f"Of {count} orders, {desk.ready('payment_processing')} were left for payment",
            f"{count}",
            "your service takes messages from payment's queue",
        )
    return queue


def _queue_of(run: _Run, desk: _Desk) -> str:
    """The queue from which the service consumes."""
    consumes = run.wait(lambda: run.queue is not None and (desk.look(run.queue) or (0, 0))[1] > 0)
    if run.queue in SHOP_QUEUES:
        raise NotYet(
            f"Your service consumes from {run.queue!r}, which belongs to another department",
            "a queue of its own, bound to the exchange `orders`",
            "two consumers of one queue share its messages: what yours takes, the other never sees",
        )
    if not consumes or run.queue is None:
        raise NotYet(
            "Your service does not consume from any queue",
            "a consumer on its own queue",
            "basic_consume registers it: self.channel.basic_consume(queue, self.on_message)",
        )
    time.sleep(0.1)  # for a service that binds its queue last
    return run.queue


def _compare(seen: dict[str, int], expected: dict[str, int], waiting: int) -> None:
    if seen == expected:
        return
    orders = Counter(product for product, _, type in STORY if type == CREATED)
    quantities: Counter[str] = Counter()
    for product, quantity, type in STORY:
        quantities[product] += quantity if type == CREATED else 0
    if not seen:
        cause = "is the queue bound to the exchange `orders`, with the routing key order.created?"
    elif seen in (quantities, orders):
        cause = "you count pieces or orders; revenue is the sum of each event's `amount`"
    elif any(seen.get(product, 0) > cents for product, cents in expected.items()):
        cause = (
            "an order has several events, and each carries the amount. A binding with # or * takes "
            "payment.completed, payment.failed and label.printed, too, and counts it again"
        )
    elif all(cents >= seen.get(product, 0) for product, cents in expected.items()):
        cause = "a later order of the same product replaces the sum instead of adding to it"
    else:
        cause = "look at which events went into it"
    if waiting:
        cause += f"; {waiting} messages still wait in your queue"
    raise NotYet(f"After the check's orders, revenue is {seen}", f"{expected}", cause)


def _survives_a_crash(made: Callable[[str], Any], url: str, desk: _Desk, queue: str) -> None:
    """One order comes while the service is away; then it crashes with that order in hand."""
    desk.tell("mug", 1, CREATED)
    run = _Run(made, url, hold=True)
    held = run.wait(lambda: run.in_hand > 0)
    if not held:
        run.stop()
        raise NotYet(
            f"An order came while your service was away, and it did not get it from {queue!r} "
            "when it was back",
            "the queue keeps it",
            "the queue has the same name at each start, and is not deleted or purged",
        )
    run.crash()
    if not _soon(lambda: desk.ready(queue) == 1, PATIENCE_WALL_S):
        raise NotYet(
            "Your service crashed with an order in hand, and the order is gone",
            f"it is in {queue!r} again, for the next start",
            "auto_ack=True: the broker forgets a message the moment it has sent it",
        )


def _soon(condition: Callable[[], bool], timeout_wall_s: float) -> bool:
    deadline = time.monotonic() + timeout_wall_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_WALL_S)
    return True
