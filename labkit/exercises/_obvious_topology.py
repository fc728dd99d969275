"""What the check of notebook 04's first exercise asks the broker: what is declared, who gets what."""

from __future__ import annotations

import re
from collections.abc import Callable

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotYet
from labkit.exercises._looking import delete

EXCHANGE, PAYMENT, EMAIL = "exercise.orders", "exercise.payment", "exercise.email"

Declare = Callable[[BlockingChannel], object]


def _clear(channel: BlockingChannel) -> None:
    delete(channel.connection, PAYMENT, EMAIL)
    channel.exchange_delete(EXCHANGE)


def _refusal(connection: pika.BlockingConnection, declare: Declare) -> tuple[int, str]:
    """The broker's code and words where it refuses a declaration, else 0 and no words."""
    try:
        declare(connection.channel())
    except pika.exceptions.ChannelClosedByBroker as exc:
        return exc.reply_code, exc.reply_text
    return 0, ""


def _ready(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def check_declare_orders(declare_orders: Declare, url: str) -> None:
    """Returns where what the function declares is all there, durable, and routes as asked for."""
    learners = amqp.connect(url, "exercise")
    ours = amqp.connect(url, "check")
    try:
        _clear(ours.channel())
        declare_orders(learners.channel())
        _look_at_exchange(ours)
        for queue in (PAYMENT, EMAIL):
            _look_at_queue(ours, queue)
        _probe(ours.channel())
    finally:
        if learners.is_open:  # first: a queue of its own can't be deleted by anybody else
            learners.close()
        _clear(ours.channel())
        ours.close()


def _look_at_exchange(connection: pika.BlockingConnection) -> None:
    code, _ = _refusal(connection, lambda c: c.exchange_declare(EXCHANGE, passive=True))
    if code:
        raise NotYet(
            f"There is no exchange {EXCHANGE}",
            f"the function declares {EXCHANGE}",
            "another name, or no exchange_declare",
        )
    _, text = _refusal(
        connection, lambda c: c.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    )
    if "'type'" in text:
        (kind,) = re.findall(r"current is '(\w+)'", text) or ["something else"]
        causes = {
            "fanout": "a fanout gives every queue everything, so payment gets its own news back",
            "direct": "a direct exchange can do it here; a topic also takes patterns such as "
            "payment.*, and it is what is asked for. Without exchange_type, pika declares a direct one",
        }
        raise NotYet(f"{EXCHANGE} is of type {kind}", "topic", causes.get(kind, ""))
    if "'durable'" in text:
        raise NotYet(
            f"{EXCHANGE} is not durable",
            "it is there after a restart of the broker",
            "exchange_declare without durable=True, which pika leaves out unless you say so",
        )


def _look_at_queue(connection: pika.BlockingConnection, queue: str) -> None:
    code, _ = _refusal(connection, lambda c: c.queue_declare(queue, passive=True))
    if code == 405:
        raise NotYet(
            f"{queue} belongs to your connection alone",
            "any connection can consume from it",
            "exclusive=True: such a queue goes away with the connection that made it",
        )
    if code:
        raise NotYet(f"There is no queue {queue}", f"the function declares {queue}", "another name")
    _, text = _refusal(connection, lambda c: c.queue_declare(queue, durable=True))
    if "'durable'" in text:
        raise NotYet(
            f"{queue} is not durable",
            "it is there after a restart of the broker, with its messages",
            "queue_declare without durable=True",
        )


def _probe(channel: BlockingChannel) -> None:
    """Publishes one message for each key, and counts what each queue has of it."""
    channel.confirm_delivery()
    for key, wanted in (
        ("order.created", (1, 1)),
        ("payment.completed", (0, 1)),
        ("payment.failed", (0, 1)),
        ("stock.low", (0, 0)),
    ):
        for queue in (PAYMENT, EMAIL):
            channel.queue_purge(queue)
        channel.basic_publish(EXCHANGE, key, b"a probe")
        got = (_ready(channel, PAYMENT), _ready(channel, EMAIL))
        for queue, seen, expected in zip((PAYMENT, EMAIL), got, wanted, strict=True):
            if seen == expected:
                continue
            if seen:
                cause = f"a binding that takes too much, such as # or a * too many, on {queue}"
                if queue == PAYMENT and key.startswith("payment."):
                    cause = "payment would get its own news back, and charge for it. " + cause
            else:
                cause = f"no binding of {queue} takes the routing key {key}"
            raise NotYet(
                f"A message with the routing key {key} reaches {queue} {seen} times",
                f"{expected} times",
                cause,
            )
