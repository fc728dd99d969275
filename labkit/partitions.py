"""One consumer at a time, and order for each customer: a stream of messages parted among queues.

A queue hands out its messages in order; several consumers at once lose it. Two ways keep it:

- `declare_single_active`: any number of consumers may register, one of them gets everything, and
  the broker gives it to the next when that one is gone.
- `declare`: several such queues behind one exchange. A message's routing key, such as a customer's
  email address, decides on its queue, always the same one: so each customer's messages stay in
  order, and different customers' messages are worked on side by side.

The second needs somebody who turns a key into a queue. RabbitMQ's consistent-hash exchange does,
where its plugin is enabled; elsewhere the publisher does it, by `Partitions.routing_key`, and a
direct exchange routes by the number. `Partitions.hashed_by` says which of them it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.errors import BrokerError, InputError

#: The exchange type of the plugin rabbitmq_consistent_hash_exchange.
HASH_EXCHANGE = "x-consistent-hash"
#: The argument of a queue whose consumers take turns (https://www.rabbitmq.com/docs/consumers).
SINGLE_ACTIVE = {"x-single-active-consumer": True}
#: With equal weights at their bindings, queues get equal parts of the keys.
WEIGHT = "1"


@dataclass(frozen=True)
class Partitions:
    """An exchange with several queues, each of which gets the messages of some keys.

    Attributes:
        exchange: where to publish to.
        queues: their names.
        hashed_by: `broker`, by its consistent-hash exchange, or `publisher`.
    """

    exchange: str
    queues: tuple[str, ...]
    hashed_by: str

    def routing_key(self, key: str) -> str:
        """The routing key to publish with, for what is to stay in order, such as a customer."""
        if self.hashed_by == "broker":
            return key
        return str(partition_of(key, len(self.queues)))


def partition_of(key: str, count: int) -> int:
    """In which of `count` partitions a key belongs: 0 to `count` - 1, the same in every process.

    Lamping and Veach's jump consistent hash (https://arxiv.org/abs/1406.2294), which the plugin
    uses as well: with one partition more, only the keys that go to the new one move. The two
    start from different numbers for a key, so they don't agree on its partition.

    Raises:
        InputError: there is no partition.
    """
    if count < 1:
        raise InputError("A key needs a partition.", f"count={count!r}", "choose 1 or more")
    # Not Python's hash(), which gives another number for the same text in each process.
    state = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    chosen, following = 0, 0
    while following < count:
        chosen = following
        state = (state * 2862933555777941757 + 1) % 2**64
        following = int((chosen + 1) * (2**31 / ((state >> 33) + 1)))
    return chosen


def declare_single_active(channel: BlockingChannel, queue: str, **arguments: Any) -> None:
    """Declares a durable queue with one active consumer at a time.

    Args:
        channel: an open channel of pika's.
        queue: its name.
        arguments: further ones of the queue, with underscores for dashes, such as `x_max_length`.

    Raises:
        pika.exceptions.ChannelClosedByBroker: the queue is there, with other arguments (406).
    """
    named = {key.replace("_", "-"): value for key, value in arguments.items()}
    channel.queue_declare(queue, durable=True, arguments=SINGLE_ACTIVE | named)


def broker_hashes(url: str) -> bool:
    """Whether the broker has the consistent-hash exchange.

    It tries, with an exchange that it deletes again, on a connection of its own: RabbitMQ 3.10
    closes the connection over a type of exchange that it does not know (503), 4.x the channel.

    Raises:
        BrokerError: no broker answers.
    """
    connection = amqp.connect(url, "partitions")
    try:
        channel = connection.channel()
        name = f"labkit.probe.{secrets.token_hex(4)}"
        channel.exchange_declare(name, HASH_EXCHANGE, durable=True)
        channel.exchange_delete(name)
    except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker) as exc:
        if exc.reply_code in (406, 503) and "unknown exchange type" in exc.reply_text:
            return False
        raise BrokerError(
            "The broker can't be asked for its consistent-hash exchange.",
            f"{exc.reply_code} {exc.reply_text}",
            "its user needs the right to declare exchanges",
        ) from exc
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()
    return True


def declare(
    url: str,
    exchange: str,
    count: int,
    *,
    single_active: bool = True,
    hashed_by: str | None = None,
) -> Partitions:
    """Declares an exchange with so many durable queues, `<exchange>.1` and on.

    A second call with a larger count adds queues. Keys that go to one of them have their further
    messages there, while earlier ones may still wait in the old queue.

    Args:
        url: the broker's AMQP URL.
        exchange: its name.
        count: how many queues.
        single_active: whether each has one active consumer at a time.
        hashed_by: `broker` or `publisher`; what the broker can do if left out.

    Raises:
        BrokerError: no broker answers, it has no consistent-hash exchange where `broker` is asked
            for, or there is an exchange or a queue of that name that was declared otherwise.
        InputError: the count is under 1, or nobody hashes that way.
    """
    if count < 1 or hashed_by not in (None, "broker", "publisher"):
        raise InputError(
            "The partitions can't be declared like this.",
            f"count={count!r}, hashed_by={hashed_by!r}",
            "choose a count of 1 or more, and `broker` or `publisher`",
        )
    able = broker_hashes(url) if hashed_by != "publisher" else False
    if hashed_by == "broker" and not able:
        raise BrokerError(
            "The broker has no consistent-hash exchange.",
            f"exchange type {HASH_EXCHANGE} is unknown to it",
            [
                "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange",
                'or let the publisher hash: hashed_by="publisher"',
            ],
        )
    queues = tuple(f"{exchange}.{number}" for number in range(1, count + 1))
    connection = amqp.connect(url, "partitions")
    try:
        channel = connection.channel()
        channel.exchange_declare(exchange, HASH_EXCHANGE if able else "direct", durable=True)
        for number, queue in enumerate(queues):
            if single_active:
                declare_single_active(channel, queue)
            else:
                channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, exchange, routing_key=WEIGHT if able else str(number))
    except pika.exceptions.ChannelClosedByBroker as exc:
        raise BrokerError(
            f"The exchange {exchange!r} or a queue of its can't be declared.",
            f"{exc.reply_code} {exc.reply_text}",
            "delete what an earlier version has declared, or choose another name",
        ) from exc
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()
    return Partitions(exchange, queues, "broker" if able else "publisher")
