"""The check of notebook 08's declaration: does the broker hand a queue to one consumer at a time?"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotAttempted, NotYet
from labkit.exercises._looking import connected, delete, refusal_of

QUEUE = "exercise.changes"
MESSAGES = 6
PATIENCE_WALL_S = 5.0

Declare = Callable[[BlockingChannel], object]


def check_declare_changes(declare_changes: Declare, url: str) -> None:
    """Returns where the queue is durable and has one active consumer, and a second one to follow.

    Raises:
        NotAttempted: there is no such queue.
        NotYet: it is not what was asked for.
    """
    with connected(url) as ours:
        delete(ours, QUEUE)
        try:
            with connected(url) as theirs:
                declare_changes(theirs.channel())
                _look(ours)
                _consume(url)
        finally:
            delete(ours, QUEUE)


def _look(connection: pika.BlockingConnection) -> None:
    refusal = refusal_of(connection, lambda c: c.queue_declare(QUEUE, passive=True))
    if refusal.startswith("405"):
        raise NotYet(
            f"{QUEUE} belongs to your connection alone",
            "any connection can consume from it",
            "exclusive=True ties the queue to one connection, and deletes it with that. It leaves "
            "one consumer, and none to take over",
        )
    if refusal:
        raise NotAttempted(f"There is no queue {QUEUE} yet.")
    refusal = refusal_of(connection, lambda c: c.queue_declare(QUEUE, durable=True))
    if "'durable'" in refusal:
        raise NotYet(
            f"{QUEUE} is not durable",
            "it is there after a restart of the broker, with its messages",
            "queue_declare without durable=True",
        )


class _Taker:
    """A consumer that takes what it gets, and keeps the bodies."""

    def __init__(self, url: str, tag: str) -> None:
        self.connection = amqp.connect(url, tag)
        self.bodies: list[int] = []
        channel = self.connection.channel()
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(QUEUE, self._take)

    def _take(self, channel: BlockingChannel, method: object, _: object, body: bytes) -> None:
        self.bodies.append(int(body))
        channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]

    def close(self) -> None:
        if self.connection.is_open:
            self.connection.close()


def _consume(url: str) -> None:
    """Has two consumers on the queue, closes the first, and sees who gets what."""
    takers: list[_Taker] = []
    try:
        with connected(url) as connection:
            channel = connection.channel()
            for name in ("first", "second"):
                takers.append(_Taker(url, name))
            _send(channel, range(MESSAGES))
            _serve(takers, MESSAGES)
            first, second = takers
            if second.bodies:
                raise NotYet(
                    f"Two consumers, {MESSAGES} messages: one got {len(first.bodies)}, "
                    f"the other {len(second.bodies)}",
                    f"{MESSAGES} and 0: one is active, the other waits for its turn",
                    "the queue hands its messages to all its consumers; the argument "
                    "x-single-active-consumer is not among those of queue_declare, or not True",
                )
            first.close()
            _send(channel, range(MESSAGES, 2 * MESSAGES))
            _serve([second], MESSAGES)
            if second.bodies != list(range(MESSAGES, 2 * MESSAGES)):
                raise NotYet(
                    f"The first consumer was closed; the second got {len(second.bodies)} of "
                    f"{MESSAGES} messages",
                    "all of them, in order",
                    "something limits the queue, or drops its messages",
                )
    except pika.exceptions.ChannelClosedByBroker as exc:
        words = re.sub(r"\s+", " ", exc.reply_text)
        raise NotYet(
            f"The broker refuses a second consumer: {exc.reply_code} {words}",
            "it may register, and waits for its turn",
            "an exclusive consumer keeps the others out, so nobody takes over",
        ) from exc
    finally:
        for taker in takers:
            taker.close()


def _send(channel: BlockingChannel, numbers: range) -> None:
    for number in numbers:
        amqp.publish(channel, "", QUEUE, str(number))


def _serve(takers: list[_Taker], wanted: int) -> None:
    """Has them take messages until so many have come, or for a while."""
    already = sum(len(taker.bodies) for taker in takers)
    deadline = time.monotonic() + PATIENCE_WALL_S
    while sum(len(taker.bodies) for taker in takers) < already + wanted:
        if time.monotonic() > deadline:
            return
        for taker in takers:
            taker.connection.process_data_events(0.02)
