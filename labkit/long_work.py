"""Work that takes longer than a heartbeat: in a thread of its own, beside the connection's.

A connection that says nothing for two heartbeats is taken for dead: the broker closes it, and
delivers what was not acknowledged again. pika answers heartbeats in the thread that serves the
connection. So that thread must not do the work. Here it hands each message to a worker's thread
and goes on serving. A worker must not touch the channel, which belongs to the thread that serves
it, so it asks that thread to acknowledge, by `add_callback_threadsafe`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import STOP_TIMEOUT_WALL_S, Background, Managed, stop_all
from labkit.broker.opening import HEARTBEAT_WALL_S, describe
from labkit.errors import BrokerError, MessageError, ServiceError
from labkit.events import Recorder

START_TIMEOUT_WALL_S = 15.0
#: A lost connection is opened again after this time, again and again.
BACKOFF_WALL_S = 0.2


@dataclass(frozen=True, eq=False)
class _Job:
    """A delivery, and the channel and connection to answer it on."""

    channel: BlockingChannel
    tag: int
    order_id: str | None
    body: bytes


class LongWork(Managed):
    """Takes messages from a queue and has the work done beside the connection.

    A work that raises `MessageError` has its message rejected without requeue. Any other
    exception ends the service, and the message goes back to the queue. Where the connection is
    lost during the work, the message comes again: nothing can be acknowledged on a new one.

    Args:
        work: called with the body, in a worker's thread; when it returns, the message is
            acknowledged. It must not use the connection.
        queue: the queue's name; it must be there.
        url: the broker's AMQP URL.
        name: what events and errors call it; the queue's name if left out.
        workers: how many messages it works on at the same time; it holds no more than these.
        heartbeat_wall_s: after two of these without a sign of life either side hangs up.
        recorder: where deliveries, acknowledgements and reconnects are noted.

    A context manager. `stop()` takes no new messages, and acknowledges those in work first.
    """

    def __init__(
        self,
        work: Callable[[bytes], object],
        queue: str,
        url: str,
        *,
        name: str | None = None,
        workers: int = 1,
        heartbeat_wall_s: int = HEARTBEAT_WALL_S,
        recorder: Recorder | None = None,
    ) -> None:
        self.name = name or queue
        self.queue = queue
        self.url = url
        self._work = work
        self._heartbeat_wall_s = heartbeat_wall_s
        self._recorder = recorder
        self._jobs: _Queue = _Queue()
        self._in_work: set[_Job] = set()
        self._connection: pika.BlockingConnection | None = None
        self._ready = threading.Event()
        self._began = False
        self._owner = Background(self.name, self._own, wake=self._wake)
        self._workers = [
            Background(f"{self.name}-worker-{number}", self._serve_jobs, wake=self._end_worker)
            for number in range(1, workers + 1)
        ]

    @property
    def running(self) -> bool:
        """Whether it takes messages."""
        return self._owner.running

    def start(self) -> Self:
        """Starts its threads, and returns once it consumes; does nothing where it runs.

        Raises:
            BrokerError: no broker answers.
            ServiceError: the queue does not exist, or it takes longer than 15 real seconds.
        """
        if self.running:
            return self
        self._jobs = _Queue()
        self._ready.clear()
        self._began = False
        for background in (*self._workers, self._owner):
            background.start()
        self._ready.wait(START_TIMEOUT_WALL_S)
        if not self._began:  # what fails later, `raise_if_failed` tells
            with contextlib.suppress(Exception):
                self.stop()
            self._owner.raise_if_failed()
            raise ServiceError(
                f"{self.name} did not start to consume.",
                f"nothing for {START_TIMEOUT_WALL_S:g} s",
                "`labkit doctor` tells whether the broker is well",
            )
        return self

    def stop(self, timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
        """Finishes what is in work, acknowledges it, and ends; may be called twice.

        Raises:
            ServiceError: a work is still going on after `timeout_wall_s` real seconds, or one
                had failed.
        """
        deadline = time.monotonic() + timeout_wall_s
        try:
            stop_all([self._owner], timeout_wall_s)  # the workers go on until it has their answers
        finally:
            stop_all(self._workers, max(0.1, deadline - time.monotonic()))

    def raise_if_failed(self) -> None:
        """Raises what ended it, if it was a failure.

        Raises:
            LabError: as it was raised, else a `ServiceError` whose cause it is.
        """
        self._owner.raise_if_failed()

    # The connection's thread, the only one that touches connection and channel.

    def _own(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                try:
                    self._serve(stop)
                except (pika.exceptions.AMQPConnectionError, BrokerError, OSError) as exc:
                    if not self._began:
                        raise
                    if self._recorder is not None:
                        self._recorder.record("reconnecting", self.name, None, describe(exc))
                    stop.wait(BACKOFF_WALL_S)
        finally:
            self._ready.set()  # whoever waits for the start gets to see the failure

    def _serve(self, stop: threading.Event) -> None:
        """Consumes on a new connection until told to stop; raises where the connection is lost."""
        self._in_work = set()
        connection = self._connection = amqp.connect(self.url, self.name, self._heartbeat_wall_s)
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=len(self._workers))
            try:
                consumer = channel.basic_consume(self.queue, self._take)
            except pika.exceptions.ChannelClosedByBroker as exc:
                raise ServiceError(
                    f"{self.name} can't consume from the queue {self.queue!r}.",
                    exc.reply_text,
                    "declare the queue before the service starts",
                ) from exc
            self._began = True
            self._ready.set()
            while not stop.is_set():
                connection.process_data_events(None)  # answers heartbeats, too; `_wake` ends it
                if not channel.is_open:
                    raise ServiceError(f"{self.name} no longer gets messages.", "channel closed")
            channel.basic_cancel(consumer)
            while self._in_work:
                connection.process_data_events(None)  # each answer of a worker ends it
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                connection.close()

    def _take(
        self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        if self._owner.stopping.is_set():
            return  # unanswered: it goes back to the queue when the connection closes
        job = _Job(channel, method.delivery_tag, properties.correlation_id, body)
        self._note("redelivered" if method.redelivered else "delivered", job)
        self._in_work.add(job)
        self._jobs.put(job)

    def _answer(self, job: _Job, failure: Exception | None) -> None:
        """What a worker has asked for."""
        if job not in self._in_work or not job.channel.is_open:
            return  # of a connection that is lost: the broker has given it to somebody again
        self._in_work.discard(job)
        if failure is None:
            job.channel.basic_ack(job.tag)
            self._note("acked", job)
        elif isinstance(failure, MessageError):
            job.channel.basic_reject(job.tag, requeue=False)
            self._note("rejected", job)
        else:
            raise failure

    def _note(self, kind: str, job: _Job) -> None:
        if self._recorder is not None:
            self._recorder.record(kind, self.name, job.order_id, self.queue)

    # The other threads.

    def _wake(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.add_callback_threadsafe(lambda: None)

    def _end_worker(self) -> None:
        self._jobs.put(None)

    def _serve_jobs(self, _: threading.Event) -> None:
        while (job := self._jobs.get()) is not None:
            failure: Exception | None = None
            try:
                self._work(job.body)
            except Exception as exc:  # whatever it is, the connection's thread is told
                failure = exc
            with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
                # The one method of a connection that another thread may call.
                answer = partial(self._answer, job, failure)
                job.channel.connection.add_callback_threadsafe(answer)


_Queue = queue.Queue["_Job | None"]
