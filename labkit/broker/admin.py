"""RabbitMQ's management HTTP API, as far as the course needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from labkit.errors import BrokerError

TIMEOUT_WALL_S = 10.0
#: A virtual host takes its quorum queues with it, one after the other.
DELETE_TIMEOUT_WALL_S = 60.0


class RefusedError(BrokerError):
    """The management API knows the user and says no (401 or 403)."""


class AbsentError(BrokerError):
    """What was asked for is not there (404)."""


class Admin:
    """Asks and changes a broker through its management plugin.

    Args:
        url: such as `http://127.0.0.1:15672`, without credentials.
        user: a user with the tag `administrator`, or `management` for what is its own.
        password: the user's.

    Each call is one HTTP request on a connection of its own, so any thread may call.
    Numbers of messages lag by up to 5 s, unless the broker collects them more often.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._auth = (user, password)

    def __repr__(self) -> str:
        return f"Admin({self.url!r}, user={self._auth[0]!r})"

    def call(
        self,
        method: Literal["GET", "PUT", "POST", "DELETE"],
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_wall_s: float = TIMEOUT_WALL_S,
    ) -> Any:
        """One request below `/api/`.

        Returns:
            The decoded JSON, or None where the answer is empty.

        Raises:
            RefusedError: 401 or 403.
            AbsentError: 404.
            BrokerError: nobody answers, or any other status from 400 on.
        """
        import requests
        from urllib3 import Retry

        # 4.0 answers 500 to a question for what is being removed just now (see `vhosts`).
        again = Retry(
            2,
            connect=0,
            read=False,
            other=0,
            status_forcelist=[500],
            allowed_methods=["GET"],
            raise_on_status=False,
        )
        to_do = "`labkit doctor` tells what is there"
        try:
            with requests.Session() as session:
                # A proxy set for the internet has no way to this machine's own loopback.
                session.trust_env = urlsplit(self.url).hostname not in ("127.0.0.1", "localhost")
                session.auth = self._auth
                for scheme in ("http://", "https://"):
                    session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=again))
                answer = session.request(
                    method,
                    f"{self.url}/api/{path}",
                    json=body,
                    params=query or {},
                    headers=dict(headers or {}),
                    timeout=timeout_wall_s,
                )
        except requests.RequestException as exc:
            raise BrokerError(
                "The broker's management page does not answer.",
                f"{self.url}: {type(exc).__name__}",
                to_do,
            ) from exc
        if answer.status_code in (401, 403):
            raise RefusedError(
                "The broker's management page refuses the user.",
                f"{self.url}, user {self._auth[0]!r}: {answer.status_code} {answer.text[:200]}",
                "use a user with the tag `management` or `administrator`",
            )
        if answer.status_code == 404:
            raise AbsentError(
                "The broker does not know it.", f"{method} {path}: 404", "check the name"
            )
        if answer.status_code >= 400:
            raise BrokerError(
                "The broker's management page reports an error.",
                f"{method} {path}: {answer.status_code} {answer.text[:300]}",
                to_do,
            )
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise BrokerError(
                "What answers is no management page of RabbitMQ.",
                f"{self.url}: {answer.text[:80]!r}",
                "set LABKIT_MANAGEMENT_URL, such as http://host:15672",
            ) from None

    def whoami(self, timeout_wall_s: float = TIMEOUT_WALL_S) -> dict[str, Any]:
        """The user's `name` and `tags`."""
        found: dict[str, Any] = self.call("GET", "whoami", timeout_wall_s=timeout_wall_s)
        return found

    def vhosts(self) -> list[dict[str, Any]]:
        """Every virtual host: `name`, `description` and more.

        RabbitMQ reads the names first and then each one's entry. One that is removed in between
        is listed without a name (3.10 and 4.3), and left out here. On 4.0 it spoils the answer.
        """
        found: list[dict[str, Any]] = self.call("GET", "vhosts")
        return [vhost for vhost in found if "name" in vhost]

    def create_vhost(
        self, name: str, description: str, max_connections: int, max_queues: int
    ) -> None:
        """Makes a virtual host with limits, which the user may use in full."""
        vhost = quote(name, safe="")
        self.call("PUT", f"vhosts/{vhost}", {"description": description, "tags": "labkit"})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        user = quote(self._auth[0], safe="")
        self.call("PUT", f"permissions/{vhost}/{user}", everything)
        limits = {"max-connections": max_connections, "max-queues": max_queues}
        for limit, value in limits.items():
            self.call("PUT", f"vhost-limits/{vhost}/{limit}", {"value": value})

    def delete_vhost(self, name: str) -> None:
        """Removes a virtual host, what is in it, and its connections."""
        path = f"vhosts/{quote(name, safe='')}"
        self.call("DELETE", path, timeout_wall_s=DELETE_TIMEOUT_WALL_S)

    def limits(self, vhost: str) -> dict[str, int]:
        """A virtual host's limits by their names, such as `max-queues`."""
        found = self.call("GET", f"vhost-limits/{quote(vhost, safe='')}")
        return dict(found[0]["value"]) if found else {}

    def queues(self, vhost: str | None = None, **query: str) -> list[dict[str, Any]]:
        """The queues of one virtual host, or of all; numbers of messages lag."""
        return self._list("queues", vhost, **query)

    def exchanges(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """The exchanges of one virtual host, or of all."""
        return self._list("exchanges", vhost)

    def bindings(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """The bindings of one virtual host, or of all."""
        return self._list("bindings", vhost)

    def connections(self, vhost: str | None = None) -> list[dict[str, Any]]:
        """The open connections; a new one may take up to 5 s to show."""
        if vhost is None:
            return self._list("connections", None)
        found: list[dict[str, Any]] = self.call(
            "GET", f"vhosts/{quote(vhost, safe='')}/connections"
        )
        return found

    def close_connection(self, name: str, reason: str = "closed by labkit") -> None:
        """Closes a connection from the broker's side.

        Args:
            name: as `connections()` gives it, such as `127.0.0.1:51000 -> 127.0.0.1:5672`.
            reason: what the client is told.
        """
        self.call("DELETE", f"connections/{quote(name, safe='')}", headers={"X-Reason": reason})

    def _list(self, what: str, vhost: str | None, **query: str) -> list[dict[str, Any]]:
        path = what if vhost is None else f"{what}/{quote(vhost, safe='')}"
        found: list[dict[str, Any]] = self.call("GET", path, query=query)
        return found
