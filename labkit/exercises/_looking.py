"""Looks at a broker's state from a check's own connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from operator import methodcaller

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp

#: A broker puts messages back behind a closed consumer's back; by then it has, in real seconds.
SETTLED_WALL_S = 4.0


@contextlib.contextmanager
def connected(url: str) -> Iterator[pika.BlockingConnection]:
    """A connection, closed at the end.

    Raises:
        BrokerError: no broker answers.
    """
    connection = amqp.connect(url, "check")
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def ready(channel: BlockingChannel, queue: str) -> int:
    """How many messages wait in a queue."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def settled(channel: BlockingChannel, queue: str, wanted: int) -> int:
    """How many messages wait, as soon as it is the wanted number, else after a while."""
    deadline = time.monotonic() + SETTLED_WALL_S
    while (found := ready(channel, queue)) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def waiting(channel: BlockingChannel, queue: str) -> list[str]:
    """Takes every message out of a queue, and gives their bodies."""
    bodies: list[str] = []
    while True:
        delivery, _, body = channel.basic_get(queue, auto_ack=True)
        if delivery is None:
            return bodies
        bodies.append(body.decode())


def refusal_of(
    connection: pika.BlockingConnection, ask: Callable[[BlockingChannel], object]
) -> str:
    """What the broker has against a declaration, which closes the channel; "" if nothing."""
    channel = connection.channel()
    try:
        ask(channel)
    except pika.exceptions.ChannelClosedByBroker as exc:
        return f"{exc.reply_code} {exc.reply_text}"
    channel.close()
    return ""


def delete(connection: pika.BlockingConnection, *queues: str) -> None:
    """Deletes queues; an exclusive one goes by itself, a moment after its connection.

    Nobody else can delete such a queue (405), so its connection must be closed before.
    """
    deadline = time.monotonic() + SETTLED_WALL_S
    for queue in queues:
        ask = methodcaller("queue_delete", queue)
        while refusal_of(connection, ask) and time.monotonic() < deadline:
            time.sleep(0.02)
