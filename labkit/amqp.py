"""Thin on pika: connect, publish with a confirm, and a publisher that many threads may use.

What comes back are pika's own objects, so that everything in pika's documentation applies.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit.background import checkpoint
from labkit.broker import address
from labkit.broker.opening import HEARTBEAT_WALL_S, open_connection

#: Marks a message as persistent (AMQP 0-9-1, basic class, property delivery-mode).
PERSISTENT = 2
#: A broker that does not answer the goodbye is left without one after so many real seconds.
GOODBYE_WALL_S = 3.0


def connect(
    url: str, name: str = "labkit", heartbeat_wall_s: int = HEARTBEAT_WALL_S
) -> pika.BlockingConnection:
    """Opens a connection, for the calling thread alone.

    Args:
        url: an AMQP URL, such as the `url` of a `Broker` or a `Lab`.
        name: shown by the broker's management pages.
        heartbeat_wall_s: after twice this many real seconds of silence either side hangs up.

    Raises:
        InputError: the URL is not an AMQP URL.
        BrokerError: nobody answers there, or the broker refuses the user or the virtual host.
    """
    return open_connection(address.parse(url), name, heartbeat_wall_s)


def drop_socket(connection: pika.BlockingConnection | None) -> None:
    """Breaks a connection's socket, as a cut cable or a killed process does."""
    sock = socket_of(connection)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def end(connection: pika.BlockingConnection) -> None:
    """Closes a connection, in whatever state the thread that it belonged to has left it.

    A crash may have come in the way of pika's own work. Then its close() stumbles over a channel
    that is half open, or waits for ever for an answer on a socket that it no longer reads.
    """

    def give_up() -> None:
        raise TimeoutError

    try:
        if connection.is_open:
            # On pika's own loop: the timers of a BlockingConnection don't run during its close().
            connection._impl._adapter_call_later(GOODBYE_WALL_S, give_up)
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()
    except (AttributeError, OSError):
        drop_socket(connection)  # a broken socket makes pika clean up
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            connection.process_data_events(0.1)


def socket_of(connection: pika.BlockingConnection | None) -> socket.socket | None:
    """The socket under a connection; pika has no public way to it (tests hold this one)."""
    transport = getattr(getattr(connection, "_impl", None), "_transport", None)
    return getattr(transport, "_sock", None)


def encode(body: bytes | str | Mapping[str, Any]) -> tuple[bytes, str]:
    """The bytes of a message body and their content type; a mapping becomes JSON."""
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain"
    return json.dumps(body).encode(), "application/json"


def publish(
    channel: BlockingChannel,
    exchange: str,
    routing_key: str,
    body: bytes | str | Mapping[str, Any],
    **properties: Any,
) -> None:
    """Publishes one persistent message and waits until the broker has taken charge of it.

    The channel is put into confirm mode (`channel.confirm_delivery()`) where it is not yet.

    Args:
        channel: an open channel of pika's.
        exchange: its name; the empty string is the default exchange, which routes by queue name.
        routing_key: what the exchange routes by.
        body: bytes, text, or a mapping, which is sent as JSON.
        properties: more message properties, as in `pika.BasicProperties`.

    Raises:
        pika.exceptions.UnroutableError: no queue is bound for it (it is sent `mandatory`).
        pika.exceptions.NackError: the broker refused it, as a full queue with reject-publish does.
    """
    checkpoint()
    if not getattr(channel, "_delivery_confirmation", False):
        channel.confirm_delivery()
    data, content_type = encode(body)
    properties = {"delivery_mode": PERSISTENT, "content_type": content_type} | properties
    channel.basic_publish(
        exchange, routing_key, data, pika.BasicProperties(**properties), mandatory=True
    )


#: What a call on a channel raises whose connection is lost.
LOST = (pika.exceptions.AMQPConnectionError, pika.exceptions.ChannelWrongStateError)


class ThreadChannels:
    """A channel for each thread that asks, on a connection of its own, opened when first used.

    Args:
        url: the broker's AMQP URL.
        name: the name that the connections show to the broker.
        confirms: whether the channels are in confirm mode.

    Attributes:
        connections: all that were opened and not closed yet, lost ones among them.
    """

    def __init__(self, url: str, name: str, confirms: bool) -> None:
        self.url = url
        self.name = name
        self.confirms = confirms
        self._local = threading.local()
        self._lock = threading.Lock()
        self.connections: list[pika.BlockingConnection] = []

    def mine(self) -> BlockingChannel:
        """The calling thread's channel; a new one where the last was seen to be closed.

        Raises:
            BrokerError: no broker answers.
        """
        channel: BlockingChannel | None = getattr(self._local, "channel", None)
        if channel is not None and channel.is_open:
            return channel
        connection = connect(self.url, self.name)
        with self._lock:
            self.connections.append(connection)
        channel = connection.channel()
        if self.confirms:
            channel.confirm_delivery()
        self._local.channel = channel
        return channel

    def anew(self) -> BlockingChannel:
        """A new channel for the calling thread, whatever became of the last one.

        Raises:
            BrokerError: no broker answers.
        """
        self._local.channel = None
        return self.mine()

    def close(self) -> None:
        """Closes the connections; their threads must have finished. May be called twice."""
        with self._lock:
            connections, self.connections = self.connections, []
        for connection in connections:
            end(connection)
        self._local = threading.local()


class Publisher:
    """Publishes from any thread: each gets a connection of its own, opened when first used.

    A `BlockingConnection` belongs to one thread, and a web server has several. Here every thread
    that publishes has its own, and a connection that was lost since the last message, by a
    restart of the broker or for want of heartbeats, is opened anew.

    Args:
        url: the broker's AMQP URL.
        name: the name that the connections show to the broker.

    A context manager; `close()` closes every connection, and may be called twice.
    """

    def __init__(self, url: str, name: str = "publisher") -> None:
        self.channels = ThreadChannels(url, name, confirms=True)

    def open(self) -> None:
        """Opens the calling thread's connection, so that its first message need not wait for it.

        Raises:
            BrokerError: no broker answers.
        """
        self.channels.mine()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str | Mapping[str, Any],
        **properties: Any,
    ) -> None:
        """Publishes one persistent message and returns when the broker has confirmed it.

        Where the connection turns out to be lost, it is opened again and the message sent again:
        it may then arrive twice, never not at all.

        Raises:
            BrokerError: no broker answers.
            pika.exceptions.UnroutableError: no queue is bound for it.
            pika.exceptions.NackError: the broker refused it.
        """
        try:
            publish(self.channels.mine(), exchange, routing_key, body, **properties)
        except LOST:
            publish(self.channels.anew(), exchange, routing_key, body, **properties)

    def close(self) -> None:
        """Closes the connections; their threads must have finished publishing."""
        self.channels.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
