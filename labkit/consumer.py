"""A handler on a queue, in the background: start, stop, crash, restart, and reconnect.

The handler is what pika calls a message callback, and acknowledges by itself:

    def on_message(channel, method, properties, body):
        work(body)
        channel.basic_ack(method.delivery_tag)
"""

from __future__ import annotations

import threading
import time
from typing import Self

from labkit.background import STOP_TIMEOUT_WALL_S, Managed, stop_all
from labkit.consumer_thread import ConsumerThread, Handler
from labkit.crash_points import CrashPoint
from labkit.errors import ServiceError
from labkit.events import Recorder

START_TIMEOUT_WALL_S = 15.0


class Consumer(Managed):
    """Takes messages from a queue and gives them to a handler.

    A handler that raises `MessageError` has its message rejected without requeue, which sends it
    to the queue's dead letter exchange, if it has one. Any other exception ends the consumer: the
    message goes back to the queue, and `stop()` or `raise_if_failed()` raises the exception.

    Args:
        handler: called as pika calls it, with `(channel, method, properties, body)`; it
            acknowledges. What it publishes on the channel is confirmed before the call returns.
        queue: the queue's name; it must be there.
        url: the broker's AMQP URL.
        name: what events and errors call it; the queue's name if left out.
        prefetch: how many unacknowledged messages each thread may hold.
        threads: how many handlers work at the same time, each on a connection of its own.
        recorder: where deliveries, acknowledgements, crashes and reconnects are noted.
        auto_ack: whether the broker takes each message for done as it sends it. The handler then
            does not acknowledge; what is on its way to the consumer, or in its hands, is lost
            when the consumer ends in whatever way. `prefetch` has no effect.

    A context manager: `start()` returns once every thread consumes.
    """

    def __init__(
        self,
        handler: Handler,
        queue: str,
        url: str,
        *,
        name: str | None = None,
        prefetch: int = 1,
        threads: int = 1,
        recorder: Recorder | None = None,
        auto_ack: bool = False,
    ) -> None:
        self.name = name or queue
        self.queue = queue
        self.url = url
        self.prefetch = prefetch
        self.threads = threads
        self.auto_ack = auto_ack
        self._handler = handler
        self._recorder = recorder
        self._workers: list[ConsumerThread] = []
        self._ending: list[ConsumerThread] = []
        self._lock = threading.Lock()  # a thread of its own may crash it
        self._crash_point = CrashPoint(self.crash)

    @property
    def running(self) -> bool:
        """Whether any of its threads is at work."""
        return any(worker.background.running for worker in self._workers)

    @property
    def in_hand(self) -> int:
        """Deliveries that its handlers have begun and not answered yet; needs a recorder."""
        return sum(len(worker.in_hand) for worker in self._workers)

    def start(self) -> Self:
        """Starts its threads and waits until each consumes; does nothing where it runs.

        A handler may fail before this returns: `raise_if_failed` and `stop` tell, as for one that
        fails later.

        Raises:
            BrokerError: no broker answers.
            ServiceError: the queue does not exist, or it takes longer than 15 real seconds.
        """
        if self.running:
            return self
        with self._lock:  # a crash waits until all have begun
            workers = self._workers = [self._worker(n) for n in range(1, self.threads + 1)]
            for worker in workers:
                worker.background.start()
        deadline = time.monotonic() + START_TIMEOUT_WALL_S
        for worker in workers:
            if worker.ready.wait(max(0.0, deadline - time.monotonic())) and not worker.began:
                # It is about to end, and what it failed with is known only then.
                worker.background.join(STOP_TIMEOUT_WALL_S)
            failed = worker.background.failure is not None
            if not worker.began and (failed or not worker.ready.is_set()):
                for left in self._let_go():
                    left.background.signal()
                self.join(STOP_TIMEOUT_WALL_S)
                worker.background.raise_if_failed()
                raise ServiceError(
                    f"{self.name} did not start to consume.",
                    "it failed" if failed else f"nothing for {START_TIMEOUT_WALL_S:g} s",
                    "`labkit doctor` tells whether the broker is well",
                )
        if self._workers is workers:  # else the first message has crashed it
            self._note("up")
        return self

    def _worker(self, number: int) -> ConsumerThread:
        return ConsumerThread(
            f"{self.name}-{number}",
            self.url,
            self.queue,
            self.prefetch,
            self._handler,
            self._recorder,
            self.name,
            self._crash_point,
            self.auto_ack,
        )

    def _let_go(self) -> list[ConsumerThread]:
        """Has its threads end beside it, so that it can be started anew meanwhile."""
        with self._lock:
            workers, self._workers = self._workers, []
            self._ending += workers
        return workers

    def _note(self, kind: str, detail: str | None = None) -> None:
        if self._recorder is not None:
            self._recorder.record(kind, self.name, None, detail)

    def signal(self) -> None:
        """Asks its threads to stop after the message in hand, and does not wait."""
        for worker in self._workers:
            worker.background.signal()

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for its threads, and for those that a crash or a failed start left behind.

        Returns:
            Whether all have ended.
        """
        deadline = time.monotonic() + timeout_wall_s
        with self._lock:
            both = self._workers + self._ending
        if not all(w.background.join(deadline - time.monotonic()) for w in both):
            return False
        with self._lock:
            ended = [worker for worker in self._ending if worker in both]
            self._ending = [worker for worker in self._ending if worker not in both]
        for worker in ended:
            worker.release()
        return True

    def stop(self, timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
        """Finishes the messages in hand and returns what was prefetched; may be called twice.

        Raises:
            ServiceError: a handler is still at work after `timeout_wall_s` real seconds, or one
                had failed.
        """
        was_running = self.running
        self.disarm()
        try:
            stop_all([self], timeout_wall_s)
        finally:
            if was_running:
                self._note("stopped")

    def crash(self) -> None:
        """Drops the sockets in the middle of whatever goes on: no ack, no goodbye.

        The broker sees the connection break and delivers the unacknowledged messages again. What
        the handlers do goes no further than their next wait for shop time, commit, request,
        message, mail or answer. A handler that does none of these through labkit ends by itself.
        """
        workers = self._let_go()
        # All stop before any socket breaks, or the broker gives the message of the first to the
        # second, which is about to crash, too.
        for worker in workers:
            worker.background.stopping.set()
        for worker in workers:
            worker.crash()
        if workers:
            self._note("crashed")

    def crash_at(self, point: str) -> threading.Event:
        """Has it crash, as by `crash()`, at a point of the next delivery that reaches it.

        Args:
            point: `before work`, when the message has arrived and the handler is not yet called;
                `after work`, when the handler is about to acknowledge; `after ack`, when the
                broker has the acknowledgement.

        Returns:
            Set once it has crashed.

        The point stays armed until then, a restart or not; a second call replaces it, and `stop()`
        disarms it. A handler that acknowledges before it works reaches `after ack` with the work
        undone; one that leaves the acknowledgement to later, once it has returned, reaches
        neither of the last two points.

        Raises:
            InputError: there is no such point.
        """
        return self._crash_point.arm(point)

    def disarm(self) -> bool:
        """Takes back what `crash_at()` has asked for; False where there is nothing to take back."""
        return self._crash_point.disarm()

    def drop_connections(self) -> int:
        """Breaks its sockets, as a cut cable does: it is not crashed, and connects again.

        Returns:
            How many were open.
        """
        return sum(worker.drop_connection() for worker in list(self._workers))

    def restart(self) -> Self:
        """Starts it again after `stop()` or `crash()`."""
        return self.start()

    def raise_if_failed(self) -> None:
        """Raises what ended one of its threads, if it was a failure.

        Raises:
            LabError: as it was raised, else a `ServiceError` whose cause it is.
        """
        for worker in self._workers:
            worker.background.raise_if_failed()
