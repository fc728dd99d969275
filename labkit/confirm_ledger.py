"""Which messages wait to be sent, which are unconfirmed, which failed; any thread may ask."""

from __future__ import annotations

import functools
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

import pika
from pika import spec

#: A publisher names few routes, or each of them once.
ROUTES_KEPT = 256

Outcome = Literal["confirmed", "returned", "nacked", "refused", "unknown"]


@dataclass(slots=True, eq=False)
class Publication:
    """A message that was given to a window, and what became of it.

    Attributes:
        exchange: where it was published.
        routing_key: with which routing key.
        body: its bytes.
        properties: its properties.
        outcome: None until the broker has answered; then `"confirmed"`: the broker has taken
            charge of it; `"returned"`: no queue is bound for it; `"nacked"`: a queue did not take
            it, as a full one does; `"refused"`: the broker closed the channel or the
            connection because of it; `"unknown"`: the connection ended before the answer.
        reason: the broker's words, where it did not take charge.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    outcome: Outcome | None = None
    reason: str = ""

    def check(self) -> None:
        """Raises what pika would raise when it is sent, such as for a routing key too long."""
        _check_route(self.exchange, self.routing_key)
        self.properties.encode()

    def came_back_as(
        self, method: spec.Basic.Return, properties: pika.BasicProperties, body: bytes
    ) -> bool:
        """Whether a message that the broker returned is this one, or as good as this one."""
        mine, other = self.properties, properties
        return (
            not self.reason  # else it has come back before, and this is one like it
            and self.body == body
            and (self.exchange, self.routing_key) == (method.exchange, method.routing_key)
            and (mine.message_id, mine.correlation_id) == (other.message_id, other.correlation_id)
        )


@functools.lru_cache(maxsize=ROUTES_KEPT)
def _check_route(exchange: str, routing_key: str) -> None:
    spec.Basic.Publish(exchange=exchange, routing_key=routing_key).encode()


class Ledger:
    """The books of a window.

    Args:
        size: how many publications may be unconfirmed.
        again: whether one that lost its connection waits to be sent again, or has failed.

    Attributes:
        unconfirmed: how many wait to be sent or for an answer.
        confirmed: how many the broker has taken charge of.
        published_again: how many had to be sent once more.
        alone: so many of the next ones go out alone, each after the answer to the one before.
        failed: those that failed, until somebody takes them.
        open: whether publications are taken at all.
    """

    def __init__(self, size: int, again: bool) -> None:
        self.size = size
        self.again = again
        self.unconfirmed = 0
        self.confirmed = 0
        self.published_again = 0
        self.alone = 0
        self.failed: list[Publication] = []
        self.open = False
        self._changed = threading.Condition()
        self._waiting: deque[Publication] = deque()
        self._limits: list[int] = []
        self._turn_asked = True

    def start(self) -> None:
        """Takes publications from now on."""
        with self._changed:
            self.open = True

    def add(self, publication: Publication, timeout_wall_s: float) -> tuple[bool, bool]:
        """Takes a publication, once there is room.

        A full window has to be half empty before more is taken: a change of threads for every
        single message would cost more than sending it.

        Returns:
            Whether it was taken, and whether the sender has to be told.
        """
        with self._changed:
            if self.unconfirmed >= self.size:
                self._wait(self.size // 2, timeout_wall_s)
            if not self.open or self.unconfirmed >= self.size:
                return False, False
            self._waiting.append(publication)
            self.unconfirmed += 1
            tell, self._turn_asked = not self._turn_asked, True
            return True, tell

    def wait_until_answered(self, timeout_wall_s: float) -> bool:
        """Waits until nothing is unconfirmed; False where that takes longer."""
        with self._changed:
            self._wait(0, timeout_wall_s)
            return not self.unconfirmed

    def _wait(self, limit: int, timeout_wall_s: float) -> None:
        self._limits.append(limit)
        try:
            self._changed.wait_for(
                lambda: self.unconfirmed <= limit or not self.open, timeout_wall_s
            )
        finally:
            self._limits.remove(limit)

    def take_failed(self) -> list[Publication]:
        """Those that failed since the last call."""
        with self._changed:
            failed, self.failed = self.failed, []
        return failed

    @property
    def waiting(self) -> int:
        """How many publications wait to be sent."""
        return len(self._waiting)

    def to_send(self, at_most: int) -> list[Publication]:
        """Hands over what waits to be sent.

        Where nothing waits any more, whatever is added after this asks for a turn again; else it
        is for the sender to come back.
        """
        with self._changed:
            number = min(at_most, len(self._waiting))
            self._turn_asked = number < len(self._waiting)
            return [self._waiting.popleft() for _ in range(number)]

    def lost(self, publications: list[Publication], why: str) -> None:
        """Their connection or channel ended before the broker's answer."""
        if not self.again:
            self.settle(publications, "unknown", why)
            return
        with self._changed:
            self._waiting.extendleft(reversed(publications))
            self.published_again += len(publications)

    def settle(self, publications: list[Publication], outcome: Outcome, reason: str = "") -> None:
        """The broker has answered, or never will."""
        with self._changed:
            for publication in publications:
                if outcome == "confirmed" and publication.reason:
                    publication.outcome = "returned"  # the reason came first, then the confirm
                else:
                    publication.outcome = outcome
                    publication.reason = reason
                if publication.outcome == "confirmed":
                    self.confirmed += 1
                else:
                    self.failed.append(publication)
            self.unconfirmed -= len(publications)
            # Whoever waits is woken when the wait is over, not once for every confirm.
            if self._limits and self.unconfirmed <= max(self._limits):
                self._changed.notify_all()

    def end(self, why: str) -> None:
        """No answer will come any more."""
        with self._changed:
            self.open = False
            self._turn_asked = True
            left = list(self._waiting)
            self._waiting.clear()
            self.settle(left, "unknown", why)
            self._changed.notify_all()
