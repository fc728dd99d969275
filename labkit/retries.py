"""Trying again later, with a delay that grows, and giving up in the end.

A message that can't be dealt with now goes into a waiting queue (`labkit.waiting`), and comes back
from there. All queues of a virtual host share the waiting queues, one for each delay: whoever
publishes to one names as the routing key where the message is to go afterwards, the exchange in
front of it lets every key through, and what expires keeps its key. So a queue that is deleted
while messages are to go back to it is a trouble for the others, too: from some 32 on they keep
what waits behind them from going anywhere, until the queue is there again. Nothing is lost
(measured on 3.10.8).

How often a message was tried again is counted in the header `x-retries`. RabbitMQ's own header
`x-death` counts, too, but not alike in all versions: 3.10 counts on in a copy that a client
publishes, 4.0 and 4.3 begin anew with each (measured).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.clock import Pace
from labkit.errors import InputError, ServiceError
from labkit.waiting import declare_waiting, ttl_ms

#: How often a message was tried again, an integer.
RETRIES_HEADER = "x-retries"
#: Why it was tried again the last time, a text.
BECAUSE_HEADER = "x-retried-because"
#: What keeps a message that takes the program with it, each time, from coming back for ever: a
#: quorum queue counts how often it did. From RabbitMQ 4.0 on 20 is the limit where none is set,
#: before that there is none. https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
DELIVERY_LIMIT: dict[str, object] = {"x-delivery-limit": 20}
#: The reply code of a channel that is closed because there is no such exchange.
#: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
NOT_FOUND = 404
#: What a reason is cut to: a header is no place for a traceback.
MOST_CHARACTERS = 200

#: What the broker adds when a message dies. A copy does not carry it on: 3.10 takes it for the
#: copy's own history, and drops as a cycle what comes back to a queue where it has expired before.
DEATH_HEADERS = frozenset(
    f"x-{when}-death-{what}"
    for when in ("first", "last")
    for what in ("exchange", "queue", "reason")
) | {"x-death"}
#: Further queues that the sender wanted it in (RabbitMQ's sender-selected distribution). They have
#: had it.
ROUTING_HEADERS = frozenset({"CC", "BCC"})


def growing(first_s: float, times: int, factor: float = 2.0) -> tuple[float, ...]:
    """Delays of which each is `factor` times the one before, in shop seconds.

    Raises:
        InputError: the first delay or the factor is not above 0, or `times` is negative.
    """
    if not (first_s > 0 and factor > 0 and times >= 0):
        raise InputError(
            "Delays can't grow like this.",
            f"first_s={first_s!r}, times={times!r}, factor={factor!r}",
            "give a first delay and a factor above 0, such as growing(1, times=4)",
        )
    return tuple(first_s * factor**n for n in range(times))


def retries_of(properties: pika.BasicProperties) -> int:
    """How often a message was tried again; 0 where its header says nothing that makes sense."""
    count = (properties.headers or {}).get(RETRIES_HEADER, 0)
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def copied(properties: pika.BasicProperties, headers: Mapping[str, object]) -> dict[str, Any]:
    """The properties for a copy of a message, as keywords of `pika.BasicProperties`.

    All is carried over but what would be wrong for a copy: the broker's notes on deaths, an
    expiration (the copy has a life of its own), and a user id (the broker refuses a message that
    names another user than the connection's).

    Args:
        properties: of the message.
        headers: headers to set, or to leave out where the value is None; the message's others are
            kept.
    """
    dropped = DEATH_HEADERS | ROUTING_HEADERS | set(headers)
    kept = {
        name: value for name, value in (properties.headers or {}).items() if name not in dropped
    }
    plain = {
        name: getattr(properties, name)
        for name in (
            "content_type",
            "content_encoding",
            "priority",
            "correlation_id",
            "reply_to",
            "message_id",
            "timestamp",
            "type",
            "app_id",
        )
    }
    return {name: value for name, value in plain.items() if value is not None} | {
        "delivery_mode": amqp.PERSISTENT,
        "headers": kept | {name: value for name, value in headers.items() if value is not None},
    }


@dataclass(frozen=True)
class Retries:
    """What becomes of a message that a queue's consumer can't deal with now.

    It holds no connection, so that any thread's channel can be given to it.

    Args:
        queue: where the messages come from and go back to. Its own dead letter exchange, if it
            has one, gets what was tried as often as there are delays.
        delays_s: before each further try, in shop seconds.
        pace: shop time.

    Raises:
        InputError: a delay is not above 0.
    """

    queue: str
    delays_s: Sequence[float]
    pace: Pace

    def __post_init__(self) -> None:
        for delay_s in self.delays_s:
            if not delay_s > 0:
                raise InputError(
                    "A retry needs a delay.", f"delays_s={self.delays_s!r}", "give delays above 0"
                )

    def waiting_queue(self, delay_s: float) -> str:
        """The name of the queue for one delay, and of the exchange in front of it.

        It holds the delay in real milliseconds. So other delays mean other queues, and not
        another declaration of the same queue, which the broker would refuse with 406. What waits
        in a queue of before goes back when its time is up.
        """
        return f"retry.{ttl_ms(delay_s, self.pace)}ms"

    @property
    def waiting_queues(self) -> list[str]:
        """The names of the waiting queues, in the order of the delays."""
        return list(dict.fromkeys(self.waiting_queue(delay_s) for delay_s in self.delays_s))

    def declare(self, channel: BlockingChannel) -> None:
        """Declares the waiting queues and their exchanges, which may be there already."""
        for delay_s in self.delays_s:
            name = self.waiting_queue(delay_s)
            declare_waiting(channel, name, ttl_ms(delay_s, self.pace))
            channel.exchange_declare(name, "fanout", durable=True)
            channel.queue_bind(name, name)

    def retry_later(
        self,
        channel: BlockingChannel,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
        because: object = "",
    ) -> float | None:
        """Answers a delivery that can't be dealt with now: once more after the next delay.

        A copy with a higher `x-retries` goes into the waiting queue, and when the broker has
        confirmed it, the delivery is acknowledged. A crash in between leaves both: the message
        may come twice, never not at all. After the last delay the delivery is rejected, which
        sends it to the dead letter exchange of its queue. (Whether that survives a killed broker
        is that queue's affair: with `labkit.waiting.AT_LEAST_ONCE` among its arguments it
        does.)

        Args:
            channel: the delivery's own, of its own thread; it is put into confirm mode.
            method: as pika's callback gets it.
            properties: as pika's callback gets them.
            body: as pika's callback gets it.
            because: why, such as the exception; noted in the copy's header `x-retried-because`.

        Returns:
            The delay in shop seconds, or None where the message was rejected.

        Raises:
            ServiceError: the waiting queue or its exchange is not there; the delivery is not
                answered then.
            pika.exceptions.AMQPError: the connection is lost; the delivery is not answered then.
        """
        done = retries_of(properties)
        if done >= len(self.delays_s):
            channel.basic_reject(method.delivery_tag, requeue=False)
            return None
        delay_s = self.delays_s[done]
        headers = {RETRIES_HEADER: done + 1, BECAUSE_HEADER: _in_short(because)}
        waiting = self.waiting_queue(delay_s)
        try:
            amqp.publish(channel, waiting, self.queue, body, **copied(properties, headers))
        except (pika.exceptions.UnroutableError, pika.exceptions.ChannelClosedByBroker) as exc:
            if getattr(exc, "reply_code", NOT_FOUND) != NOT_FOUND:
                raise  # the broker has closed the channel over something else
            raise ServiceError(
                "A message can't be kept for a later try.",
                f"the queue {waiting!r}, or the exchange of that name, is not there",
                "declare both before the consumer starts: declare_retries(channel, ...)",
            ) from exc
        channel.basic_ack(method.delivery_tag)
        return delay_s


def declare_retries(
    channel: BlockingChannel, queue: str, delays_s: Sequence[float], pace: Pace
) -> Retries:
    """Declares the waiting queues for a queue's retries.

    Args:
        channel: any open channel.
        queue: where the messages come from and go back to.
        delays_s: before each further try, in shop seconds, such as `growing(1, times=4)`.
        pace: shop time.

    Returns:
        What to call in the queue's handler: `retries.retry_later(channel, method, properties,
        body)`.

    Raises:
        InputError: a delay is not above 0.
    """
    retries = Retries(queue, tuple(delays_s), pace)
    retries.declare(channel)
    return retries


def _in_short(because: object) -> str:
    text = " ".join(str(because).split())
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."
