"""The first frame of an AMQP connection: who answers at an address, and which version it is.

It takes a millisecond, needs no credentials and no client library, so that it can be asked
often while a broker starts.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass

from labkit.broker.address import Address
from labkit.errors import BrokerError

OLDEST = (3, 10)
_HEADER = b"AMQP\x00\x00\x09\x01"


@dataclass(frozen=True)
class Greeting:
    """What a broker says of itself.

    Attributes:
        product: such as `RabbitMQ`.
        version: such as `4.3.6`.
    """

    product: str
    version: str


def greet(address: Address, timeout_wall_s: float = 3.0) -> Greeting:
    """Opens a connection as far as the broker's first frame, and drops it.

    Raises:
        OSError: nobody answers in time, or the connection is refused.
        BrokerError: something answers that does not speak AMQP 0-9-1.
    """
    with socket.create_connection((address.host, address.port), timeout_wall_s) as plain:
        plain.settimeout(timeout_wall_s)
        connection: socket.socket = plain
        if address.scheme == "amqps":
            # Only the greeting is read here, no secret is sent: pika checks the certificate.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain, server_hostname=address.host)
        with connection:
            connection.sendall(_HEADER)
            return _read(connection, address)


def _read(connection: socket.socket, address: Address) -> Greeting:
    head = _exactly(connection, 7)
    kind, _, size = struct.unpack(">BHI", head)
    if head.startswith(b"AMQP") or kind != 1 or not 14 <= size < 1 << 20:
        raise _stranger(address, head)
    body = _exactly(connection, size + 1)
    if body[:4] != b"\x00\x0a\x00\x0a":  # connection.start
        raise _stranger(address, head + body[:20])
    (length,) = struct.unpack(">I", body[6:10])
    try:
        properties = _strings(body[10 : 10 + length])
    except (IndexError, struct.error, UnicodeDecodeError):
        raise _stranger(address, head + body[:20]) from None
    return Greeting(properties.get("product", "?"), properties.get("version", "?"))


def _stranger(address: Address, seen: bytes) -> BrokerError:
    return BrokerError(
        "What answers there is no AMQP 0-9-1 broker.",
        f"{address.host}:{address.port} sent {seen[:40]!r}",
        "check host and port in the URL (AMQP is usually 5672; 15672 is the management page)",
    )


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the other side closed the connection")
        data += part
    return data


def _strings(table: bytes) -> dict[str, str]:
    """The long strings at the top level of an AMQP field table; nothing else is needed here."""
    found: dict[str, str] = {}
    at = 0
    while at < len(table):
        name = table[at + 1 : at + 1 + table[at]].decode()
        at += 1 + table[at]
        kind, at = table[at : at + 1], at + 1
        if kind in b"SF":
            (length,) = struct.unpack(">I", table[at : at + 4])
            if kind == b"S":
                found[name] = table[at + 4 : at + 4 + length].decode()
            at += 4 + length
        elif kind == b"t":
            at += 1
        else:  # a broker's greeting holds nothing else
            break
    return found


def check_version(greeting: Greeting, address: Address) -> str:
    """The version, if the course runs on it.

    Raises:
        BrokerError: it is another product, or older than 3.10.
    """
    numbers = tuple(int(n) for n in greeting.version.split(".")[:2] if n.isdigit())
    if greeting.product != "RabbitMQ":
        raise BrokerError(
            "The broker is not RabbitMQ.",
            f"{address.host}:{address.port} is {greeting.product} {greeting.version}",
            "give the address of a RabbitMQ, or let labkit start one (`labkit broker start`)",
        )
    if len(numbers) == 2 and numbers < OLDEST:
        raise BrokerError(
            "The broker is too old.",
            f"RabbitMQ {greeting.version} at {address.host}:{address.port}; "
            f"the course needs {OLDEST[0]}.{OLDEST[1]} or later",
            "upgrade it, or unset LABKIT_AMQP_URL and let labkit start a newer one",
        )
    return greeting.version
