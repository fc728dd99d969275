"""The transactional outbox: what happened, and the message that tells of it, saved as one.

A service that saves and then publishes can crash in between, and nobody hears of what it saved.
One that publishes and then saves can crash in between, too, and has told of what is not so. No
transaction spans a database and a broker. So the message is saved into a table beside the data,
in the same transaction, and a relay publishes what it finds there and marks it as sent.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

import pika.exceptions

from labkit.background import STOP_TIMEOUT_WALL_S, Background, Managed, stop_all
from labkit.broker.opening import describe
from labkit.confirms import ConfirmWindow
from labkit.errors import LabError, ServiceError
from labkit.events import Recorder
from labkit.shop.announcing import FireAndForget
from labkit.shop.armed import Armed
from labkit.shop.database import Database
from labkit.shop.orders import OrderEvent
from labkit.shop.topology import EXCHANGE

#: A relay takes so many messages at a time: one window of confirms, one transaction to mark them.
BATCH = 200
#: A relay that was not told of news looks by itself after so long: another process may have added.
LOOK_EVERY_WALL_S = 0.5
#: A relay that can't publish tries again after so long.
TRY_AGAIN_WALL_S = 0.2

#: Where a relay can be made to crash, and what that leaves.
RELAY_POINTS = {
    "before publish": "nothing is sent; all is sent after the restart",
    "between publish and mark": "sent and not marked; all is sent a second time after the restart",
    "after mark": "sent and marked; nothing is sent twice",
}


class Waiting(NamedTuple):
    """A message in an outbox that is not sent yet.

    Attributes:
        position: its place in the order of saving.
        event_id: the event's id, which becomes the message's.
        order_id: which order it is about.
        routing_key: what the exchange routes it by.
        body: the event as JSON.
    """

    position: int
    event_id: str
    order_id: str
    routing_key: str
    body: str


class Outbox:
    """The table `outbox` in a service's database.

    Args:
        database: the one that the service's data is in, since a transaction can't span two.

    Attributes:
        news: set whenever something was added, for a relay that waits.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.news = threading.Event()
        database.write(
            """CREATE TABLE IF NOT EXISTS outbox (
                position INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT, order_id TEXT,
                routing_key TEXT, body TEXT, sent INTEGER DEFAULT 0)"""
        )
        # Of the rows that wait alone, so that a look costs the same however many were sent.
        database.write("CREATE INDEX IF NOT EXISTS waiting ON outbox (position) WHERE sent = 0")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the database; a relay hears of it once it is committed."""
        with self.database.transaction() as connection:
            yield connection
        self.news.set()

    @staticmethod
    def add(connection: sqlite3.Connection, event: OrderEvent) -> None:
        """Saves a message in the caller's transaction: it is sent if that is committed.

        Args:
            connection: inside a transaction, best of this outbox's `transaction()`.
            event: what happened.
        """
        connection.execute(
            "INSERT INTO outbox (event_id, order_id, routing_key, body) VALUES (?, ?, ?, ?)",
            (event.event_id, event.order_id, event.routing_key, event.to_json().decode()),
        )

    def waiting(self, limit: int) -> list[Waiting]:
        """The first messages that are not sent yet, in the order in which they were saved."""
        found = self.database.rows(
            "SELECT position, event_id, order_id, routing_key, body FROM outbox"
            " WHERE sent = 0 ORDER BY position LIMIT ?",
            (limit,),
        )
        return [Waiting(*row) for row in found]

    def mark_sent(self, messages: Iterable[Waiting]) -> None:
        """Marks messages as sent, in one transaction."""
        with self.database.transaction() as connection:
            connection.executemany(
                "UPDATE outbox SET sent = 1 WHERE position = ?", [(m.position,) for m in messages]
            )

    @property
    def unsent(self) -> int:
        """How many messages are not sent yet."""
        return int(self.database.rows("SELECT count(*) FROM outbox WHERE sent = 0")[0][0])


class Relay(Managed):
    """Publishes what an outbox holds, in order, and marks what the broker has taken charge of.

    It reads a batch, publishes it, waits for the confirms, marks the batch in one transaction. It
    may crash at any line: what is not marked is published again after the restart. So a message
    may arrive twice, with the same event id, and never not at all.

    Args:
        outbox: what to publish from.
        url: the broker's AMQP URL.
        service: whose messages they are; the relay itself is called `<service>-relay`.
        recorder: where publishes, crashes and reconnects are noted.
        confirms: whether it waits for confirms. Without, it marks what it has merely written to
            a socket.

    A context manager. A broker that is away is waited for.
    """

    def __init__(
        self, outbox: Outbox, url: str, service: str, recorder: Recorder, confirms: bool = True
    ) -> None:
        self.outbox = outbox
        self.url = url
        self.name = f"{service}-relay"
        self.service = service
        self.recorder = recorder
        self.confirms = confirms
        self._background = Background(self.name, self._run, wake=outbox.news.set)
        self._points = Armed(RELAY_POINTS, self._crash_here)
        self._way: ConfirmWindow | FireAndForget | None = None

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return self._background.running

    def start(self) -> Self:
        """Begins to publish what is there; does nothing where it runs."""
        self._background.start()
        return self

    def signal(self) -> None:
        """Asks it to stop after the batch in hand, and does not wait."""
        self._background.signal()

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for its end; True where it has ended."""
        ended = self._background.join(timeout_wall_s)
        way = self._way
        if ended and way is not None:  # a crash may have come in the way of closing it
            self._way = None
            with contextlib.suppress(LabError):
                way.stop()
        return ended

    def raise_if_failed(self) -> None:
        """Raises what ended it, if it was a failure."""
        self._background.raise_if_failed()

    def stop(self) -> None:
        """Ends it after the batch in hand; may be called twice. What is left waits for `start()`.

        Raises:
            ServiceError: it does not end, or had failed.
        """
        stop_all([self], STOP_TIMEOUT_WALL_S)

    def crash(self) -> None:
        """Ends it wherever it is."""
        if self.running:
            self.recorder.record("crashed", self.name)
        self._background.crash()
        self.outbox.news.set()
        self.join(STOP_TIMEOUT_WALL_S)

    def crash_at(self, point: str) -> threading.Event:
        """Has it crash at a point of its next batch, one of `RELAY_POINTS`.

        Returns:
            Set once it has crashed.

        Raises:
            InputError: there is no such point.
        """
        return self._points.arm(point)

    def disarm(self) -> bool:
        """Takes back what `crash_at()` has asked for; False where there is nothing to take back."""
        return self._points.disarm()

    def _crash_here(self, crashed: threading.Event) -> None:
        self._background.stopping.set()
        self.recorder.record("crashed", self.name)
        crashed.set()

    def restart(self) -> Self:
        """Starts it again after `stop()` or `crash()`."""
        self.join(STOP_TIMEOUT_WALL_S)
        return self.start()

    # What follows runs in its own thread.

    def _run(self, stop: threading.Event) -> None:
        # A mark that a power cut takes away costs a second sending, so no commit of the relay has
        # to wait for the disk.
        self.outbox.database.relax()
        while not stop.is_set():
            try:
                way = self._way = self._new_way()
                with way:
                    while not stop.is_set():
                        self._relay(way, stop)
            except (LabError, pika.exceptions.AMQPError, OSError, sqlite3.OperationalError) as exc:
                self.recorder.record("reconnecting", self.name, None, describe(exc))
                stop.wait(TRY_AGAIN_WALL_S)

    def _new_way(self) -> ConfirmWindow | FireAndForget:
        if self.confirms:
            # What a lost connection leaves unanswered is not marked, and read again.
            return ConfirmWindow(self.url, BATCH, again=False, name=self.name)
        return FireAndForget(self.url, self.name)

    def _relay(self, way: ConfirmWindow | FireAndForget, stop: threading.Event) -> None:
        """One batch: read, publish, mark."""
        news = self.outbox.news
        news.clear()  # before the look: what is added after it sets it again
        batch = self.outbox.waiting(BATCH)
        if not batch:
            news.wait(LOOK_EVERY_WALL_S)
            return
        self._points.passes("before publish")
        for message in batch:
            self.recorder.record("published", self.service, message.order_id, message.routing_key)
            way.publish(EXCHANGE, message.routing_key, message.body, **properties_of(message))
        if isinstance(way, ConfirmWindow):
            await_confirms(way, stop)
        self._points.passes("between publish and mark")
        self.outbox.mark_sent(batch)
        self._points.passes("after mark")


def properties_of(message: Waiting) -> dict[str, str]:
    """The properties of the message that tells of an event."""
    return {
        "correlation_id": message.order_id,
        "message_id": message.event_id,
        "content_type": "application/json",
    }


def await_confirms(window: ConfirmWindow, stop: threading.Event) -> None:
    """Returns when the broker has taken charge of all that was published.

    Raises:
        ServiceError: it has not, for one of them at least, or the connection is lost.
    """
    while True:
        try:
            failed = window.flush(LOOK_EVERY_WALL_S)
            break
        except ServiceError:  # no answer yet
            if stop.is_set() or not window.connected:
                raise
    if failed:
        first = failed[0]
        raise ServiceError(
            f"{len(failed)} messages were not confirmed.",
            f"{first.routing_key}: {first.outcome} {first.reason}",
            "they are published again",
        )
