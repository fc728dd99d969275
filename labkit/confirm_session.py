"""One connection of a window: sends what waits, and hears what the broker says to each message."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pika
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from labkit.broker.opening import describe
from labkit.confirm_ledger import ROUTES_KEPT, Ledger, Publication

#: A broker that does not answer the goodbye is left without one after so many real seconds.
GOODBYE_WALL_S = 1.0
#: Many messages in one write cost less each, and few let the broker begin sooner.
IN_ONE_WRITE = 50
#: The reply code of a broker that ends, or whose operator closes a connection: no message's fault.
#: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
CONNECTION_FORCED = 320


class _Connection(pika.SelectConnection):  # type: ignore[misc]  # pika has no types
    """Pika's, which makes three writes to the socket of every message, made to write less often.

    A write costs more than all else about a message, for the broker as well. Where a pika has no
    such method to override, each message is written for itself, and nothing else changes.

    The next thing in cost is to make a message's frames; `publish` does it with less ado.
    """

    _pieces: list[bytes] | None = None

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._pieces is None:
            super()._adapter_emit_data(data)
        else:
            self._pieces.append(data)

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """All that the block publishes goes out in one write, at its end."""
        self._pieces = []
        try:
            yield
        finally:
            data, self._pieces = b"".join(self._pieces), None
            if data:
                super()._adapter_emit_data(data)

    def publish(self, channel: Any, message: Publication) -> None:
        """Publishes on an open channel, `mandatory`; as `channel.basic_publish` does, and sooner."""
        size, number = len(message.body), channel.channel_number
        if not 0 < size <= self.params.frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE:
            channel.basic_publish(
                message.exchange, message.routing_key, message.body, message.properties, True
            )
            return
        self._adapter_emit_data(
            _publish_frame(number, message.exchange, message.routing_key)
            + frame.Header(number, size, message.properties).marshal()
            + frame.Body(number, message.body).marshal()
        )


@functools.lru_cache(ROUTES_KEPT)
def _publish_frame(channel_number: int, exchange: str, routing_key: str) -> bytes:
    """The first of a message's frames, which is the same for each message on the same way."""
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    frame_bytes: bytes = frame.Method(channel_number, method).marshal()
    return frame_bytes


class Session:
    """A `pika.SelectConnection` with one channel in confirm mode; its thread is the caller of `run`.

    Args:
        ledger: the window's books.
        parameters: pika's.
        on_open: called when messages can go out for the first time.

    Attributes:
        ready: whether messages can go out.
        was_open: whether they ever could.
    """

    def __init__(
        self, ledger: Ledger, parameters: pika.URLParameters, on_open: Callable[[], object]
    ) -> None:
        self.ready = False
        self.was_open = False
        self._ledger = ledger
        self._parameters = parameters
        self._on_open = on_open
        self._loop = IOLoop()
        self._connection: Any = None
        self._channel: Any = None
        self._why: BaseException | None = None
        #: What went out on the channel and has no answer yet, by delivery tag, in order.
        self._out: dict[int, Publication] = {}
        self._tag = 0

    def call(self, function: Callable[[], object]) -> None:
        """Has a method of this session called in its own thread, soon; any thread may ask."""
        self._loop.add_callback_threadsafe(function)

    def run(self) -> BaseException:
        """Serves the connection until it ends; why it ended."""
        try:
            self._connection = _Connection(
                self._parameters,
                on_open_callback=self._on_connection,
                on_open_error_callback=self._on_end,
                on_close_callback=self._on_end,
                custom_ioloop=self._loop,
            )
            self._loop.start()
        finally:
            self.ready = False
            sock = self._socket()
            if sock is not None:  # after a crash in here nobody else closes it
                sock.close()
            self._loop.close()
            why = self._why or ConnectionError("the connection ended")
            self._give_up(describe(why))
        return why

    def hang_up(self) -> None:
        """Closes the connection, in good order where the broker answers."""
        connection = self._connection
        if connection.is_closing or connection.is_closed:
            return
        if not connection.is_open and self._socket() is not None:
            self.drop()  # in the middle of the greetings, where pika fails over a close()
            return
        with contextlib.suppress(AMQPError):
            connection.close()
        self._loop.call_later(GOODBYE_WALL_S, self.drop)

    def drop(self) -> None:
        """Breaks the socket, as a cut cable does."""
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _socket(self) -> socket.socket | None:
        """The socket under the connection; pika has no public way to it."""
        return getattr(getattr(self._connection, "_transport", None), "_sock", None)

    def send(self) -> None:
        """Sends what waits."""
        if not self.ready:
            return  # whatever waits is sent when the channel is open
        if self._ledger.alone and self._out:
            return  # the answer to what is out comes first
        with self._connection.as_one():
            for publication in self._ledger.to_send(1 if self._ledger.alone else IN_ONE_WRITE):
                self._tag += 1
                self._out[self._tag] = publication
                self._connection.publish(self._channel, publication)
        if self._ledger.waiting and not self._ledger.alone:
            self.call(self.send)  # once these are written

    def _on_connection(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_end(self, connection: Any, why: BaseException) -> None:
        self.ready = False
        self._why = why
        if isinstance(why, ConnectionClosedByBroker) and why.reply_code != CONNECTION_FORCED:
            self._find_culprit(why.reply_text)
        self._loop.stop()

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        self._tag = 0  # the broker counts anew on each channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_answer, callback=self._on_confirm_mode)

    def _on_confirm_mode(self, frame: Any) -> None:
        self.ready = True
        if not self.was_open:  # the first channel of this connection
            self.was_open = True
            self._on_open()
        self.send()

    def _on_return(
        self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        """No queue is bound for a message: it comes back, without its tag, before its confirm."""
        for publication in self._out.values():
            if publication.came_back_as(method, properties, body):
                publication.reason = f"{method.reply_text}: no queue is bound for it"
                return

    def _on_answer(self, frame: Any) -> None:
        """A confirm or a refusal, of one message or of all up to one."""
        method = frame.method
        tag = method.delivery_tag
        if method.multiple:
            tags = []
            for earlier in self._out:
                if tag and earlier > tag:
                    break
                tags.append(earlier)
        else:
            tags = [tag]
        answered = [self._out.pop(tag) for tag in tags if tag in self._out]
        if isinstance(method, spec.Basic.Nack):
            self._ledger.settle(answered, "nacked", "a queue that should get it did not take it")
        else:
            self._ledger.settle(answered, "confirmed")
        if self._ledger.alone:
            self._ledger.alone = max(0, self._ledger.alone - len(answered))
            self.send()

    def _on_channel_closed(self, channel: Any, why: BaseException) -> None:
        """The broker closes a channel for one message on it, and does not say for which."""
        self.ready = False
        if not isinstance(why, ChannelClosedByBroker):
            return  # with its connection, whose end is told, too
        self._find_culprit(why.reply_text)
        if self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_channel)

    def _find_culprit(self, why: str) -> None:
        """The broker refused one of the messages that have no answer; which one?

        All are sent again, one at a time: whichever is out alone when it happens again, is it.
        """
        if len(self._out) == 1:
            (refused,) = self._out.values()
            self._out.clear()
            self._ledger.alone = max(0, self._ledger.alone - 1)
            self._ledger.settle([refused], "refused", why)
        else:
            if self._ledger.again:
                self._ledger.alone = len(self._out)
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """What is without an answer will not get one here."""
        publications = list(self._out.values())
        self._out.clear()
        for publication in publications:
            publication.reason = ""
        self._ledger.lost(publications, why)
