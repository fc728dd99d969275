"""A notebook's own place: a virtual host on a broker, a folder, shop time, a recorder."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from labkit.background import Managed
from labkit.clock import Pace
from labkit.errors import LabError
from labkit.events import Recorder

if TYPE_CHECKING:
    import pika

    from labkit.broker import Broker, VirtualHost


class Service(Protocol):
    """What a lab can look after: it starts, and it stops."""

    def start(self) -> Any:
        """Starts it."""

    def stop(self) -> Any:
        """Stops it; may be called twice."""


S = TypeVar("S", bound=Service)


class Lab(Managed):
    """Everything that a notebook needs around its experiments, and the end of it all.

    Args:
        name: part of the virtual host's name, such as `first-queue`.
        broker: which broker; the first that `labkit.connect()` finds if left out.
        speed: of shop time; what `LABKIT_SPEED` says, else 10, if left out.

    Attributes:
        pace: shop time.
        recorder: what happens is noted here.
        folder: an empty folder, gone after `stop()`.

    A context manager. `stop()` ends whatever was started with `use()`, the last one first, and
    removes the virtual host; it may be called twice, and it is called when the kernel shuts down.
    """

    def __init__(self, name: str, broker: Broker | None = None, speed: float | None = None) -> None:
        self.name = name
        self.pace = Pace(speed)
        self.recorder = Recorder(self.pace)
        self._broker = broker
        self._vhost: VirtualHost | None = None
        self._stack: contextlib.ExitStack | None = None

    def start(self) -> Self:
        """Makes the folder; does nothing where it is there."""
        if self._stack is None:
            self._stack = contextlib.ExitStack()
            self.folder = _new_folder()
            self._stack.callback(_remove_folder, self.folder)
            atexit.register(self._stop_quietly)
        return self

    @property
    def broker(self) -> Broker:
        """The broker, found or started when it is first asked for."""
        if self._broker is None:
            from labkit.broker import connect

            self._broker = connect()
        return self._broker

    @property
    def vhost(self) -> VirtualHost:
        """The lab's virtual host, made when it is first asked for."""
        if self._vhost is None:
            self._vhost = self._open().enter_context(self.broker.virtual_host(self.name))
            if not self._vhost.created:
                print(
                    "This broker's user may not make virtual hosts, so the notebook works in the one "
                    "that was given. Queues of an earlier run may be in it."
                )
        return self._vhost

    @property
    def url(self) -> str:
        """The AMQP URL of the lab's virtual host."""
        return self.vhost.url

    def _open(self) -> contextlib.ExitStack:
        self.start()
        assert self._stack is not None
        return self._stack

    def use(self, service: S) -> S:
        """Starts a service, and stops it with the lab.

        Args:
            service: anything with `start()` and `stop()`: a consumer, a shop, a probe.

        Returns:
            The service.
        """
        stack = self._open()
        service.start()
        stack.callback(service.stop)
        return service

    def connect(self, name: str = "notebook") -> pika.BlockingConnection:
        """A connection of pika's to the lab's virtual host, closed with the lab.

        It belongs to the thread that asks for it; in a notebook, that is the cells' own.
        """
        from labkit import amqp

        connection = amqp.connect(self.url, name, heartbeat_wall_s=0)

        def close() -> None:
            with contextlib.suppress(Exception):  # it may be broken: some experiments do that
                connection.close()

        self._open().callback(close)
        return connection

    def new_folder(self, name: str) -> Path:
        """An empty folder for one experiment, inside the lab's; a second one gets a number."""
        self.start()
        for number in range(1, 1000):
            folder = self.folder / (name if number == 1 else f"{name}-{number}")
            if not folder.exists():
                folder.mkdir(parents=True)
                return folder
        raise LabError(f"There are a thousand folders named {name}.", str(self.folder))

    def stop(self) -> None:
        """Stops everything that was started with it, the last one first; may be called twice.

        Raises:
            LabError: a service did not stop, or had failed while it ran.
        """
        stack, self._stack = self._stack, None
        self._vhost = None
        if stack is not None:
            atexit.unregister(self._stop_quietly)
            stack.close()

    def _stop_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self.stop()


def _new_folder() -> Path:
    """A folder named after this process, so that a later lab sees whether its owner is gone.

    What a killed kernel left behind is removed on the way.
    """
    from labkit.broker.records import Owner, home, make_folder

    while True:
        labs = make_folder(home() / "labs")
        with contextlib.suppress(FileNotFoundError):  # the last lab before us took it along
            for left_over in labs.iterdir():
                pid, created, *_ = left_over.name.split("-")
                if not Owner(int(pid), float(created)).alive():
                    shutil.rmtree(left_over, ignore_errors=True)
            return Path(tempfile.mkdtemp(prefix=f"{Owner.me().label}-", dir=labs))


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another lab's folder, or a broker, is in it
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
