"""A broker that somebody else runs, given by `LABKIT_AMQP_URL`."""

from __future__ import annotations

import os
from typing import ClassVar

from labkit.broker.address import Address
from labkit.broker.admin import Admin
from labkit.broker.base import Broker
from labkit.broker.opening import open_connection
from labkit.errors import BrokerError

_UNASKED = "?"


class GivenBroker(Broker):
    """A shared or classroom broker, which labkit neither starts nor stops.

    Its management page is looked for when it is first needed: at `LABKIT_MANAGEMENT_URL`, else
    at the usual port of the broker's host.
    """

    kind: ClassVar[str] = "url"
    can_restart: ClassVar[bool] = False

    def __init__(self, url: str, version: str = "") -> None:
        super().__init__(url, version, _UNASKED)

    @property
    def management_url(self) -> str | None:
        """The address of the management page; None where none lets the user of the URL in."""
        if self._management_url == _UNASKED:
            self._management_url = self._find_page()
        return self._management_url

    def _find_page(self) -> str | None:
        told = os.environ.get("LABKIT_MANAGEMENT_URL")
        parts = self._address
        host = f"[{parts.host}]" if ":" in parts.host else parts.host
        tls = parts.scheme == "amqps"
        page = told or (f"https://{host}:15671" if tls else f"http://{host}:15672")
        try:
            Admin(page, parts.user, parts.password).whoami(timeout_wall_s=3.0)
        except BrokerError:
            return None
        return page


def log_in(parts: Address) -> None:
    """Opens and closes a connection with the URL's user, password and virtual host.

    Raises:
        BrokerError: the broker refuses one of them.
    """
    open_connection(parts, "log-in").close()
