"""Publisher confirms in three styles: one at a time, in batches, in a window of outstanding ones.

A confirm is the broker's word that it has taken charge of a message. The styles differ in when the
publisher waits for it: after each message, after so many, or only while too many are outstanding.
Fewer waits mean more messages a second, and more of them in doubt when the connection breaks.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import STOP_TIMEOUT_WALL_S, Background, Managed, checkpoint
from labkit.broker import address
from labkit.broker.opening import describe, explained, parameters
from labkit.confirm_ledger import Ledger, Publication
from labkit.confirm_session import Session
from labkit.errors import InputError, ServiceError

Body = bytes | str | Mapping[str, Any]
Message = tuple[str, str, Body]

START_TIMEOUT_WALL_S = 15.0
#: How long a publisher waits at a full window, as while the broker is away.
FULL_TIMEOUT_WALL_S = 60.0
#: A lost connection is tried again after this time, then after twice as long each time.
FIRST_BACKOFF_WALL_S = 0.05
MAX_BACKOFF_WALL_S = 0.5


def publish_each(channel: BlockingChannel, messages: Iterable[Message], **properties: Any) -> int:
    """Publishes messages and waits for the broker's confirm after each.

    Args:
        channel: an open channel of a `pika.BlockingConnection`.
        messages: exchange, routing key and body of each.
        properties: of all of them, as in `pika.BasicProperties`; they are persistent.

    Returns:
        How many there were; each is confirmed.

    Raises:
        pika.exceptions.UnroutableError: no queue is bound for one; the rest stays unpublished.
        pika.exceptions.NackError: a queue did not take one; the rest stays unpublished.
    """
    confirmed = 0
    for message in messages:
        amqp.publish(channel, *message, **properties)
        confirmed += 1
    return confirmed


def publish_in_batches(
    window: ConfirmWindow, messages: Iterable[Message], size: int = 100, **properties: Any
) -> list[Publication]:
    """Publishes `size` messages, waits until all of them are confirmed, then goes on.

    Args:
        window: one that runs, as large as a batch at least.
        messages: exchange, routing key and body of each.
        size: messages in a batch.
        properties: of all of them, as in `pika.BasicProperties`.

    Returns:
        Those that were not confirmed, with the reason; none if all went well.

    Raises:
        InputError: a batch is larger than the window.
        ServiceError: the broker is away for too long.
    """
    if not 1 <= size <= window.size:
        raise InputError(
            "A batch must fit into the window.",
            f"size={size}, and the window holds {window.size}",
            "make the window as large: ConfirmWindow(url, size=...)",
        )
    failed, rest = [], iter(messages)
    while batch := list(itertools.islice(rest, size)):
        for message in batch:
            window.publish(*message, **properties)
        failed += window.flush()
    return failed


def publish_in_window(
    window: ConfirmWindow, messages: Iterable[Message], **properties: Any
) -> list[Publication]:
    """Publishes messages, waiting only where the window is full, and at the end for the last ones.

    Args:
        window: one that runs.
        messages: exchange, routing key and body of each.
        properties: of all of them, as in `pika.BasicProperties`.

    Returns:
        Those that were not confirmed, with the reason; none if all went well.

    Raises:
        ServiceError: the broker is away for too long.
    """
    for message in messages:
        window.publish(*message, **properties)
    return window.flush()


@functools.cache
def _persistent(content_type: str) -> pika.BasicProperties:
    """The properties of all messages that have none of their own."""
    return pika.BasicProperties(delivery_mode=amqp.PERSISTENT, content_type=content_type)


class ConfirmWindow(Managed):
    """Publishes without waiting for each confirm, with at most `size` of them outstanding.

    It runs a `pika.SelectConnection` in a thread of its own, which hears confirms while messages
    go out; any thread may publish. Where the connection is lost, another one is opened.

    Args:
        url: the broker's AMQP URL.
        size: how many messages may be without a confirm.
        again: what becomes of those when the connection is lost. True: they are published again,
            so that some may arrive twice, but none not at all. False: they are reported with the
            outcome `"unknown"`, and it is for the caller to decide.
        name: of the thread and of the connection.

    Attributes:
        connections: how many were opened so far.

    A context manager. Leaving it waits for the outstanding confirms.
    """

    def __init__(
        self, url: str, size: int = 100, *, again: bool = True, name: str = "confirm-window"
    ) -> None:
        if size < 1:
            raise InputError("A window holds a message or more.", f"size={size}", "size=100")
        self.url = url
        self.size = size
        self.name = name
        self.connections = 0
        self._ledger = Ledger(size, again)
        self._background = Background(name, self._run, wake=self._wake)
        self._session: Session | None = None
        self._up = threading.Event()
        self._trouble = ""  # why there is no connection, if there is none

    @property
    def confirmed(self) -> int:
        """How many messages the broker has taken charge of."""
        return self._ledger.confirmed

    @property
    def unconfirmed(self) -> int:
        """How many messages wait to be sent or for the broker's answer."""
        return self._ledger.unconfirmed

    @property
    def published_again(self) -> int:
        """How many messages were sent once more after a lost connection."""
        return self._ledger.published_again

    @property
    def connected(self) -> bool:
        """Whether messages can go out at this moment."""
        session = self._session  # another thread may set it to None
        return session is not None and session.ready

    def start(self) -> Self:
        """Connects; does nothing where it runs.

        Raises:
            BrokerError: no broker answers, or it refuses the user or the virtual host.
            ServiceError: it takes longer than 15 real seconds.
        """
        if self._background.running:
            return self
        self._up.clear()
        self._ledger.start()
        self._background.start()
        if not self._up.wait(START_TIMEOUT_WALL_S) or not self._ledger.open:
            self._background.stop()  # raises what it failed with
            raise ServiceError(
                f"{self.name} did not get a connection.",
                f"nothing for {START_TIMEOUT_WALL_S:g} s",
                "`labkit doctor` tells whether the broker is well",
            )
        return self

    def publish(
        self, exchange: str, routing_key: str, body: Body, **properties: Any
    ) -> Publication:
        """Hands one persistent message over, and waits only while the window is full.

        Args:
            exchange: its name; the empty string is the default exchange.
            routing_key: what the exchange routes by.
            body: bytes, text, or a mapping, which is sent as JSON.
            properties: more message properties, as in `pika.BasicProperties`.

        Returns:
            The message, whose `outcome` is None until the broker has answered.

        Raises:
            pika.exceptions.AMQPError: a property or the routing key can't be sent.
            ServiceError: the window does not run, or stays full for 60 real seconds.
        """
        checkpoint()
        data, content_type = amqp.encode(body)
        given = _persistent(content_type)
        if properties:
            given = pika.BasicProperties(**vars(given) | properties)
        publication = Publication(exchange, routing_key, data, given)
        publication.check()  # in the caller's thread, who gets to see what is wrong
        taken, tell = self._ledger.add(publication, FULL_TIMEOUT_WALL_S)
        if not taken:
            raise self._stuck(FULL_TIMEOUT_WALL_S)
        session = self._session
        if tell and session is not None:
            session.call(session.send)
        return publication

    def flush(self, timeout_wall_s: float = 30.0) -> list[Publication]:
        """Waits until the broker has answered for every message so far.

        Returns:
            Those that failed since the last call, with `outcome` and `reason`; empty if none did.

        Raises:
            ServiceError: some are without an answer after `timeout_wall_s` real seconds.
            LabError: the window failed in the background.
        """
        if not self._ledger.wait_until_answered(timeout_wall_s):
            raise self._stuck(timeout_wall_s)
        self._background.raise_if_failed()
        return self._ledger.take_failed()

    def _stuck(self, waited_wall_s: float) -> ServiceError:
        """Why nothing goes out, as an error to raise."""
        self._background.raise_if_failed()
        if not self._ledger.open:
            return ServiceError(f"{self.name} does not run.", "", "start it before you publish")
        return ServiceError(
            f"{self.unconfirmed} messages are without a confirm after {waited_wall_s:g} s.",
            self._trouble or "the broker is connected, and does not answer",
            "`labkit doctor` tells whether the broker is well; they stay in the window meanwhile",
        )

    def stop(self, timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
        """Waits for the outstanding confirms while there is a connection, then closes it.

        What has no confirm by then gets the outcome `"unknown"`. May be called twice.

        Raises:
            ServiceError: with `again=True`, some messages failed or stayed without a confirm,
                and no `flush()` has reported them; or the thread outlives its time.
        """
        deadline = time.monotonic() + timeout_wall_s
        while self.connected and time.monotonic() < deadline:
            if self._ledger.wait_until_answered(0.1):
                break
        self._background.stop(timeout_wall_s)
        failed = self._ledger.take_failed() if self._ledger.again else []
        if failed:
            raise ServiceError(
                f"{len(failed)} messages were not confirmed.",
                f"the first, with the routing key {failed[0].routing_key!r}, is "
                f"{failed[0].outcome}: {failed[0].reason}",
                "call flush() before the window ends: it waits, and returns those that failed",
            )

    def _wake(self) -> None:
        session = self._session
        if session is not None:
            session.call(session.hang_up)

    def _run(self, stop: threading.Event) -> None:
        parts = address.parse(self.url)
        backoff_wall_s = FIRST_BACKOFF_WALL_S
        try:
            while not stop.is_set():
                session = self._session = Session(
                    self._ledger, parameters(parts, self.name), self._opened
                )
                if stop.is_set():  # set before there was a session for `_wake` to find
                    session.call(session.hang_up)
                why = session.run()
                if not (self._up.is_set() or stop.is_set()):
                    raise explained(why, parts) from why
                self._trouble = f"no connection: {describe(why)}"
                longer = min(2 * backoff_wall_s, MAX_BACKOFF_WALL_S)
                backoff_wall_s = FIRST_BACKOFF_WALL_S if session.was_open else longer
                stop.wait(backoff_wall_s)
        finally:
            self._session = None
            self._ledger.end(self._trouble or "the window was stopped")
            self._up.set()

    def _opened(self) -> None:
        self.connections += 1
        self._trouble = ""
        self._up.set()
