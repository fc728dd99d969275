"""The check of notebook 02's reader: what it handles, what it leaves, what becomes of a failure."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

from pika.adapters.blocking_connection import BlockingChannel

from labkit.background import Background
from labkit.checks import NotYet
from labkit.exercises._looking import connected, settled, waiting

Handle = Callable[[bytes], object]
Take = Callable[[BlockingChannel, str, int, Handle], object]

#: So long may `take` look for messages that don't come, in real seconds.
PATIENCE_WALL_S = 6.0
#: So long may it take to end once its queue is gone, in real seconds.
ENDING_WALL_S = 2.0


class _Interrupted(Exception):  # noqa: N818 - what goes wrong in a handler, on purpose
    pass


def _text_of(body: object) -> str:
    if body is None:
        raise NotYet(
            "handle was called with None",
            "handle gets the body of a message, and is not called where there is none",
            "the queue was empty: basic_get returns (None, None, None) then",
        )
    if not isinstance(body, bytes):
        raise NotYet(
            f"handle was called with {type(body).__name__}: {body!r}",
            "handle gets the body as bytes, as pika gives it",
            "the body was changed before, or something else was handed over",
        )
    return body.decode()


@contextlib.contextmanager
def _orders(url: str, count: int) -> Iterator[tuple[BlockingChannel, str]]:
    """A queue of its own with so many orders in it, and a channel to look at it."""
    with connected(url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queue = f"check-{uuid.uuid4().hex[:8]}"
        channel.queue_declare(queue, durable=True)
        try:
            for number in range(1, count + 1):
                channel.basic_publish("", queue, f"order {number}".encode())
            yield channel, queue
        finally:
            channel.queue_delete(queue)


def _check_takes_some(take: Take, url: str) -> None:
    with _orders(url, 6) as (channel, queue), connected(url) as learners:
        handled: list[str] = []
        take(learners.channel(), queue, 4, lambda body: handled.append(_text_of(body)))
        wanted = [f"order {number}" for number in range(1, 5)]
        asked = "take(channel, queue, 4, handle), with orders 1 to 6 in the queue,"
        if len(handled) != 4:
            raise NotYet(
                f"{asked} handled {len(handled)}: {', '.join(handled) or 'none'}",
                "four",
                "the loop doesn't count" if len(handled) > 4 else "the loop ends too early",
            )
        if handled != wanted:
            raise NotYet(f"{asked} handled {', '.join(handled)}", ", ".join(wanted))
        if (left := settled(channel, queue, 2)) < 2:
            raise NotYet(
                f"{asked} left {left} for others to take",
                "two",
                "more were taken than handled: a consumer that is not cancelled has the rest "
                "delivered to it, or basic_get was called once too often",
            )
        if learners.is_open:
            learners.close()
        back = settled(channel, queue, 2)
        if back > 2:
            raise NotYet(
                f"{asked} left {back}, once its connection was closed",
                "two: what was handled is gone for good",
                f"{back - 2} of the messages were never acknowledged, so the broker put them back",
            )


def _check_takes_what_is_there(take: Take, url: str) -> None:
    with _orders(url, 2) as (channel, queue), connected(url) as learners:
        handled: list[str] = []
        theirs = learners.channel()
        work = Background(
            "check-take-what-is-there",
            lambda _stop: take(theirs, queue, 5, lambda body: handled.append(_text_of(body))),
        ).start()
        try:
            if not work.join(PATIENCE_WALL_S):
                channel.queue_delete(queue)  # which ends whatever waits for its messages
                work.join(ENDING_WALL_S)
                raise NotYet(
                    "take(channel, queue, 5, handle), with two orders in the queue, was still "
                    f"running after {PATIENCE_WALL_S:g} s",
                    "it handles the two and returns",
                    "the queue held fewer than n messages. `channel.consume` waits for more "
                    "without end; `basic_get` says by None that there is none. Or give consume "
                    "an inactivity_timeout",
                )
        finally:
            work.abandon()
        if work.failure:
            raise work.failure
        if handled != ["order 1", "order 2"]:
            raise NotYet(
                f"take(channel, queue, 5, handle), with two orders in the queue, handled "
                f"{', '.join(handled) or 'none'}",
                "order 1, order 2, and then it returns",
            )


def _check_keeps_what_failed(take: Take, url: str) -> None:
    def handle(body: bytes) -> None:
        if body == b"order 2":
            raise _Interrupted("the check lets the work on order 2 fail")

    with _orders(url, 3) as (channel, queue), connected(url) as learners:
        told = False
        try:
            take(learners.channel(), queue, 3, handle)
        except _Interrupted:
            told = True
        if learners.is_open:
            learners.close()
        settled(channel, queue, 2)
        left = waiting(channel, queue)
    failed = "handle raised an exception on order 2 of 3, and the connection was closed: "
    if "order 2" not in left:
        raise NotYet(
            f"{failed}order 2 is lost",
            "it is in the queue again, for the next consumer",
            "it was acknowledged before the work was done: by auto_ack=True, which does so on "
            "delivery, or by a basic_ack that comes before handle, or in a `finally`",
        )
    if "order 1" in left:
        raise NotYet(
            f"{failed}order 1 is in the queue again, although the work on it was done",
            "each message is acknowledged as soon as its own work is done",
            "basic_ack comes after the loop, or not at all",
        )
    if not told:
        raise NotYet(
            "handle raised an exception on order 2 of 3, and take returned as if all were well",
            "the exception reaches whoever called take",
            "an `except` swallows it: then nobody learns that order 2 failed",
        )


def check_take(take: Take, url: str) -> None:
    """Lets the learner's function take orders that are there, that fail, and that are missing.

    Raises:
        NotYet: an order is not handled, kept or left as it was asked for.
    """
    _check_takes_some(take, url)
    _check_keeps_what_failed(take, url)
    _check_takes_what_is_there(take, url)
