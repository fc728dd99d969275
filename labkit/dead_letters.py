"""Dead letters: why each message died, and putting one, some or all back without losing one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.retries import BECAUSE_HEADER, RETRIES_HEADER, copied, retries_of

#: How often a message was put back by hand, an integer.
PUT_BACK_HEADER = "x-put-back"


@dataclass(frozen=True)
class DeadLetter:
    """A message in a dead letter queue, and what is known of its death.

    The first five come from RabbitMQ's header `x-death`, of which only the latest entry is used:
    what the older ones count differs from version to version.

    Attributes:
        queue: where it died, else None: it was sent here, and did not die at all.
        reason: `rejected`, `expired`, `maxlen` (the queue was full) or `delivery_limit`; None
            where it did not die.
        order_id: its correlation id.
        retries: how often it was tried again before (`x-retries`).
        because: why it was tried again the last time (`x-retried-because`).
        put_back: how often it was put back by hand before.
        body: the message.
        properties: the message's properties, headers included.
    """

    queue: str | None
    reason: str | None
    order_id: str | None
    retries: int
    because: str
    put_back: int
    body: bytes = field(repr=False)
    properties: pika.BasicProperties = field(repr=False)


@dataclass(frozen=True)
class PutBack:
    """What became of the letters that were there.

    Attributes:
        done: those that are in their queue again, in their order.
        stuck: those that should be and could not: it is not known where they came from, or that
            queue is not there any more. They are still dead letters.
        left: how many others are still there.
    """

    done: list[DeadLetter]
    stuck: list[DeadLetter]
    left: int


def read(properties: pika.BasicProperties, body: bytes) -> DeadLetter:
    """What a message from a dead letter queue says of its death."""
    headers = properties.headers or {}
    deaths = headers.get("x-death")
    # The latest comes first. Anybody may send a header of this name, so nothing is taken on trust.
    latest = deaths[0] if isinstance(deaths, list) and deaths else {}
    return DeadLetter(
        queue=_text(latest, "queue"),
        reason=_text(latest, "reason"),
        order_id=properties.correlation_id,
        retries=retries_of(properties),
        because=_text(headers, BECAUSE_HEADER) or "",
        put_back=_number(headers, PUT_BACK_HEADER),
        body=body,
        properties=properties,
    )


def look(channel: BlockingChannel, queue: str, most: int | None = None) -> list[DeadLetter]:
    """Reads a dead letter queue, and leaves everything in it.

    The letters are taken and given back, so for that moment nobody else finds them there. Each
    bears the mark `redelivered` from then on; a quorum queue with a delivery limit may count it.

    Args:
        channel: any open channel; its connection is used, by a channel of its own.
        queue: the dead letter queue.
        most: how many to read; all that are there if left out.

    Raises:
        pika.exceptions.ChannelClosedByBroker: there is no such queue.
    """
    with _taken(channel, queue, most) as (_, deliveries):
        return [read(properties, body) for _, properties, body in deliveries]


def put_back(
    channel: BlockingChannel,
    queue: str,
    which: Callable[[DeadLetter], object] = lambda letter: True,
    to: str | None = None,
) -> PutBack:
    """Puts dead letters back into the queues where they died, and loses none.

    Each is published to its queue, and when the broker has confirmed that, it is acknowledged
    here. A crash in between leaves it in both places, and never in none. It begins anew: its
    count of retries is taken off, and `x-put-back` counts one more. Only what is there at the
    start is looked at, so that a letter that dies again at once does not go round.

    Args:
        channel: any open channel; its connection is used, by a channel of its own.
        queue: the dead letter queue.
        which: says of a letter whether to put it back; every letter if left out.
        to: the queue to put them into, in place of the one where each died.

    Raises:
        pika.exceptions.ChannelClosedByBroker: there is no such queue.
        pika.exceptions.AMQPError: the connection is lost; what was not confirmed is still there.
    """
    done: list[DeadLetter] = []
    stuck: list[DeadLetter] = []
    seen = 0
    with _taken(channel, queue) as (own, deliveries):
        for method, properties, body in deliveries:
            seen += 1
            letter = read(properties, body)
            if not which(letter):
                continue
            target = to or letter.queue
            headers = {
                RETRIES_HEADER: None,
                BECAUSE_HEADER: None,
                PUT_BACK_HEADER: letter.put_back + 1,
            }
            try:
                if target is None:
                    raise pika.exceptions.UnroutableError([])
                amqp.publish(own, "", target, body, **copied(properties, headers))
            except pika.exceptions.UnroutableError:
                stuck.append(letter)
                continue
            own.basic_ack(method.delivery_tag)
            done.append(letter)
    return PutBack(done, stuck, seen - len(done) - len(stuck))


Delivery = tuple[Any, pika.BasicProperties, bytes]


@contextlib.contextmanager
def _taken(
    channel: BlockingChannel, queue: str, most: int | None = None
) -> Iterator[tuple[BlockingChannel, Iterator[Delivery]]]:
    """A channel of its own and the messages there; what is not acknowledged is given back."""
    own = channel.connection.channel()
    ready = int(own.queue_declare(queue, passive=True).method.message_count)
    number = ready if most is None else min(most, ready)

    def deliveries() -> Iterator[Delivery]:
        for _ in range(number):
            method, properties, body = own.basic_get(queue)
            if method is None:
                return
            yield method, properties, body

    try:
        yield own, deliveries()
    finally:
        if own.is_open:
            # All at once, and before the channel closes: the broker gives them back by then.
            own.basic_nack(delivery_tag=0, multiple=True, requeue=True)
            own.close()


def _text(table: object, name: str) -> str | None:
    value = table.get(name) if isinstance(table, Mapping) else None
    return value if isinstance(value, str) and value else None


def _number(table: Mapping[str, object], name: str) -> int:
    value = table.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
