"""A department behind a queue: how it works on a message, and how it answers the broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit.clock import Pace
from labkit.errors import BrokerError, MessageError
from labkit.events import Recorder
from labkit.retries import Retries
from labkit.shop import topology
from labkit.shop.announcing import Announcer
from labkit.shop.decoupled import FOLLOW_UPS, PAUSE_S
from labkit.shop.departments import Department, DepartmentError
from labkit.shop.guarantees import Guarantees
from labkit.shop.inbox import MessageInbox
from labkit.shop.orders import Order, OrderEvent
from labkit.shop.outbox import Outbox

#: What a department can't help, and what may be over in a while. SQLite calls a file that
#: somebody else writes to an operational error.
NOT_NOW = (DepartmentError, sqlite3.OperationalError)

#: What a department's work says of a message that it has worked on before.
SEEN = "seen before"


class Work:
    """A department's work on a message, and what it tells the others, as the guarantees say.

    Args:
        department: whose work.
        outbox: where what it tells is saved; None to publish at once.
        inbox: where the messages that it has worked on are noted; None to note none.
        announcer: publishes at once.
    """

    def __init__(
        self,
        department: Department,
        outbox: Outbox | None,
        inbox: MessageInbox | None,
        announcer: Announcer,
    ) -> None:
        self.department = department
        self.outbox = outbox
        self.inbox = inbox
        self.announcer = announcer

    def __call__(self, event: OrderEvent) -> None:
        """Does the work for an event, unless it is done.

        Raises:
            DepartmentError: it can't be done now.
            sqlite3.OperationalError: the same, for the database's sake.
        """
        if self.inbox is not None and self.inbox.knows(event.event_id):
            self.inbox.stop_copy(event.event_id)
            self.department.recorder.record("skipped", self.department.name, event.order_id)
            return
        result = self.department.handle(event, self._once)
        if self.outbox is None:
            news = self._news(event, result)
            if news is not None:
                self.announcer.announce(self.department.name, news)

    def _once(self, event: Order) -> str:
        """Both parts of the work; the second is one transaction, with all that belongs to it."""
        assert isinstance(event, OrderEvent)
        # The world outside can't be rolled back. It may be asked twice, and knows by the key.
        answer = self.department.ask(event)
        with self._transaction() as connection:
            # Two threads may have the same message in hand, after a connection was lost.
            if self.inbox is not None and not self.inbox.first_time(connection, event.event_id):
                return SEEN
            result = self.department.note(connection, event, answer)
            news = self._news(event, result)
            if self.outbox is not None and news is not None:
                self.outbox.add(connection, news)
        return result

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return (self.outbox or self.department.database).transaction()

    def _news(self, event: OrderEvent, result: str) -> OrderEvent | None:
        follow_up = FOLLOW_UPS.get((self.department.name, result))
        return None if follow_up is None else OrderEvent.about(event, follow_up)


class Desk:
    """A service behind a queue: reads a message, has the work done, and answers the broker.

    Args:
        service: its name.
        work: what to do about an event.
        guarantees: how to answer.
        retries: for what can't be done now.
        pace: shop time.
        recorder: where it is noted what could not be read.
    """

    def __init__(
        self,
        service: str,
        work: Callable[[OrderEvent], object],
        guarantees: Guarantees,
        retries: Retries,
        pace: Pace,
        recorder: Recorder,
    ) -> None:
        self.service = service
        self.work = work
        self.guarantees = guarantees
        self.retries = retries
        self.pace = pace
        self.recorder = recorder

    def __call__(
        self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        """Takes one message, as pika calls it."""
        try:
            self.work(self._read(properties, body))
        except NOT_NOW as exc:
            self._try_later(channel, method, properties, body, exc)
        except (pika.exceptions.AMQPError, BrokerError, OSError):
            raise  # the broker is away: the consumer connects again, and gets the message again
        except Exception:
            # It would fail each time: out of the way with it, where somebody can look at it.
            if self.guarantees.ack_after_work:
                channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            if self.guarantees.ack_after_work:
                channel.basic_ack(method.delivery_tag)

    def _read(self, properties: pika.BasicProperties, body: bytes) -> OrderEvent:
        """The event in a message, which must be one that this service has to do with.

        Raises:
            MessageError: it is not; recorded with the reason.
        """
        try:
            event = OrderEvent.read(body)
            queue = topology.queue_of(self.service)
            if not topology.concerns(queue, event.routing_key):
                raise MessageError(
                    f"{self.service} has nothing to do with this event.",
                    f"type is {event.type}",
                    f"don't send it to {queue}",
                )
        except MessageError as exc:
            reason = f"{exc.failed} {exc.seen}"
            self.recorder.record("failed", self.service, properties.correlation_id, reason)
            raise
        return event

    def _try_later(
        self,
        channel: BlockingChannel,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
        why: Exception,
    ) -> None:
        if not self.guarantees.ack_after_work:
            return  # the broker has forgotten the message: it is lost
        if self.guarantees.retries:
            self.retries.retry_later(channel, method, properties, body, because=why)
        else:
            self.pace.wait(PAUSE_S)
            channel.basic_nack(method.delivery_tag, requeue=True)
