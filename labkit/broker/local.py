"""A broker that labkit itself started: what a private node and a container have in common."""

from __future__ import annotations

import atexit
import contextlib
import time
from typing import ClassVar, Self

from labkit.broker import address, processes, records
from labkit.broker.base import Broker
from labkit.broker.records import Owner, Record
from labkit.errors import BrokerError

PORTS_FREE_WALL_S = 2.0


class LocalBroker(Broker):
    """A broker that labkit started, with a record of it on disk.

    Args:
        record: what is known of it.

    Attributes:
        record: the same, kept up to date.
        new: whether nobody can have used it before this process.

    `stop` and `kill` keep its address and its data for the next `start`; `remove` ends it for
    good and leaves nothing. A keeper process does so when nobody else can any more.
    """

    can_restart: ClassVar[bool] = True

    def __init__(self, record: Record) -> None:
        super().__init__(record.url, record.version, record.management_url)
        self.record = record
        self.new = record.status == "starting"
        #: Made by this process a moment ago: there is no earlier start to look for or clean up.
        self._fresh = self.new and record.owner == Owner.me()

    @property
    def shared(self) -> bool:
        """Whether other processes of the user may use it, too."""
        return self.record.shared

    def start(self) -> Self:
        """Starts it with the address and the data that it had; does nothing where it runs.

        Raises:
            BrokerError: it was closed, one of its ports is in use by now, or it does not come up.
        """
        if self.answers(1.0):
            return self
        with records.locked() if self.shared else contextlib.nullcontext():
            if not self.record.reload():
                raise BrokerError(
                    "This broker has been closed.",
                    f"{self._address}: its folder is gone",
                    "take another one: labkit.connect() or labkit.own_broker()",
                )
            self.boot()
        return self

    def boot(self) -> None:
        """Starts it, for whoever holds the lock or owns it alone; returns when it answers."""
        if not self._fresh and self.answers(1.0):
            return
        self.record.status = "starting"
        self.record.owner = Owner.me()
        self.record.save()
        self.ensure_keeper()  # before the broker: whoever starts it may be killed meanwhile
        if not self._alive():  # one that is too busy to answer is not to be started twice
            self._boot()
        self._fresh = False
        self._wait_until_ready()
        self.record.version = self.version
        self._note("running")

    def stop(self) -> None:
        """Stops it in good order; its address and what is durable stay for `start()`."""
        self._note("stopped")
        self._halt()

    def kill(self) -> None:
        """Ends it by SIGKILL, as a power cut would; its address and what is durable stay."""
        self._note("stopped")
        self._kill()

    def close(self) -> None:
        """Ends one of one's own for good; a shared one goes on for the others."""
        if not self.shared:
            self.remove()

    def remove(self) -> None:
        """Ends it for good, with its data, its keeper and its folder; may be called twice.

        Raises:
            BrokerError: something of it can't be ended; the keeper goes on trying.
        """
        atexit.unregister(self.close)
        self._note("removing")  # from now on nobody takes it for theirs
        self._clear()
        records.forget(self.record)
        processes.end(self.record.keeper)
        last = not self.record.folder.parent.exists() and records.home().exists()
        if not self.shared and last:
            with contextlib.suppress(BrokerError), records.locked(0.0):
                pass  # which tidies up

    def ensure_keeper(self) -> None:
        """Starts the process that looks after it, where there is none."""
        if self.record.keeper is None or not self.record.keeper.alive():
            self.record.keeper = processes.launch_keeper(self.record.folder)
            self.record.save()

    def _note(self, status: str) -> None:
        if self.record.exists():
            self.record.status = status
            with contextlib.suppress(FileNotFoundError):  # removed at this very moment
                self.record.save()

    def _await_ports(self) -> list[int]:
        """Its ports that are still taken when a killed process has had time to let go of them.

        One that shows as ended already may have threads that end a moment later.
        """
        deadline = time.monotonic() + PORTS_FREE_WALL_S
        ports = self.record.details["ports"].values()
        while taken := [port for port in ports if not address.is_free(port)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return taken

    def _need_ports(self) -> None:
        """Raises a BrokerError where one of its ports is taken by another program."""
        if taken := self._await_ports():
            raise BrokerError(
                "The broker's port is in use.",
                f"{address.LOOPBACK}:{taken[0]} is taken by {_holder(taken[0])}",
                "end that program and try again, or take another broker",
            )

    def _alive(self) -> bool:
        """Whether what was started last still runs, answering or not."""
        raise NotImplementedError

    def _boot(self) -> None:
        raise NotImplementedError

    def _halt(self) -> None:
        raise NotImplementedError

    def _kill(self) -> None:
        raise NotImplementedError

    def _clear(self) -> None:
        """Ends all that belongs to it, whatever state it is in; fine where there is nothing."""
        raise NotImplementedError


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if local and local.port == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid:
                    return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
                break
    return "another program"


def from_record(record: Record) -> LocalBroker:
    """The broker that a record describes."""
    if record.kind == "node":
        from labkit.broker.node import NodeBroker

        return NodeBroker(record)
    from labkit.broker.container import ContainerBroker

    return ContainerBroker(record)
