"""An HTTP service in the background: a real server with a bounded number of workers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self
from urllib.request import getproxies

from labkit.background import (
    STOP_TIMEOUT_WALL_S,
    Background,
    Crashed,
    Managed,
    checkpoint,
    stop_all,
    works_for,
)
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.held_port import HeldPort

# waitress reports a long queue on stderr; here a long queue is what a notebook measures.
logging.getLogger("waitress").addHandler(logging.NullHandler())
logging.getLogger("waitress").propagate = False

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class HttpService(Managed):
    """Serves a WSGI app (Flask's, say) on loopback, on a port that the system chooses.

    Requests that find every worker busy wait in a queue inside the server, in the order of their
    arrival: the hidden queue in front of every web server.

    Args:
        app: a WSGI application.
        name: what events and errors call the service.
        workers: how many requests are worked on at the same time.
        recorder: where starts, stops and crashes are noted; none if left out.
        prepare: what each worker does once, in its own thread, before the first request: it
            opens what it will need, such as a connection. What it raises,
            `raise_if_failed()` reports.

    A context manager: `start()` returns when it listens. After `stop()` or `crash()`, `start()`
    listens on the same port again, and whoever knows its `url` finds it.
    """

    def __init__(
        self,
        app: WSGIApp,
        name: str,
        workers: int = 4,
        recorder: Recorder | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.workers = workers
        self._port = HeldPort()
        self._app = app
        self._recorder = recorder
        self._prepare = prepare
        self._server: Any = None
        self._loop: Background | None = None
        self._crashed = threading.Event()
        self._failure: BaseException | None = None

    @property
    def port(self) -> int:
        """Where it listens; 0 until it has been started."""
        return self._port.number

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40213`; known once it has been started."""
        if not self.port:
            raise ServiceError(f"{self.name} has no address yet.", "", "call start() first")
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._loop is not None and self._loop.running

    def _serve(
        self,
        crashed: threading.Event,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
    ) -> Iterable[bytes]:
        """The app, whose work a crash ends, with a note of what went wrong."""
        try:
            with works_for(crashed):
                checkpoint()  # a request that has waited until now in the server's queue
                return self._app(environ, start_response)
        except Crashed:
            start_response("503 Service Unavailable", [])
            return []
        except Exception as exc:
            self._failure = exc
            raise

    def start(self) -> Self:
        """Starts to listen; does nothing where it does.

        Raises:
            ServiceError: the port that it had before is in use by another program now.
        """
        if self.running:
            return self
        from waitress.server import create_server

        _go_around_proxies()
        try:
            # Bound here, since waitress leaves a socket open where it can't bind.
            listener = self._port.listen()
        except OSError as exc:
            raise ServiceError(
                f"{self.name} can't listen on port {self.port}.",
                str(exc),
                "find the program that took the port, or make a new service, which gets a new port",
            ) from exc
        self._crashed = threading.Event()
        self._server = create_server(
            partial(self._serve, self._crashed),
            sockets=[listener],
            threads=self.workers,
            clear_untrusted_proxy_headers=True,
        )
        self._failure = None
        if self._prepare is not None:
            self._prepare_workers(self._prepare)
        server = self._server
        self._loop = Background(
            f"{self.name}-http", lambda _: server.run(), wake=self._stop_listening
        ).start()
        self._note("up")
        return self

    def _prepare_workers(self, prepare: Callable[[], object]) -> None:
        """Returns when each worker has prepared itself, or has failed to."""

        def prepare_one() -> None:
            try:
                prepare()
            except Exception as exc:
                self._failure = exc
            finally:
                all_ready.wait()  # holds the worker, so that each gets one of the tasks

        all_ready = threading.Barrier(self.workers + 1)
        for _ in range(self.workers):
            self._server.task_dispatcher.add_task(_Task(prepare_one))
        all_ready.wait()

    def _note(self, kind: str) -> None:
        if self._recorder is not None:
            self._recorder.record(kind, self.name)

    def _stop_listening(self) -> None:
        """From now on a new request is refused; those under way go on."""
        server = self._server
        server.trigger.pull_trigger(lambda: _close_listener(server, self._port))

    def _close(self, timeout_wall_s: float) -> None:
        """Ends the workers, then the server's own loop and with it every connection."""
        self._server.task_dispatcher.shutdown(timeout=max(0.0, timeout_wall_s))
        _end_loop(self._server, self._port)

    def signal(self) -> None:
        """Stops listening, and does not wait for the requests under way."""
        if self._loop is not None:
            self._loop.signal()

    def join(self, timeout_wall_s: float) -> bool:
        """Lets the requests under way finish, then closes; True where all has ended."""
        if self._loop is None:
            return True
        deadline = time.monotonic() + timeout_wall_s
        if self._loop.running:
            self._close(timeout_wall_s)
        ended = self._loop.join(max(1.0, deadline - time.monotonic()))
        if not ended or self._server.task_dispatcher.threads:
            return False
        self._server.trigger.close()
        self._loop = None
        self._note("stopped")
        return True

    def stop(self, timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
        """Stops listening, lets the requests under way finish and closes; may be called twice.

        Raises:
            ServiceError: a request is still at work after `timeout_wall_s` real seconds, or the
                app had raised an exception.
        """
        stop_all([self], timeout_wall_s)

    def crash(self) -> None:
        """Drops every connection at once, in the middle of whatever goes on."""
        if self._loop is None:
            return
        server, loop, self._loop = self._server, self._loop, None
        _end_loop(server, self._port)
        loop.stopping.set()
        loop.join(STOP_TIMEOUT_WALL_S)
        # With the connections closed: the answer to a request that ends here must not get through.
        self._crashed.set()
        server.task_dispatcher.shutdown(timeout=STOP_TIMEOUT_WALL_S)
        if not loop.running:
            server.trigger.close()
        self._note("crashed")

    def restart(self) -> Self:
        """Starts it again on the same port."""
        return self.start()

    def raise_if_failed(self) -> None:
        """Raises what the app raised last, if anything.

        Raises:
            ServiceError: its cause is the app's exception.
        """
        if self._failure is not None:
            raise ServiceError(
                f"{self.name} failed in one of its workers.",
                f"{type(self._failure).__name__}: {self._failure}",
                "the cause is chained to this error (`error.__cause__`)",
            ) from self._failure


class _Task:
    """What waitress' workers take besides requests."""

    def __init__(self, service: Callable[[], None]) -> None:
        self.service = service

    def cancel(self) -> None:
        """Called in the place of `service` where the workers end before."""


def _close_listener(server: Any, port: HeldPort) -> None:
    """Refuses new connections; for the server's own loop. Its `close()` would take more along."""
    server.accepting = False
    server.del_channel()
    server.socket.close()
    port.hold()


def _end_loop(server: Any, port: HeldPort) -> None:
    """Has a server's loop close every connection and end; its trigger is the caller's to close.

    The trigger is the pipe that wakes the loop. Were the loop to close it, it could do so before
    the byte that announces this very call is written: into a closed pipe, or into whatever file
    of the process has got its number.
    """
    from waitress import wasyncore

    def close_connections() -> None:
        _close_listener(server, port)
        server.trigger.del_channel()
        wasyncore.close_all(server._map)

    server.trigger.pull_trigger(close_connections)


def _go_around_proxies() -> None:
    """A proxy that is set for the internet has no way to this machine's own loopback.

    `requests`, which the notebooks call, leaves it out for the hosts in `no_proxy`.
    """
    if not getproxies():
        return
    direct = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
    hosts = [host.strip() for host in direct if host.strip()]
    if not {"*", "127.0.0.1"}.intersection(hosts):
        os.environ["no_proxy"] = ",".join([*hosts, "127.0.0.1"])
