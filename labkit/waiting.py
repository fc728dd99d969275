"""Waiting queues: a message comes to its queue when its time is up, as a clock made of a queue.

Nobody consumes from a waiting queue. It has a time to live (`x-message-ttl`) and a dead letter
exchange, the default one, which routes by queue name: what expires is in the queue that it is
meant for. Each delay has a queue of its own, since messages expire at the head of a queue alone,
where a short delay would wait behind a long one.

Waiting queues are quorum queues that dead-letter at least once: what expires leaves the queue
when the queue that it goes to has confirmed it. A classic queue does not wait for that, and a
broker that is killed while messages expire loses some (measured on 3.10.8 in three kills: 43 to 72
of some hundreds, and nearly all that had come back where others went in meanwhile; at-least-once
lost none in either case).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.clock import Pace
from labkit.errors import InputError

#: Arguments of a queue whose dead letters are kept until they have arrived (3.10 and later). It
#: takes a quorum queue, and a full queue that refuses, which without a length limit none does.
#: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
AT_LEAST_ONCE: dict[str, object] = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


def ttl_ms(delay_s: float, pace: Pace) -> int:
    """A delay in shop seconds as a time to live: whole real milliseconds, 1 at least."""
    return max(1, round(1000 * pace.to_wall(delay_s)))


def declare_waiting(
    channel: BlockingChannel, name: str, wait_ms: int, queue: str | None = None
) -> None:
    """Declares a waiting queue, which may be there already.

    Args:
        channel: any open channel.
        name: of the waiting queue.
        wait_ms: how long messages wait in it, in real milliseconds.
        queue: where they go when their time is up; each to the queue that its routing key names,
            if left out.

    Raises:
        pika.exceptions.ChannelClosedByBroker: one of this name is there with other arguments.
    """
    arguments = AT_LEAST_ONCE | {"x-dead-letter-exchange": "", "x-message-ttl": wait_ms}
    if queue is not None:
        arguments["x-dead-letter-routing-key"] = queue
    channel.queue_declare(name, durable=True, arguments=arguments)


def deliver_later(
    channel: BlockingChannel,
    queue: str,
    body: bytes | str | Mapping[str, Any],
    delay_s: float,
    pace: Pace,
    **properties: Any,
) -> None:
    """Has a message arrive in a queue after a delay, as a reminder does; never before it.

    Returns when the broker has confirmed that it has the message, which a killed broker does not
    lose either. Each delay makes a queue that stays, so this is for a few fixed delays. What is
    due at a date belongs into a database, and is published when it is due.

    Args:
        channel: any open channel; it is put into confirm mode.
        queue: where it arrives.
        body: bytes, text, or a mapping, which is sent as JSON.
        delay_s: after so many shop seconds.
        pace: shop time.
        properties: more message properties, as in `pika.BasicProperties`.

    Raises:
        InputError: the delay is not above 0.
        pika.exceptions.AMQPError: the connection is lost; the message may be there or not.
    """
    if not delay_s > 0:
        raise InputError(
            "A message can't be delivered before it is sent.",
            f"delay_s={delay_s!r}",
            "give a delay above 0, or publish it to the queue itself",
        )
    wait_ms = ttl_ms(delay_s, pace)
    name = f"{queue}.later.{wait_ms}ms"
    declare_waiting(channel, name, wait_ms, queue)
    amqp.publish(channel, "", name, body, **properties)
