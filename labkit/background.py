"""One named thread that can be asked to stop, and whose failure somebody gets to see."""

from __future__ import annotations

import abc
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from labkit.errors import LabError, ServiceError

STOP_TIMEOUT_WALL_S = 5.0


class Crashed(BaseException):
    """Raised inside a thread whose service was crashed on purpose: its work goes no further.

    Not an `Exception`, so that no handler takes it for an ordinary failure and goes on.
    """


_at_work = threading.local()


@contextlib.contextmanager
def works_for(crashed: threading.Event) -> Iterator[None]:
    """Has what this thread does in the block end at its next `checkpoint()` once `crashed` is set.

    Args:
        crashed: set when the service that the thread works for crashes.
    """
    before = getattr(_at_work, "crashed", None)
    _at_work.crashed = crashed
    try:
        yield
    finally:
        _at_work.crashed = before


def checkpoint() -> None:
    """Goes no further where the service that this thread works for has crashed.

    A thread can't be killed as a process can, so labkit asks here before all that has an effect:
    a commit, a request, a message, a mail.

    Raises:
        Crashed: it has.
    """
    crashed: threading.Event | None = getattr(_at_work, "crashed", None)
    if crashed is not None and crashed.is_set():
        raise Crashed


def sleep(wall_s: float) -> None:
    """Waits so many real seconds, as work does: until a crash of the service at most.

    Raises:
        Crashed: the service that this thread works for has crashed.
    """
    crashed: threading.Event | None = getattr(_at_work, "crashed", None)
    if crashed is None:
        time.sleep(max(0.0, wall_s))
    elif crashed.wait(max(0.0, wall_s)):
        raise Crashed


class Managed(abc.ABC):
    """What starts and stops, as a context manager."""

    @abc.abstractmethod
    def start(self) -> Self:
        """Starts it, and returns once it is ready."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stops it; may be called twice."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class Background(Managed):
    """Runs `target(stop)` in a thread of its own until `stop` is set or it returns.

    Args:
        name: the thread's name; errors and debuggers show it.
        target: takes a `threading.Event` and returns soon after it is set.
        wake: called by `signal()` once the event is set, from the caller's thread: what gets a
            target out of a call that does not look at the event.

    A context manager. The thread's exception is kept, and raised by `raise_if_failed` and `stop`.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[threading.Event], object],
        wake: Callable[[], object] | None = None,
    ) -> None:
        self.name = name
        self.stopping = threading.Event()
        self._crashed = threading.Event()
        self._target = target
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def crash(self) -> None:
        """Has the thread's work end at its next `checkpoint()`, as a crash would."""
        self.stopping.set()
        self._crashed.set()

    def abandon(self) -> None:
        """Raises `Crashed` in the thread, wherever it is: for a learner's loop that never ends.

        Not for a service that is to go on: a thread that is taking or giving back a lock just
        then would keep it for ever.
        """
        import ctypes  # late: importing labkit must be quick

        self.crash()
        if self._thread is not None and self._thread.ident is not None and self.running:
            # https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(Crashed)
            )

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the thread, else None."""
        return self._failure

    def start(self) -> Self:
        """Starts the thread; does nothing where it runs.

        Raises:
            ServiceError: the previous thread was told to stop and is still at work.
        """
        if self.running:
            if not self.stopping.is_set():
                return self
            raise ServiceError(
                f"{self.name} can't start.",
                "its previous thread is still ending",
                "call stop() first",
            )
        self.stopping.clear()
        self._crashed.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            with works_for(self._crashed):
                self._target(self.stopping)
        except Crashed:
            pass  # asked for
        except BaseException as exc:  # kept for whoever looks, whatever it is
            self._failure = exc

    def signal(self) -> None:
        """Asks the thread to stop, and does not wait."""
        self.stopping.set()
        if self._wake is not None and self.running:
            self._wake()

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for the thread to end; True where it has."""
        if self._thread is not None:
            self._thread.join(max(0.0, timeout_wall_s))
        return not self.running

    def stop(self, timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
        """Ends the thread; may be called twice.

        Raises:
            ServiceError: the thread outlives `timeout_wall_s` real seconds, or it had failed.
        """
        stop_all([self], timeout_wall_s)

    def raise_if_failed(self) -> None:
        """Raises what ended the thread, if it was an exception.

        Raises:
            LabError: as the thread raised it.
            ServiceError: any other exception, which is its cause.
        """
        failure = self._failure
        if failure is None:
            return
        if isinstance(failure, LabError):
            raise failure
        raise ServiceError(
            f"{self.name} failed in the background.",
            f"{type(failure).__name__}: {failure}",
            "the cause is chained to this error (`error.__cause__`)",
        ) from failure


class Stoppable(Protocol):
    """What `stop_all` can end: `signal()` asks, `join()` waits, `raise_if_failed()` tells."""

    name: str

    def signal(self) -> None:
        """Asks it to stop, and does not wait."""

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for its end; True where it has ended."""
        ...

    def raise_if_failed(self) -> None:
        """Raises what went wrong in it."""


def stop_all(services: Iterable[Stoppable], timeout_wall_s: float = STOP_TIMEOUT_WALL_S) -> None:
    """Ends many at once: signals all, then joins all under one budget of real seconds.

    All are signalled first, so that the time it takes is the slowest one's, not the sum, and so
    that none goes on feeding another that has been stopped.

    Raises:
        ServiceError: one or more are still alive afterwards, or failed while they ran.
    """
    services = list(services)
    for service in services:
        service.signal()
    deadline = time.monotonic() + timeout_wall_s
    alive = [s.name for s in services if not s.join(deadline - time.monotonic())]
    if alive:
        raise ServiceError(
            "Not everything stopped.",
            f"still running after {timeout_wall_s:g} s: {', '.join(alive)}",
            "a handler that never returns holds its thread: restart the kernel to be rid of it",
        )
    for service in services:
        service.raise_if_failed()
