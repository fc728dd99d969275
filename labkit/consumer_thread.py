"""One thread of a consumer: a connection, its messages, what happens when it is lost."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import Background, checkpoint
from labkit.broker.opening import describe
from labkit.crash_points import CrashPoint
from labkit.errors import BrokerError, MessageError, ServiceError
from labkit.events import Recorder

Handler = Callable[[BlockingChannel, Any, pika.BasicProperties, bytes], object]

#: A lost connection is tried again after this time, then after twice as long each time.
FIRST_BACKOFF_WALL_S = 0.05
MAX_BACKOFF_WALL_S = 0.5
#: A queue may be declared anew by whoever owns it, a moment after the broker is back.
QUEUE_BACK_WITHIN_WALL_S = 15.0


class ConsumerThread:
    """Consumes from one queue on one connection, until it is stopped or crashed.

    Args:
        name: of the thread and of the connection.
        url: the broker's AMQP URL.
        queue: the queue's name.
        prefetch: how many unacknowledged messages it may hold.
        handler: called as pika calls it.
        recorder: where deliveries and what became of them are noted, as events of `service`.
        service: whose events they are.
        crash_point: its consumer's, which crashes it where that is armed.
        auto_ack: whether the broker forgets each message as it sends it.

    Attributes:
        ready: set once it consumes, or has failed.
        began: whether it has consumed; what fails after that is no failed start.
        background: the thread.
        in_hand: deliveries that the handler has begun and not answered, by delivery tag.
    """

    def __init__(
        self,
        name: str,
        url: str,
        queue: str,
        prefetch: int,
        handler: Handler,
        recorder: Recorder | None,
        service: str,
        crash_point: CrashPoint,
        auto_ack: bool = False,
    ) -> None:
        self.ready = threading.Event()
        self.began = False
        self.background = Background(name, self._run, wake=self._wake)
        self.in_hand: dict[int, str | None] = {}
        self._name = name
        self._url = url
        self._queue = queue
        self._prefetch = prefetch
        self._handler = handler
        self._recorder = recorder
        self._service = service
        self._crash_point = crash_point
        self._auto_ack = auto_ack
        self._connection: pika.BlockingConnection | None = None
        self._socket: socket.socket | None = None
        self._backoff_wall_s = FIRST_BACKOFF_WALL_S
        self._missing_since: float | None = None

    def _wake(self) -> None:
        connection = self._connection
        if connection is not None:
            # The one method of a connection that another thread may call.
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.add_callback_threadsafe(lambda: None)

    def crash(self) -> None:
        """Drops the socket; what the handler is doing ends at its next `checkpoint()`."""
        self.background.crash()
        amqp.drop_socket(self._connection)

    def drop_connection(self) -> bool:
        """Breaks the socket, as a cut cable does; the thread notices, and connects again.

        Returns:
            Whether there was an open connection.
        """
        connection = self._connection
        was_open = connection is not None and connection.is_open
        amqp.drop_socket(connection)
        return was_open

    def release(self) -> None:
        """Gives the socket back, where a crash came in the way of closing it."""
        if self._socket is not None:
            self._socket.close()

    def _run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                try:
                    self._consume(stop)
                except (pika.exceptions.AMQPError, BrokerError, OSError, _NoQueueError) as exc:
                    if stop.is_set():
                        return
                    if not self.ready.is_set() or _refused(exc) or self._gone_for_good(exc):
                        raise
                    self._reconnecting(exc, stop)
        finally:
            self.ready.set()  # whoever waits for the start gets to see the failure

    def _gone_for_good(self, exc: BaseException) -> bool:
        """Whether the queue has been missing for so long that nobody will bring it back."""
        if not isinstance(exc, _NoQueueError):
            return False
        if self._missing_since is None:
            self._missing_since = time.monotonic()
        return time.monotonic() - self._missing_since > QUEUE_BACK_WITHIN_WALL_S

    def _reconnecting(self, why: BaseException, stop: threading.Event) -> None:
        """Waits before the next try: longer each time, up to a limit."""
        if self._recorder is not None:
            self._recorder.record("reconnecting", self._service, None, describe(why))
        # A little chance keeps many consumers from knocking at the same moment.
        stop.wait(self._backoff_wall_s * random.uniform(0.8, 1.2))
        self._backoff_wall_s = min(2 * self._backoff_wall_s, MAX_BACKOFF_WALL_S)

    def _consume(self, stop: threading.Event) -> None:
        """Consumes on a new connection until told to stop; raises where the connection is lost."""
        connection = self._connection = amqp.connect(self._url, self._name)
        self._socket = amqp.socket_of(connection)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_qos(prefetch_count=self._prefetch)
            on_message = self._recorded(channel) if self._recorder is not None else self._handler
            crash_point, auto_ack = self._crash_point, self._auto_ack

            def callback(
                channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
            ) -> None:
                if stop.is_set():
                    return  # unacknowledged: it goes back to the queue when the connection closes
                try:
                    if crash_point.armed:
                        with crash_point.watch(channel, auto_ack):
                            on_message(channel, method, properties, body)
                    else:
                        on_message(channel, method, properties, body)
                except MessageError:
                    if not auto_ack:  # else the broker has forgotten it, and it is lost
                        channel.basic_reject(method.delivery_tag, requeue=False)

            try:
                channel.basic_consume(self._queue, callback, auto_ack=auto_ack)
            except pika.exceptions.ChannelClosedByBroker as exc:
                raise _NoQueueError(
                    f"{self._service} can't consume from the queue {self._queue!r}.",
                    exc.reply_text,
                    "declare the queue before the consumer starts",
                ) from exc
            self.began = True
            self.ready.set()
            self._backoff_wall_s = FIRST_BACKOFF_WALL_S
            self._missing_since = None
            while not stop.is_set():
                # Without a time limit, which would cost a timer for each turn; `_wake` ends it.
                connection.process_data_events(None)
                if not channel.is_open or not channel.consumer_tags:
                    raise ServiceError(
                        f"{self._service} no longer gets messages.",
                        "the broker closed its channel or cancelled its consumer",
                        "a queue that was deleted, or a delivery acknowledged twice, does this",
                    )
        finally:
            amqp.end(connection)  # after a crash nothing is sent: the socket is shut

    def _recorded(self, channel: BlockingChannel) -> Handler:
        """The handler, with each delivery and each answer to it noted."""
        assert self._recorder is not None
        record, name, queue = self._recorder.record, self._service, self._queue
        handler, auto_ack = self._handler, self._auto_ack
        order_of = self.in_hand = {}
        ack, nack, reject = channel.basic_ack, channel.basic_nack, channel.basic_reject

        def basic_ack(delivery_tag: int = 0, multiple: bool = False) -> None:
            checkpoint()
            ack(delivery_tag, multiple)
            record("acked", name, order_of.pop(delivery_tag, None), queue)

        def basic_nack(delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> None:
            checkpoint()
            nack(delivery_tag, multiple, requeue)
            kind = "requeued" if requeue else "rejected"
            record(kind, name, order_of.pop(delivery_tag, None), queue)

        def basic_reject(delivery_tag: int = 0, requeue: bool = True) -> None:
            checkpoint()
            reject(delivery_tag, requeue)
            kind = "requeued" if requeue else "rejected"
            record(kind, name, order_of.pop(delivery_tag, None), queue)

        channel.basic_ack = basic_ack
        channel.basic_nack = basic_nack
        channel.basic_reject = basic_reject

        def on_message(
            channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
        ) -> None:
            order_id = order_of[method.delivery_tag] = properties.correlation_id
            record("redelivered" if method.redelivered else "delivered", name, order_id, queue)
            handler(channel, method, properties, body)
            if auto_ack:
                order_of.pop(method.delivery_tag, None)

        return on_message


class _NoQueueError(ServiceError):
    """The queue to consume from is not there."""


def _refused(error: BaseException) -> bool:
    """Whether the broker refuses what the handler does on the channel; it would do so again.

    It would not with a message that a queue did not take: a full queue has room again some time,
    and a queue whose broker is about to stop is back with that.
    """
    return isinstance(error, pika.exceptions.AMQPChannelError) and not isinstance(
        error, pika.exceptions.ChannelWrongStateError | pika.exceptions.NackError
    )
