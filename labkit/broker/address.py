"""AMQP URLs: taken apart, checked, changed and shown without their password."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Container
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from labkit.errors import InputError

PORTS = {"amqp": 5672, "amqps": 5671}
#: Below what systems hand out for outgoing connections, so that a port is still free at a restart.
PORT_RANGE = range(20_000, 32_000)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """The parts of an AMQP URL; `str()` gives it with the password masked.

    Attributes:
        scheme: `amqp`, or `amqps` for TLS.
        host: name or number, without the brackets of an IPv6 address.
        port: TCP port.
        user: decoded.
        password: decoded.
        vhost: the virtual host, decoded; the default one is `/`.
        query: pika's options after the `?`, as they came.
    """

    scheme: str
    host: str
    port: int
    user: str
    password: str
    vhost: str
    query: str = ""

    def __str__(self) -> str:
        return self._text("***")

    def __repr__(self) -> str:
        return f"Address({self})"

    @property
    def url(self) -> str:
        """The URL, password and all."""
        return self._text(quote(self.password, safe=""))

    def _text(self, password: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = quote(self.user, safe="")
        query = f"?{self.query}" if self.query else ""
        vhost = quote(self.vhost, safe="")
        return f"{self.scheme}://{user}:{password}@{host}:{self.port}/{vhost}{query}"


def parse(url: str) -> Address:
    """Takes an AMQP URL apart.

    Args:
        url: such as `amqp://user:password@host:5672/%2F`. User and password default to `guest`,
            the port to the scheme's own, the virtual host to `/`.

    Raises:
        InputError: it is no AMQP URL; the message never holds the password.
    """
    shape = "write it as amqp://user:password@host:5672/%2F (amqps:// for TLS)"
    if not isinstance(url, str) or not url.strip():
        raise InputError("There is no AMQP URL.", f"an empty value: {url!r}", shape)
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        host = parts.hostname
    except ValueError as exc:
        raise InputError("The AMQP URL can't be read.", str(exc), shape) from None
    if parts.scheme not in PORTS:
        seen = f"it starts with {parts.scheme}://" if parts.scheme else "it names no scheme"
        raise InputError("This is not an AMQP URL.", seen, shape)
    if not host:
        raise InputError("The AMQP URL names no host.", f"{parts.scheme}:// and no host", shape)
    if port == 0:
        raise InputError("The AMQP URL names no usable port.", "port 0", shape)
    vhost = parts.path[1:]
    if "/" in vhost:
        raise InputError(
            "The AMQP URL names a virtual host that can't be read.",
            f"its path is {parts.path!r}",
            "in a virtual host's name a slash is written %2F; the default one is /%2F",
        )
    return Address(
        parts.scheme,
        host,
        port or PORTS[parts.scheme],
        unquote(parts.username) if parts.username else "guest",
        unquote(parts.password) if parts.password else "guest",
        unquote(vhost) if vhost else "/",
        parts.query,
    )


def masked(url: str) -> str:
    """The URL with `***` for its password, fit to be printed."""
    return str(parse(url))


def with_vhost(url: str, vhost: str) -> str:
    """The same URL with another virtual host."""
    return replace(parse(url), vhost=vhost).url


def bound(port: int) -> socket.socket:
    """A socket that is bound to this port of the loopback address, for the caller to close.

    Args:
        port: which; 0 lets the system choose.

    Raises:
        OSError: another program has the port.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # what a closed connection leaves behind is no hindrance
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((LOOPBACK, port))
    except OSError:
        server.close()
        raise
    return server


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    try:
        bound(port).close()
    except OSError:
        return False
    return True


def free_ports(count: int, besides: Container[int] = ()) -> list[int]:
    """That many different ports of the loopback address on which nobody listens.

    Args:
        count: how many.
        besides: ports that are not to be taken, though nobody listens now.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORT_RANGE, len(PORT_RANGE)):
        if port not in besides and is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise InputError("No port is free.", f"tried {PORT_RANGE[0]} to {PORT_RANGE[-1]}")
