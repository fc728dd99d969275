"""A virtual host of one's own on a broker, and what waits in its queues."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from labkit.background import Managed
from labkit.broker import address
from labkit.broker.admin import AbsentError, Admin, RefusedError
from labkit.broker.opening import open_connection
from labkit.broker.records import Owner
from labkit.errors import BrokerError, InputError

if TYPE_CHECKING:
    from labkit.broker.base import Broker

MAX_CONNECTIONS = 500
MAX_QUEUES = 500
_OURS = re.compile(r"labkit\.[^.]+\.(?P<place>[0-9a-f]{8})\.(?P<pid>\d+)-(?P<created>\d+)\.\w+")


@dataclass(frozen=True)
class QueueState:
    """What the management page says of a queue; the numbers lag by up to 5 s.

    Attributes:
        name: of the queue.
        ready: messages that wait.
        unacked: messages that a consumer has and did not acknowledge yet.
        consumers: how many there are.
        type: `classic`, `quorum` or `stream`.
        durable: whether the queue survives a restart of the broker.
    """

    name: str
    ready: int
    unacked: int
    consumers: int
    type: str
    durable: bool


class VirtualHost(Managed):
    """A virtual host that is there from `start()` to `stop()`.

    Args:
        broker: where.
        name: part of the name; letters, digits and dashes.

    Attributes:
        broker: the broker.
        name: as the broker knows it. It says which process made it, so that whoever finds one
            whose process is gone may remove it.
        created: False where the user may not make virtual hosts: then the one of the broker's
            URL is used as it is, and nothing in it is removed at the end.

    A context manager; `start()` and `stop()` may be called twice.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
            raise InputError(
                "A virtual host can't have this name.",
                f"name={name!r}",
                "use 1 to 60 letters, digits and dashes",
            )
        self.broker = broker
        self.created = False
        me = Owner.me()
        self.name = f"labkit.{name}.{_place()}.{me.pid}-{int(me.created)}.{secrets.token_hex(3)}"
        self._started = False

    @property
    def url(self) -> str:
        """The AMQP URL of this virtual host."""
        return address.with_vhost(self.broker.url, self.name)

    def __repr__(self) -> str:
        return f"<VirtualHost {self.name} on {self.broker!r}>"

    def start(self) -> Self:
        """Makes the virtual host; does nothing where it has.

        Raises:
            BrokerError: the broker does not answer.
        """
        if self._started:
            return self
        if self.broker.management_url is None:
            self._use_given()
            return self
        owner = f"made by labkit, process {os.getpid()} on {socket.gethostname()}"
        try:
            self.broker.admin.create_vhost(self.name, owner, MAX_CONNECTIONS, MAX_QUEUES)
        except RefusedError:
            self._use_given()
            return self
        self.created = self._started = True
        return self

    def _use_given(self) -> None:
        self.name = address.parse(self.broker.url).vhost
        self._started = True

    def stop(self) -> None:
        """Removes the virtual host, what is in it and its connections; may be called twice."""
        if self._started and self.created:
            # Where the broker is gone or down, the next connect() to it sweeps what is left.
            with contextlib.suppress(BrokerError):
                self.broker.admin.delete_vhost(self.name)
        self._started = self.created = False

    def depths(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """The number of ready messages by queue, as it is now.

        Ready means waiting: what a consumer has and did not acknowledge is not in it.

        Args:
            names: of queues; every queue of the virtual host if left out. One that is not there
                is left out of the result.

        Raises:
            BrokerError: the broker does not answer, or `names` is left out and it has no
                management page to ask for them.
        """
        if names is None:
            names = [q["name"] for q in self.broker.admin.queues(self.name, columns="name")]
        return ready_by_queue(self.url, names)

    def queues(self) -> list[QueueState]:
        """What the management page says of each queue; the numbers lag by up to 5 s.

        Raises:
            BrokerError: the broker has no management page that answers.
        """
        return [
            QueueState(
                q["name"],
                q.get("messages_ready", 0),
                q.get("messages_unacknowledged", 0),
                q.get("consumers", 0),
                q.get("type", "classic"),
                q.get("durable", True),
            )
            for q in self.broker.admin.queues(self.name)
        ]


def ready_by_queue(url: str, names: Iterable[str]) -> dict[str, int]:
    """Asks a broker by passive declares for the ready messages of queues, leaving out absent ones.

    Raises:
        BrokerError: the broker does not answer.
    """
    names = list(names)
    if not names:
        return {}
    import pika.exceptions

    found: dict[str, int] = {}
    try:
        connection = open_connection(address.parse(url), "depths")
        with contextlib.closing(connection):
            channel = connection.channel()
            for name in names:
                try:
                    declared = channel.queue_declare(name, passive=True)
                    found[name] = declared.method.message_count
                except pika.exceptions.ChannelClosedByBroker as exc:
                    channel = connection.channel()
                    if exc.reply_code != 404:  # an exclusive queue of another connection: 405
                        continue
    except (pika.exceptions.AMQPError, OSError) as exc:
        raise BrokerError(
            "The broker can't be asked for its queues.",
            f"{address.masked(url)}: {type(exc).__name__} {exc}",
            "`labkit doctor` tells what is there",
        ) from exc
    return found


def owned(admin: Admin) -> dict[str, Owner]:
    """The virtual hosts that processes of this machine made, and which process it was."""
    found = {}
    for vhost in admin.vhosts():
        match = _OURS.fullmatch(vhost["name"])
        if match is not None and match["place"] == _place():
            found[vhost["name"]] = Owner(int(match["pid"]), float(match["created"]))
    return found


def sweep(admin: Admin) -> list[str]:
    """Removes the virtual hosts that processes of this machine did not live to remove.

    Returns:
        The names of those removed.
    """
    left = [name for name, owner in owned(admin).items() if not owner.alive()]
    for name in left:
        with contextlib.suppress(AbsentError):
            admin.delete_vhost(name)
    return left


def _place() -> str:
    """Where process numbers mean something: this machine, and this container in it."""
    space = ""
    with contextlib.suppress(OSError):
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"
