"""The check of notebook 07's first exercise: where a message is after each failure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotYet
from labkit.exercises._answers import (
    dying_into,
    errors_allowed,
    learners_channel,
    messages,
    names,
    persistent,
)
from labkit.exercises._moving import check_order_of

WORK, DEAD = "exercise.work", "exercise.dead"
WAITING = {1: "exercise.work.retry.1", 2: "exercise.work.retry.2"}
Handler = Callable[..., object]


def _declare_work(channel: BlockingChannel) -> None:
    _clear_work(channel)
    channel.queue_declare(DEAD, durable=True)
    channel.queue_declare(WORK, durable=True, arguments=dying_into(DEAD))
    for queue in WAITING.values():
        channel.queue_declare(queue, durable=True)  # without a time to live: the check looks in it


def _clear_work(channel: BlockingChannel) -> None:
    for queue in (WORK, DEAD, *WAITING.values()):
        channel.queue_delete(queue)


def check_not_now(not_now: Handler, url: str) -> None:
    """Returns where a message goes where it should, failure after failure, and is never nowhere.

    Raises:
        NotYet: it does not.
    """
    ours = amqp.connect(url, "check")
    channel = ours.channel()
    channel.confirm_delivery()
    try:
        _declare_work(channel)
        message = (persistent("order-1"), b"a label")
        for failure in (1, 2, 3):
            message = _after_failure(channel, not_now, url, failure, message)
        _check_missing(channel, not_now, url)
    finally:
        if ours.is_open:
            _clear_work(ours.channel())
            ours.close()


def _fail(
    channel: BlockingChannel,
    not_now: Handler,
    url: str,
    message: tuple[Any, bytes],
    may_raise: bool = False,
) -> list[str]:
    """Delivers a message and lets the handler's work fail; what was called on its channel."""
    properties, body = message
    channel.basic_publish("", WORK, body, properties)
    with learners_channel(url) as (theirs, notes):
        method, its_properties, its_body = BlockingChannel.basic_get(theirs, WORK)
        with errors_allowed() if may_raise else contextlib.nullcontext():
            not_now(theirs, method, its_properties, its_body)
        # Whatever is unanswered goes back now, and not in the broker's own time.
        if theirs.is_open:
            BlockingChannel.basic_nack(theirs, delivery_tag=0, multiple=True, requeue=True)
        if "publish" in notes.calls:
            check_order_of(notes)
    return notes.calls


def _after_failure(
    channel: BlockingChannel, not_now: Handler, url: str, failure: int, message: tuple[Any, bytes]
) -> tuple[pika.BasicProperties, bytes]:
    """Looks where a message is after its n-th failure, and gives it as it is there."""
    calls = _fail(channel, not_now, url, message)
    wanted = WAITING.get(failure, DEAD)
    in_wanted = messages(channel, wanted, wanted=0 if "requeue" in calls else 1)
    others = [queue for queue in (WORK, DEAD, *WAITING.values()) if queue != wanted]
    elsewhere = {queue: found for queue in others if (found := messages(channel, queue))}
    after = f"After failure {failure}"
    if not calls and WORK in elsewhere:
        raise NotYet(
            f"{after} the message is in {WORK} again: not_now did not answer the delivery",
            f"it is in {wanted}",
            "a way through not_now that calls nothing on the channel",
        )
    if "requeue" in calls:
        raise NotYet(
            f"{after} the message was put back into {WORK}, at once",
            f"it is in {wanted}, and comes back when its time there is over",
            "requeue=True is no retry: it is delivered again before anything can have changed. "
            "It is also the default of basic_reject and basic_nack",
        )
    if in_wanted and elsewhere:
        raise NotYet(
            f"{after} the message is in {wanted} and also in {', '.join(elsewhere)}",
            f"in {wanted} alone",
            "the copy was published, and the delivery was not acknowledged",
        )
    if elsewhere:
        raise NotYet(
            f"{after} the message is in {', '.join(elsewhere)}",
            f"in {wanted}",
            _wrong_place(failure, elsewhere),
        )
    if not in_wanted:
        raise NotYet(
            f"{after} the message is nowhere",
            f"in {wanted}",
            "what is acknowledged and was not published is gone. A message dies, and becomes a "
            "dead letter, by basic_reject with requeue=False"
            if failure == 3
            else "a queue name that does not exist: without mandatory=True nobody is told",
        )
    if len(in_wanted) > 1:
        raise NotYet(f"{after} there are {len(in_wanted)} copies in {wanted}", "one")
    if failure < 3:
        _check_copy(in_wanted[0], failure)
    return in_wanted[0]


def _wrong_place(failure: int, elsewhere: dict[str, Any]) -> str:
    if DEAD in elsewhere:
        return "rejected too early: two failures are tried again, the third one is the last"
    if failure == 3:
        return "it would go round for ever: when x-retries says 2, both delays are used up"
    return "x-retries in the message's headers says how often it was tried again already"


def _check_copy(message: tuple[pika.BasicProperties, bytes], failure: int) -> None:
    properties, body = message
    count = (properties.headers or {}).get("x-retries")
    if count != failure:
        raise NotYet(
            f"After failure {failure} the header x-retries of the copy is {count!r}",
            f"{failure}",
            "the header is missing in the copy"
            if count is None
            else "it counts one more each time",
        )
    if body != b"a label":
        raise NotYet(f"The body of the copy is {body!r}", "that of the message", "another body")
    if properties.correlation_id != "order-1":
        raise NotYet(
            f"The correlation id of the copy is {properties.correlation_id!r}",
            "'order-1', as in the message",
            "a copy has the properties that it is given, and no others",
        )
    if properties.delivery_mode != amqp.PERSISTENT:
        raise NotYet(
            "The copy is not persistent",
            "delivery_mode=2",
            "it waits for a while, and a restart of the broker would lose it",
        )


def _check_missing(channel: BlockingChannel, not_now: Handler, url: str) -> None:
    channel.queue_delete(WAITING[1])
    _fail(channel, not_now, url, (persistent("order-2"), b"a label"), may_raise=True)
    if names(messages(channel, WORK, wanted=1)) != "order-2" and not messages(channel, DEAD):
        raise NotYet(
            f"{WAITING[1]} was missing, and the message is lost",
            f"it is still in {WORK}; an error is all right",
            "without mandatory=True the broker confirms a message that reaches no queue, and "
            "throws it away; then it is acknowledged",
        )
