"""Opens a connection of pika's, and says in words why it can't."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from labkit.broker.address import Address
from labkit.errors import BrokerError

if TYPE_CHECKING:
    import pika

HEARTBEAT_WALL_S = 30
BLOCKED_WALL_S = 10.0
#: A broker that does not answer is given up after so many real seconds.
REACH_WALL_S = 5.0


def open_connection(
    parts: Address, name: str = "labkit", heartbeat_wall_s: int = HEARTBEAT_WALL_S
) -> pika.BlockingConnection:
    """Opens a connection, for the calling thread alone.

    Args:
        parts: the broker's address, with user, password and virtual host.
        name: shown by the broker's management pages.
        heartbeat_wall_s: after twice this many real seconds of silence either side hangs up.

    Raises:
        BrokerError: nobody answers there, or the broker refuses the user or the virtual host.
    """
    import pika  # late: a broker can be started and found without it
    import pika.exceptions

    from labkit.broker.tolerant import TolerantConnection

    given = parameters(parts, name, heartbeat_wall_s)
    try:
        return pika.BlockingConnection(given, _impl_class=TolerantConnection)
    except (pika.exceptions.AMQPError, OSError) as exc:
        raise explained(exc, parts) from exc


def parameters(
    parts: Address, name: str = "labkit", heartbeat_wall_s: int = HEARTBEAT_WALL_S
) -> pika.URLParameters:
    """What pika needs to know to connect, whichever of its connections it will be."""
    import pika

    # A library must not write to stderr for want of a handler; what matters is raised or recorded.
    logger = logging.getLogger("pika")
    if not logger.handlers:  # else each connection would leave one more behind
        logger.addHandler(logging.NullHandler())
    found = pika.URLParameters(parts.url)
    found.heartbeat = heartbeat_wall_s
    found.blocked_connection_timeout = BLOCKED_WALL_S
    found.socket_timeout = found.stack_timeout = REACH_WALL_S
    found.client_properties = {"connection_name": name}
    return found


def explained(error: BaseException, parts: Address) -> BrokerError:
    """Why a connection could not be opened, in words, from the exception that pika gives."""
    import pika.exceptions

    error = innermost(error)
    if isinstance(error, pika.exceptions.ProbableAuthenticationError):
        return BrokerError(
            "The broker refuses the user or the password.",
            f"{parts} answered: {error}",
            "check both in the URL (a / or @ in a password is written %2F or %40)",
        )
    if isinstance(
        error,
        pika.exceptions.ProbableAccessDeniedError | pika.exceptions.ConnectionClosedByBroker,
    ):
        return BrokerError(
            "The broker refuses the virtual host.",
            f"{parts} answered: {error}",
            "check the last part of the URL; the default virtual host is written %2F",
        )
    return BrokerError(
        "No broker answers.",
        f"{parts}: {describe(error)}",
        "`labkit doctor` tells what is there; `labkit broker start` starts one",
    )


def describe(error: BaseException) -> str:
    """An exception of pika or the operating system in one line; pika's often have no text."""
    error = innermost(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """The cause that pika has wrapped once or twice: in `args`, `exception` or a list of attempts."""
    for inner in (*error.args, getattr(error, "exception", None)):
        if isinstance(inner, list | tuple) and inner:
            inner = inner[-1]
        if isinstance(inner, BaseException):
            return innermost(inner)
    for inner in getattr(error, "exceptions", ())[-1:]:
        return innermost(inner)
    return error
