"""The check of notebook 05's safe order: exchange, queue, message and confirm, one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from labkit.checks import NotYet
from labkit.exercises._looking import connected, delete, ready, refusal_of

HandOver = Callable[[BlockingChannel, bytes], object]

EXCHANGE, QUEUE, KEY = "exercise.safe", "exercise.safe.orders", "order.created"
BODIES = (b"order 1", b"order 2")


def _declare_exchange(channel: BlockingChannel, kind: str) -> None:
    channel.exchange_declare(EXCHANGE, exchange_type=kind, durable=True)


def check_hand_over(hand_over: HandOver, url: str) -> None:
    """Looks at what the learner's function declares and how it publishes.

    Raises:
        NotYet: one of the four things is missing that a kill does not forgive.
    """
    with connected(url) as ours, connected(url) as learners:
        _clear(ours)
        try:
            confirmed: list[bool] = []
            for body in BODIES:
                _hand_over(hand_over, learners.channel(), body, confirmed)
            _look_at_exchange(ours)
            _look_at_queue(ours)
            # Confirms first: what was published without may not have arrived by now.
            _look_at_confirms(confirmed)
            _look_at_messages(ours.channel())
        finally:
            if learners.is_open:  # first: an exclusive queue can't be deleted by anybody else
                learners.close()
            _clear(ours)


def _clear(connection: pika.BlockingConnection) -> None:
    """Removes what an attempt has left."""
    delete(connection, QUEUE)
    connection.channel().exchange_delete(EXCHANGE)


def _hand_over(
    hand_over: HandOver, channel: BlockingChannel, body: bytes, confirmed: list[bool]
) -> None:
    publish = channel.basic_publish

    def basic_publish(*args: Any, **kwargs: Any) -> None:
        confirmed.append(bool(getattr(channel, "_delivery_confirmation", False)))
        publish(*args, **kwargs)

    channel.basic_publish = basic_publish
    hand_over(channel, body)


def _look_at_exchange(connection: pika.BlockingConnection) -> None:
    if refusal_of(connection, lambda c: c.exchange_declare(EXCHANGE, passive=True)):
        raise NotYet(
            f"After your function there is no exchange {EXCHANGE!r}",
            "it is declared",
            "exchange_declare is missing, or the name differs",
        )
    # Declared once more as it should be; its type is the learner's choice.
    for kind in ("direct", "topic", "fanout", "headers"):
        refusal = refusal_of(connection, partial(_declare_exchange, kind=kind))
        if "'durable'" in refusal or "'auto_delete'" in refusal:
            raise NotYet(
                f"The exchange {EXCHANGE!r} does not last",
                "durable=True, and not auto_delete",
                "exchange_declare makes a transient one unless it is told otherwise; up to "
                "RabbitMQ 4.1 it would be gone after the kill, and its bindings with it",
            )
        if "'type'" not in refusal:
            return


def _look_at_queue(connection: pika.BlockingConnection) -> None:
    refusal = refusal_of(connection, lambda c: c.queue_declare(QUEUE, passive=True))
    if refusal.startswith("404"):
        raise NotYet(
            f"After your function there is no queue {QUEUE!r}",
            "it is declared",
            "queue_declare is missing, or the name differs",
        )
    refusal = refusal or refusal_of(connection, lambda c: c.queue_declare(QUEUE, durable=True))
    if refusal.startswith("405"):
        raise NotYet(
            f"The queue {QUEUE!r} is exclusive",
            "a queue that outlives the connection",
            "exclusive=True ties a queue to the connection that declares it",
        )
    if "'durable'" in refusal or "'auto_delete'" in refusal:
        raise NotYet(
            f"The queue {QUEUE!r} does not last",
            "durable=True, and not auto_delete",
            "queue_declare makes a transient queue unless it is told otherwise: the kill would "
            "take it with all that is in it",
        )


def _look_at_messages(channel: BlockingChannel) -> None:
    for body in BODIES:
        method, properties, found = channel.basic_get(QUEUE, auto_ack=True)
        if method is None:
            raise NotYet(
                f"{body.decode()!r} is not in the queue {QUEUE!r}",
                "each order that is handed over is there",
                f"the queue is bound to {EXCHANGE!r} by {KEY!r}, before the order is published "
                "with this routing key: without a binding it reaches nobody, and no error tells",
            )
        if method.exchange != EXCHANGE:
            raise NotYet(
                f"{found.decode(errors='replace')!r} came by the exchange "
                f"{method.exchange or '(default)'!r}",
                f"by {EXCHANGE!r}",
                "basic_publish takes the exchange first, then the routing key",
            )
        if found != body:
            raise NotYet(
                f"In the queue is {found!r}", f"{body!r}, as it was handed over", "a changed body"
            )
        if properties.delivery_mode != 2:
            raise NotYet(
                f"{body.decode()!r} is in the queue with delivery mode {properties.delivery_mode}",
                "delivery_mode=2, which makes it persistent",
                "without pika.BasicProperties(delivery_mode=2) a message is not kept, "
                "however durable its queue",
            )
    if ready(channel, QUEUE):
        raise NotYet(
            "After two orders there are more than two messages in the queue",
            "one for each",
            "published twice, or the queue is bound twice by different keys",
        )


def _look_at_confirms(confirmed: list[bool]) -> None:
    if not confirmed:
        raise NotYet(
            "Your function did not publish on the channel that it was given",
            "channel.basic_publish(...)",
            "a channel or a connection of its own",
        )
    if not all(confirmed):
        raise NotYet(
            "The channel was not in confirm mode when the order was published",
            "basic_publish returns when the broker has taken charge of the order",
            "channel.confirm_delivery() is missing, or comes after the publish. Without it "
            "basic_publish returns when the order is in the socket, which a kill does not forgive",
        )
