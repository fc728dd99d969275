"""The check of notebook 06's relay: what it publishes, what it marks, and what a crash leaves."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotYet
from labkit.exercises._looking import connected
from labkit.exercises._plug import Plug, PulledPlug, WatchedDatabase, database
from labkit.shop.orders import Order, OrderEvent
from labkit.shop.outbox import Outbox

Relay = Callable[[Outbox, BlockingChannel, str], object]

NAMES = ("order-001", "order-002", "order-003")
IN_THE_WAY = b"something else"


def _event(order_id: str) -> OrderEvent:
    order = Order(
        order_id=order_id,
        basket=order_id,
        customer_email=f"{order_id}@example.com",
        product_id="mug",
        quantity=1,
        amount=1200,
    )
    return OrderEvent.about(order, "ORDER_CREATED")


class _Post:
    """An outbox with three messages, an exchange, and a queue behind it.

    Args:
        connection: the check's.
        books: the outbox's database.
        full: whether something else lies in the queue, so that only two of three messages find
            room, and the broker refuses the third.
        bound: whether the queue is bound to the exchange from the start.
    """

    def __init__(
        self,
        connection: pika.BlockingConnection,
        books: WatchedDatabase,
        full: bool = False,
        bound: bool = True,
    ) -> None:
        self.connection = connection
        self.books = books
        self.outbox = Outbox(books)
        books.write("DELETE FROM outbox")
        self.exchange = self.queue = f"check-{uuid.uuid4().hex[:8]}"
        self.channel = connection.channel()
        self.channel.exchange_declare(self.exchange, "topic", durable=True)
        three = {"x-max-length": 3, "x-overflow": "reject-publish"}
        self.channel.queue_declare(self.queue, durable=True, arguments=three if full else None)
        if full:
            amqp.publish(self.channel, "", self.queue, IN_THE_WAY)
        if bound:
            self.bind()
        self.got: list[str] = []
        self.persistent = True
        for name in NAMES:
            self.add(name)

    def bind(self) -> None:
        self.channel.queue_bind(self.queue, self.exchange, routing_key="order.*")

    def add(self, name: str) -> None:
        with self.outbox.transaction() as transaction:
            self.outbox.add(transaction, _event(name))

    def run(self, relay: Relay, plug: Plug | None = None, meanwhile: str = "") -> None:
        """Lets the relay run once, on a channel of its own.

        Args:
            relay: the learner's.
            plug: counts the points that it passes, and may end it.
            meanwhile: an order that somebody saves while the first message is published.
        """
        plug = self.books.plug = plug or Plug()
        channel = self.connection.channel()
        if meanwhile:
            publish = channel.basic_publish

            def basic_publish(*args: object, **kwargs: object) -> object:
                nonlocal meanwhile
                if meanwhile:
                    name, meanwhile = meanwhile, ""
                    self.add(name)
                return publish(*args, **kwargs)

            channel.basic_publish = basic_publish
        plug.watch(channel, "basic_publish")
        # The broker's refusals may end this round of a relay; the next one tries again.
        with contextlib.suppress(
            PulledPlug, pika.exceptions.NackError, pika.exceptions.UnroutableError
        ):
            relay(self.outbox, channel, self.exchange)
        plug.end()
        self.books.plug = Plug()
        if channel.is_open:
            channel.close()

    def take(self) -> list[str]:
        """Takes out of the queue what has arrived; gives the orders of all that ever has."""
        while True:
            method, properties, body = self.channel.basic_get(self.queue, auto_ack=True)
            if method is None:
                return self.got
            if body == IN_THE_WAY:
                continue
            self.persistent &= properties.delivery_mode == 2
            self.got.append(OrderEvent.read(body).order_id)

    def remove(self) -> None:
        self.channel.queue_delete(self.queue)
        self.channel.exchange_delete(self.exchange)


@contextlib.contextmanager
def _post(
    connection: pika.BlockingConnection,
    books: WatchedDatabase,
    full: bool = False,
    bound: bool = True,
) -> Iterator[_Post]:
    post = _Post(connection, books, full, bound)
    try:
        yield post
    finally:
        books.plug = Plug()
        post.remove()


def _check_plain(relay: Relay, connection: pika.BlockingConnection, books: WatchedDatabase) -> int:
    """Three messages and nothing in the way; the number of points that the relay passes."""
    plug = Plug()
    with _post(connection, books) as post:
        post.run(relay, plug)
        got = post.take()
        if got != list(NAMES):
            raise NotYet(
                f"From an outbox with three messages, the queue got: {', '.join(got) or 'nothing'}",
                ", ".join(NAMES),
                "outbox.waiting(100) gives them in their order; each is published once, to the "
                "exchange, with its routing_key",
            )
        if left := len(post.outbox.waiting(100)):
            raise NotYet(
                f"{left} of three messages are published and still wait in the outbox",
                "each is marked as sent, by outbox.mark_sent([message])",
                "the next round publishes them again, and so for ever",
            )
        if not post.persistent:
            raise NotYet(
                "The messages are not persistent",
                "delivery_mode=2",
                "a restart of the broker loses them, and the outbox has them marked as sent",
            )
        post.run(relay)
        if len(post.take()) > len(NAMES):
            raise NotYet(
                "A second round publishes what the first one has marked as sent",
                "nothing is left to do",
                "something else than outbox.waiting decides what is published",
            )
    return len(plug.points)


def _check_meanwhile(
    relay: Relay, connection: pika.BlockingConnection, books: WatchedDatabase
) -> None:
    with _post(connection, books) as post:
        post.run(relay, meanwhile="order-004")
        post.run(relay)
        if "order-004" not in post.take():
            raise NotYet(
                "While the relay published order-001, somebody saved order-004. It is marked as "
                "sent, and was never published",
                "what is marked is what was published, and nothing else",
                "the outbox is asked a second time for what to mark",
            )


def _check_refused(
    relay: Relay, connection: pika.BlockingConnection, books: WatchedDatabase
) -> None:
    """The queue has room for two messages and refuses the third, until it is emptied."""
    with _post(connection, books, full=True) as post:
        post.run(relay)
        post.take()
        post.run(relay)
        if missing := [name for name in NAMES if name not in post.take()]:
            raise NotYet(
                f"The queue was full and the broker refused {missing[0]}. It is marked as sent, "
                "and will never be",
                "what the broker refuses stays in the outbox for the next round",
                "without channel.confirm_delivery() nobody hears of a refusal. With it, "
                "basic_publish raises NackError, which must keep the message from being marked",
            )


def _check_unroutable(
    relay: Relay, connection: pika.BlockingConnection, books: WatchedDatabase
) -> None:
    with _post(connection, books, bound=False) as post:
        post.run(relay)
        post.bind()
        post.run(relay)
        if missing := [name for name in NAMES if name not in post.take()]:
            raise NotYet(
                f"No queue was bound to the exchange while {missing[0]} was published. It is "
                "marked as sent, and reached nobody",
                "what reaches no queue stays in the outbox for the next round",
                "the broker confirms a message that it throws away. With mandatory=True it gives "
                "it back, and basic_publish raises UnroutableError on a channel with confirms",
            )


def _check_crash(
    relay: Relay, connection: pika.BlockingConnection, books: WatchedDatabase, at: int
) -> None:
    plug = Plug(at)
    with _post(connection, books) as post:
        post.run(relay, plug)
        post.run(relay)
        got = list(dict.fromkeys(post.take()))
        if missing := [name for name in NAMES if name not in got]:
            raise NotYet(
                f"The plug was pulled {plug.points[-1]}: {missing[0]} is marked as sent, and was "
                "never published",
                "first published, then marked. A crash in between publishes it twice, which an "
                "inbox can mend; the other way round nobody can",
                "mark_sent comes before basic_publish",
            )
        if got != list(NAMES):
            raise NotYet(
                f"The plug was pulled {plug.points[-1]}: the queue got {', '.join(got)}",
                ", ".join(NAMES),
                "the messages are published in another order than outbox.waiting gives them",
            )


def check_relay(relay: Relay, url: str) -> None:
    """Lets the learner's relay run in fair weather, then with refusals, then with crashes.

    Raises:
        NotYet: a message is lost, not marked, or not persistent.
    """
    with connected(url) as connection, database("") as books:
        points = _check_plain(relay, connection, books)
        _check_meanwhile(relay, connection, books)
        _check_refused(relay, connection, books)
        _check_unroutable(relay, connection, books)
        for at in range(1, points + 1):
            _check_crash(relay, connection, books, at)
