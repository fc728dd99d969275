"""The check of notebook 05's loop: it stops with a backlog, and on an empty queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NoReturn

from pika.adapters.blocking_connection import BlockingChannel

from labkit.background import Background
from labkit.checks import NotYet
from labkit.exercises._looking import connected, ready

WorkUntil = Callable[[threading.Event, BlockingChannel, str, Callable[[bytes], None]], object]

PARCELS = "exercise.parcels"
PARCEL_COUNT, TOLD_AT = 40, 5
#: All may be on their way at once, so that none is late: a loop that waits for a moment without
#: messages gets none before the end.
PREFETCH = PARCEL_COUNT
#: How long the work on a parcel takes, in real seconds: long enough that the broker sends the next
#: one meanwhile, as it does to a busy consumer.
WORK_WALL_S = 0.01
#: How long an empty queue stays empty, and how long a loop may take to notice something.
QUIET_WALL_S, PATIENCE_WALL_S, ENDING_WALL_S = 1.5, 3.0, 5.0


class _Watched(threading.Event):
    """An event that counts how often somebody has looked at it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def is_set(self) -> bool:
        found = super().is_set()
        self.looks += 1  # afterwards: who sees the count knows that this look is over
        return found


def _settled(channel: BlockingChannel, wanted: int) -> int:
    """How many parcels wait, as soon as it is the wanted number, else after a while."""
    deadline = time.monotonic() + PATIENCE_WALL_S
    while (found := ready(channel, PARCELS)) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _many(count: int) -> str:
    return "1 parcel" if count == 1 else f"{count} parcels"


def check_work_until(work_until: WorkUntil, url: str) -> None:
    """Stops the learner's loop with a backlog, and on an empty queue.

    Raises:
        NotYet: it goes on, ends too soon, or loses or keeps a parcel.
    """
    with connected(url) as ours:
        channel = ours.channel()
        channel.confirm_delivery()
        try:
            _stops_with_a_backlog(work_until, url, channel)
            _stops_on_an_empty_queue(work_until, url, channel)
        finally:
            ours.channel().queue_delete(PARCELS)


def _declare(channel: BlockingChannel, parcels: int) -> None:
    channel.queue_delete(PARCELS)
    channel.queue_declare(PARCELS, durable=True)
    for number in range(1, parcels + 1):
        channel.basic_publish("", PARCELS, f"parcel {number}".encode())


def _stops_with_a_backlog(work_until: WorkUntil, url: str, channel: BlockingChannel) -> None:
    _declare(channel, PARCEL_COUNT)
    stop = threading.Event()
    handled: list[bytes] = []
    case = f"{PARCEL_COUNT} parcels wait, and stop is set while number {TOLD_AT} is handled: "

    def handle(body: bytes) -> None:
        time.sleep(WORK_WALL_S)
        handled.append(body)
        if len(handled) == TOLD_AT:
            _settled(channel, 0)  # the others are on their way
            stop.set()
        if len(handled) == PARCEL_COUNT:  # here, since such a loop may never come back
            raise NotYet(
                f"{case}your function has handled all {PARCEL_COUNT}",
                f"{TOLD_AT}, or one more",
                "nothing looks at stop.is_set() between two messages; or it is left to "
                "add_callback_threadsafe, which has its turn when no message is there any more",
            )

    with connected(url) as learners:
        theirs = learners.channel()
        theirs.basic_qos(prefetch_count=PREFETCH)
        work_until(stop, theirs, PARCELS, handle)
        _judge_count(case, len(handled))
        left = PARCEL_COUNT - len(handled)
        before = _settled(channel, left)
        if learners.is_open:
            learners.close()
        after = _settled(channel, left)
    if after < left:
        raise NotYet(
            f"{case}{_many(len(handled))} handled, and {after} left. {_many(left - after)} lost",
            f"handled and left make {PARCEL_COUNT}",
            "what is fetched ahead is acknowledged already: by auto_ack=True, or by a basic_ack "
            "that comes before handle or for messages that were not handled",
        )
    if after > left:
        raise NotYet(
            f"{case}{_many(len(handled))} handled, and {after} are in the queue again",
            f"{left}: what was handled is gone for good",
            "no basic_ack for a parcel that was handled",
        )
    if before < left:
        raise NotYet(
            f"{case}when your function has returned, {left - before} of the {left} parcels that "
            "are left are not in the queue, but still in the hands of its consumer",
            "all are back in the queue for others to take",
            "channel.cancel() at the end gives back what was fetched ahead. A message that the "
            "loop was given and did not handle needs basic_nack; or look at `stop` only after "
            "the ack, so that there is none",
        )


def _judge_count(case: str, handled: int) -> None:
    if handled < TOLD_AT:
        raise NotYet(
            f"{case}your function came back after {_many(handled)}",
            f"it goes on until stop is set: {TOLD_AT}, or one more",
            "a `return` or `break` that is reached without looking at stop",
        )
    if handled > TOLD_AT + 1:
        raise NotYet(
            f"{case}your function has handled {handled}",
            f"{TOLD_AT}, or one more",
            "stop is looked at now and then; look at it after each message",
        )


def _came_back(work: Background) -> NoReturn:
    work.raise_if_failed()
    raise NotYet(
        "On an empty queue your function came back, and stop was not set",
        "it waits for the next message",
        "the loop ends where nothing came: (None, None, None) is no reason to leave",
    )


def _stops_on_an_empty_queue(work_until: WorkUntil, url: str, channel: BlockingChannel) -> None:
    _declare(channel, 0)
    stop = _Watched()
    handled = threading.Event()
    looks = 0
    with connected(url) as learners:
        theirs = learners.channel()
        theirs.basic_qos(prefetch_count=PREFETCH)

        def handle(_body: bytes) -> None:
            nonlocal looks
            looks = stop.looks
            handled.set()

        def run(_: threading.Event) -> None:
            work_until(stop, theirs, PARCELS, handle)

        work = Background("check-work-until", run).start()
        try:
            if work.join(QUIET_WALL_S):
                _came_back(work)
            channel.basic_publish("", PARCELS, b"a late parcel")
            deadline = time.monotonic() + PATIENCE_WALL_S
            while not handled.wait(0.02) and work.running and time.monotonic() < deadline:
                pass
            if not handled.is_set():
                if not work.running:
                    _came_back(work)
                raise NotYet(
                    f"A parcel came after {QUIET_WALL_S:g} s of nothing, and was not handled",
                    "it is handled when it comes",
                    "the loop no longer looks at its queue",
                )
            # Not before the loop has looked at stop once more, and waits again.
            deadline = time.monotonic() + ENDING_WALL_S
            while stop.looks == looks and work.running and time.monotonic() < deadline:
                work.join(0.02)
            work.join(0.1)
            stop.set()
            if not work.join(PATIENCE_WALL_S):
                raise NotYet(
                    "Nothing waits in the queue, stop is set, and your function was still "
                    f"running {PATIENCE_WALL_S:g} s later",
                    "it returns within a moment",
                    "without an inactivity_timeout, `channel.consume` waits for the next message "
                    "and looks at nothing else",
                )
        finally:
            if work.running:
                channel.queue_delete(PARCELS)  # which ends whatever waits for its messages
                work.join(ENDING_WALL_S)
                work.abandon()
        if work.failure:
            raise work.failure
