"""The check of notebook 04's third exercise: whose connection each thread publishes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import Background
from labkit.checks import NotYet
from labkit.exercises._looking import connected, ready

ChannelForThread = Callable[[pika.BlockingConnection, str], object]

ORDERS = "exercise.web_orders"
THREADS, ORDERS_EACH = 4, 25
#: So long may a thread take to get its channel, and to publish its orders, in real seconds.
PATIENCE_WALL_S = 5.0
#: So long may it take to end once it is told to, in real seconds.
ENDING_WALL_S = 1.0


class _WebThread:
    """A thread that asks for its channel, and publishes on it when it is told to."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self.got: object = None
        self.failure: Exception | None = None
        self.confirmed = 0
        self._ask = ask
        self._asked, self._go_on = threading.Event(), threading.Event()
        self.work = Background("check-web-thread", self._run, wake=self._go_on.set)

    def _run(self, stop: threading.Event) -> None:
        try:
            self.got = self._ask()
        except Exception as exc:  # raised again by the check's own thread
            self.failure = exc
        finally:
            self._asked.set()
        self._go_on.wait()
        if stop.is_set() or not isinstance(self.got, BlockingChannel):
            return
        try:
            for number in range(ORDERS_EACH):
                amqp.publish(self.got, "", ORDERS, f"order {number}")
                self.confirmed += 1
        except pika.exceptions.AMQPError as exc:
            self.failure = exc

    def ask(self) -> None:
        """Has the thread ask, and returns when it has its answer."""
        self.work.start()
        if not self._asked.wait(PATIENCE_WALL_S):
            raise NotYet(
                f"A thread has been waiting for its channel for {PATIENCE_WALL_S:g} s",
                "it gets one at once",
                "start_consuming(), or a lock that the thread before has kept",
            )
        if self.failure is not None:
            raise self.failure

    def publish(self) -> None:
        """Lets the thread publish, and does not wait."""
        self._go_on.set()

    @property
    def connection(self) -> object:
        """What the thread would publish on, channel or not."""
        return getattr(self.got, "connection", self.got)


def check_channel_for_thread(channel_for_thread: ChannelForThread, url: str) -> None:
    """Returns where four threads get a connection each, and can publish at the same time.

    The threads ask one after the other, and where two have got the same connection none of them
    publishes: what comes of it differs from run to run, and might never end.

    Raises:
        NotYet: a thread has got something else, or an order was not confirmed.
    """
    threads: list[_WebThread] = []
    with connected(url) as ours, connected(url) as service:
        channel = ours.channel()
        channel.queue_delete(ORDERS)
        channel.queue_declare(ORDERS, durable=True)
        try:
            for _ in range(THREADS):
                threads.append(_WebThread(lambda: channel_for_thread(service, url)))
                threads[-1].ask()
            _judge_connections([_channel(thread.got) for thread in threads], service)
            for thread in threads:
                thread.publish()
            for thread in threads:
                thread.work.join(PATIENCE_WALL_S)
            _judge_orders(threads, ready(channel, ORDERS))
        finally:
            _end(threads, service)
            channel.queue_delete(ORDERS)


def _channel(got: object) -> BlockingChannel:
    if not isinstance(got, BlockingChannel):
        causes = {
            "NoneType": "a return is missing",
            "BlockingConnection": "that is the whole connection; its method channel() opens a "
            "channel on it",
        }
        kind = type(got).__name__
        raise NotYet(
            f"A thread got {'None' if got is None else f'a {kind}'}",
            "a channel of pika's",
            causes.get(kind, ""),
        )
    if not got.is_open:
        raise NotYet(
            "A thread got a channel that is closed",
            "an open one: the thread publishes after the function has returned",
            "a `with` block closes its connection at its end, and all channels with it",
        )
    return got


def _judge_connections(channels: list[BlockingChannel], service: pika.BlockingConnection) -> None:
    different = len({id(channel) for channel in channels})
    connections = {id(channel.connection) for channel in channels}
    if len(connections) == THREADS and id(service) not in connections:
        return
    whose = ""
    if id(service) in connections:
        whose = ", service" if len(connections) == 1 else ", service among them"
    if len(connections) == THREADS:
        cause = "service belongs to the thread that has opened it, and that may use it any time"
    elif different == THREADS:
        cause = (
            "a channel each is no help: the frames of all channels go through the one buffer "
            "and the one socket of their connection, which pika has made for one thread"
        )
    else:
        cause = (
            "what is opened once is kept for all threads, which then write to one socket at the "
            "same time"
        )
    raise NotYet(
        f"{THREADS} threads got {_many(different, 'channel')} on "
        f"{_many(len(connections), 'connection')}{whose}",
        f"{THREADS} connections, none of them used by anybody else",
        cause,
    )


def _judge_orders(threads: list[_WebThread], arrived: int) -> None:
    orders = THREADS * ORDERS_EACH
    confirmed = sum(thread.confirmed for thread in threads)
    if confirmed == orders == arrived:
        return
    errors = sorted({type(thread.failure).__name__ for thread in threads if thread.failure})
    raise NotYet(
        f"{THREADS} threads published {ORDERS_EACH} orders each: {confirmed} of {orders} are "
        f"confirmed, {arrived} have arrived. Errors: {', '.join(errors) or 'none'}",
        "all are confirmed, and arrive",
        "a connection that leads elsewhere than `url`",
    )


def _end(threads: list[_WebThread], service: pika.BlockingConnection) -> None:
    """Ends the threads, then the connections that they have got."""
    for thread in threads:
        thread.work.signal()
    ended = [thread for thread in threads if thread.work.join(ENDING_WALL_S)]
    for thread in threads:
        thread.work.abandon()
    for connection in {id(thread.connection): thread.connection for thread in ended}.values():
        if isinstance(connection, pika.BlockingConnection) and connection is not service:
            amqp.end(connection)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
