"""What every broker offers, wherever it comes from."""

from __future__ import annotations

import time
from types import TracebackType
from typing import ClassVar, Self

from labkit.broker import address
from labkit.broker.admin import Admin
from labkit.broker.greeting import Greeting, check_version, greet
from labkit.broker.processes import telling
from labkit.broker.vhost import VirtualHost, ready_by_queue
from labkit.errors import BrokerError

READY_POLL_WALL_S = 0.02
READY_TIMEOUT_WALL_S = 120.0


class Broker:
    """A RabbitMQ.

    Args:
        url: its AMQP URL, with the password.
        version: of RabbitMQ, such as `4.3.6`.
        management_url: of its management page, without credentials; None where there is none.

    Attributes:
        kind: where it comes from: `url`, `compose`, `container` or `node`.
        can_restart: whether `stop`, `kill` and `start` work on it.

    A context manager: it is started at the beginning; at the end `close()` is called.
    """

    kind: ClassVar[str] = "url"
    can_restart: ClassVar[bool] = False

    def __init__(self, url: str, version: str = "", management_url: str | None = None) -> None:
        self._address = address.parse(url)
        self._version = version
        self._management_url = management_url

    @property
    def url(self) -> str:
        """The AMQP URL, password and all; the same after a restart."""
        return self._address.url

    @property
    def version(self) -> str:
        """RabbitMQ's version, such as `4.3.6`."""
        return self._version

    @property
    def management_url(self) -> str | None:
        """The address of the management page, without credentials; None where there is none."""
        return self._management_url

    @property
    def admin(self) -> Admin:
        """The management HTTP API, with the credentials of `url`.

        Raises:
            BrokerError: the broker has none that answers.
        """
        if self.management_url is None:
            raise BrokerError(
                "The broker has no management page.",
                f"{self!r}",
                "set LABKIT_MANAGEMENT_URL, such as http://host:15672",
            )
        return Admin(self.management_url, self._address.user, self._address.password)

    def __repr__(self) -> str:
        version = self._version or "not running"
        return f"<Broker {self.kind}, RabbitMQ {version}, {self._address}>"

    def answers(self, timeout_wall_s: float = 3.0) -> bool:
        """Whether it greets whoever connects."""
        try:
            self._version = greet(self._address, timeout_wall_s).version
        except (OSError, BrokerError):
            return False
        return True

    def start(self) -> Self:
        """Starts it and returns when it answers; does nothing where it runs.

        Raises:
            BrokerError: it can't be started.
        """
        raise self._not_ours("start")

    def stop(self) -> None:
        """Stops it in good order; what is durable stays for the next `start()`.

        Raises:
            BrokerError: it can't be stopped from here.
        """
        raise self._not_ours("stop")

    def kill(self) -> None:
        """Ends it by SIGKILL, as a power cut would; what is durable stays for `start()`.

        Raises:
            BrokerError: it can't be killed from here.
        """
        raise self._not_ours("kill")

    def close(self) -> None:
        """Gives it back: one of one's own ends for good, with its data; a shared one goes on."""

    def _not_ours(self, what: str) -> BrokerError:
        return BrokerError(
            f"This broker can't be told to {what}.",
            f"it was given as a URL: {self._address}",
            "for an experiment that stops a broker, use labkit.own_broker(): it needs Docker or "
            "an installed rabbitmq-server",
        )

    def depths(self) -> dict[str, int]:
        """The number of ready messages by queue, now, in the virtual host of `url`.

        Raises:
            BrokerError: the broker or its management page does not answer.
        """
        names = [q["name"] for q in self.admin.queues(self._address.vhost, columns="name")]
        return ready_by_queue(self.url, names)

    def virtual_host(self, name: str) -> VirtualHost:
        """A virtual host of one's own, made when it is entered and removed at the end.

        Args:
            name: part of its name, such as `first-queue`.

        Returns:
            A context manager. Where the broker's user may not make virtual hosts, it stands for
            the one of `url`, and says so by `created`.
        """
        return VirtualHost(self, name)

    def _wait_until_ready(self) -> Greeting:
        """Returns as soon as the broker greets.

        Raises:
            BrokerError: it does not in time, or `_check_alive` says why it never will.
        """
        deadline = time.monotonic() + READY_TIMEOUT_WALL_S
        next_look = time.monotonic() + 0.25
        while True:
            try:
                greeting = greet(self._address, 1.0)
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise BrokerError(
                        "The broker does not answer after its start.",
                        f"{self._address} for {READY_TIMEOUT_WALL_S:g} s: {exc}\n"
                        f"in its log:\n{telling(self._log())}",
                        [
                            "look at what the machine is busy with, then try again",
                            "where its log tells of errors, take another one: labkit.own_broker()",
                        ],
                    ) from exc
            else:
                check_version(greeting, self._address)
                self._version = greeting.version
                return greeting
            if time.monotonic() > next_look:
                self._check_alive()
                next_look = time.monotonic() + 0.25
            time.sleep(READY_POLL_WALL_S)

    def _check_alive(self) -> None:
        """Raises BrokerError where what was started has ended."""

    def _log(self) -> str:
        """What the server has written lately, for an error message."""
        return "(no log)"

    def __enter__(self) -> Self:
        if self.can_restart:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
