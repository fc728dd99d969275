"""A crash at a chosen point of a consumer's work: before it, after it, or after its answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from pika.adapters.blocking_connection import BlockingChannel

from labkit.background import Crashed
from labkit.errors import InputError

#: Each point, and what a crash there leaves.
POINTS = {
    "before work": "the message has arrived, nothing is done for it",
    "after work": "the work is done, the acknowledgement is not sent",
    "after ack": "the broker has the acknowledgement",
}


class _Wanted:
    """One crash that somebody asked for."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.crashed = threading.Event()


class CrashPoint:
    """Armed with a point, it crashes the consumer at that point of the next delivery.

    It stays armed until a delivery reaches the point: one that the handler puts back or rejects
    never does, nor does one whose connection is lost on the way.

    Args:
        crash: crashes the whole consumer; called by the thread that has reached the point.

    Attributes:
        armed: whether it waits for a delivery; a consumer looks at it for each message.
    """

    def __init__(self, crash: Callable[[], object]) -> None:
        self.armed = False
        self._crash = crash
        self._wanted: _Wanted | None = None
        self._lock = threading.Lock()

    def arm(self, point: str) -> threading.Event:
        """Waits from now on for a delivery to reach the point, and for no other point.

        Returns:
            Set once the consumer has crashed there.

        Raises:
            InputError: there is no such point.
        """
        if point not in POINTS:
            raise InputError(
                "There is no such point to crash at.",
                f"point={point!r}",
                f"choose one of {', '.join(map(repr, POINTS))}",
            )
        wanted = _Wanted(point)
        with self._lock:
            self._wanted, self.armed = wanted, True
        return wanted.crashed

    def disarm(self) -> bool:
        """Waits no longer; False where it did not wait any more."""
        with self._lock:
            waited = self._wanted is not None
            self._wanted, self.armed = None, False
            return waited

    @contextlib.contextmanager
    def watch(self, channel: BlockingChannel, auto_ack: bool = False) -> Iterator[None]:
        """Crashes the consumer where the handler, which runs in the block, reaches the point.

        Args:
            channel: the delivery's; what the block acknowledges on it is watched.
            auto_ack: whether the broker takes each delivery for acknowledged by itself; then the
                last two points are reached when the block ends.
        """
        with self._lock:
            wanted = self._wanted if self.armed else None
            self.armed = False  # no other thread of the consumer watches its own delivery
        if wanted is None:
            yield
            return
        try:
            if wanted.point == "before work":
                self._spring(wanted)
            with self._watched(channel, wanted):
                yield
            if auto_ack:
                self._spring(wanted)
        finally:
            with self._lock:
                self.armed = self._wanted is not None  # the next delivery, then

    @contextlib.contextmanager
    def _watched(self, channel: BlockingChannel, wanted: _Wanted) -> Iterator[None]:
        """Stands in for the channel's `basic_ack` during the block."""
        ack, was_own = channel.basic_ack, "basic_ack" in vars(channel)

        def basic_ack(delivery_tag: int = 0, multiple: bool = False) -> None:
            if wanted.point == "after work":
                self._spring(wanted)
            ack(delivery_tag, multiple)
            if wanted.point == "after ack":
                _await_broker(channel)
                self._spring(wanted)

        channel.basic_ack = basic_ack
        try:
            yield
        finally:
            if was_own:
                channel.basic_ack = ack
            else:
                del channel.basic_ack

    def _spring(self, wanted: _Wanted) -> None:
        """Crashes the consumer and this thread with it, unless that is no longer wanted.

        Raises:
            Crashed: the thread goes no further.
        """
        with self._lock:
            if self._wanted is not wanted:
                return
            self._wanted = None
        self._crash()
        wanted.crashed.set()
        raise Crashed


def _await_broker(channel: BlockingChannel) -> None:
    """Returns once the broker has worked through all that was sent on the channel.

    It answers no `basic.ack`. But it works through a channel's methods in order, and answers a
    passive declare, here of an exchange that every virtual host has.
    """
    channel.exchange_declare("amq.direct", passive=True)
