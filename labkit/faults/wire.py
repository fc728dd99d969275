"""A line between programs and a broker that can go dead, one way, before it breaks.

When a broker's machine dies, or a firewall on the way forgets a connection, nothing tells the
programs at either end. They send, their own machine takes the bytes, and the bytes are gone. Only
after a while does the connection break. A socket that is closed at once shows none of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import Self

from labkit.background import STOP_TIMEOUT_WALL_S, Background, Managed
from labkit.broker import address
from labkit.errors import InputError, ServiceError
from labkit.held_port import HeldPort

#: Which way a line can be dead, and what that loses.
WAYS = {
    "to broker": "publishes and acknowledgements do not arrive; deliveries and confirms do",
    "from broker": "deliveries and confirms do not arrive; publishes and acknowledgements do",
}
_CHUNK = 65_536


class Wire(Managed):
    """Carries AMQP connections to a broker, and loses what they send while it is dead.

    Args:
        url: the broker's AMQP URL, without TLS.

    Attributes:
        lost_bytes: how much was sent into the dead line.

    A context manager: `start()` listens on a port of loopback, `stop()` breaks what is left.

    Raises:
        InputError: the URL asks for TLS, whose certificate names another address.
    """

    def __init__(self, url: str) -> None:
        self._address = address.parse(url)
        if self._address.scheme != "amqp":
            raise InputError(
                "A line of labkit's can't carry an encrypted connection.",
                f"the URL begins with {self._address.scheme}://",
                "give it an amqp:// URL",
            )
        self.lost_bytes = 0
        self._dead: str | None = None
        self._port = HeldPort()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._background = Background("wire", self._run, wake=self._wake)

    @property
    def url(self) -> str:
        """The broker's URL, by way of this line; known once it has been started."""
        return replace(self._address, host=address.LOOPBACK, port=self._port.number).url

    def start(self) -> Self:
        """Listens; does nothing where it does.

        Raises:
            ServiceError: no port can be had.
        """
        if not self._background.running:
            self._ready.clear()
            self._background.start()
            if not self._ready.wait(STOP_TIMEOUT_WALL_S) or self._loop is None:
                self._background.stop()  # raises what it failed with
                raise ServiceError("The line did not begin to listen.")
        return self

    def stop(self) -> None:
        """Breaks every connection on it and listens no more; may be called twice."""
        self._background.stop()

    def go_dead(self, way: str = "to broker") -> None:
        """From now on what is sent this way is lost, and nobody is told.

        Args:
            way: one of `WAYS`.

        Raises:
            InputError: there is no such way.
        """
        if way not in WAYS:
            raise InputError("There is no such way.", f"way={way!r}", f"one of {', '.join(WAYS)}")
        self._dead = way

    def mend(self) -> None:
        """Breaks every connection on it, as a dead line does in the end; new ones are carried."""
        loop, broken = self._loop, threading.Event()

        def break_all() -> None:
            for writer in list(self._writers):
                writer.transport.abort()
            self._writers.clear()
            self._dead = None
            broken.set()

        if loop is not None and self._background.running:
            loop.call_soon_threadsafe(break_all)
            broken.wait(STOP_TIMEOUT_WALL_S)

    # What follows runs in the line's own thread.

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._stopping.set)

    def _run(self, stop: threading.Event) -> None:
        try:
            asyncio.run(self._serve(stop))
        finally:
            self._loop = None
            self._ready.set()

    async def _serve(self, stop: threading.Event) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._carry, sock=self._port.listen())
        self._ready.set()
        try:
            if not stop.is_set():
                await self._stopping.wait()
        finally:
            server.close()
            self._port.hold()
            for writer in list(self._writers):
                writer.transport.abort()
            if self._tasks:  # each closes its two sockets
                await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_WALL_S / 2)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes one program's connection to the broker, both ways, until either side ends it."""
        ours = {writer}
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection(self._address.host, self._address.port)
            ours.add(back)
            self._writers.add(back)
            ways = [
                asyncio.ensure_future(self._one_way("to broker", reader, back)),
                asyncio.ensure_future(self._one_way("from broker", there, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the broker is away: the program sees its connection break
        finally:
            for end in ours:
                self._writers.discard(end)
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._tasks.discard(task)

    async def _one_way(
        self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._dead == way:
                    self.lost_bytes += len(data)
                    continue
                writer.write(data)
                await writer.drain()
