"""What the checks of notebook 07 share: a channel that notes what a learner does on it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotYet

#: More calls than any answer needs: a loop without an end.
MOST_CALLS = 60
#: What the broker does behind a caller's back, such as to move a dead letter, is done by then.
SETTLED_WALL_S = 4.0


@dataclass
class Notes:
    """What was called on a channel.

    Attributes:
        calls: `get`, `publish`, `ack`, `reject`, `requeue`, and of queues `bind`, `unbind`,
            `delete`, in their order.
        ack_threads: in which threads something was acknowledged.
    """

    calls: list[str] = field(default_factory=list)
    ack_threads: list[int] = field(default_factory=list)


def noting(channel: BlockingChannel) -> Notes:
    """Lets a channel of this thread note what is called on it, and end a loop that has no end."""
    notes, owner = Notes(), threading.get_ident()
    get, ack = channel.basic_get, channel.basic_ack
    nack, reject = channel.basic_nack, channel.basic_reject

    def note(call: str) -> None:
        notes.calls.append(call)
        if len(notes.calls) > MOST_CALLS:
            raise NotYet(
                f"After {MOST_CALLS} calls on the channel your code still goes on",
                "it comes to an end",
                "a message that is put back with requeue=True is the first that the next basic_get "
                "takes. Leave it unanswered until the loop is over",
            )

    def basic_get(queue: str, auto_ack: bool = False) -> Any:
        note("get")
        if auto_ack:
            raise NotYet(
                f"basic_get({queue!r}, auto_ack=True)",
                "each message is acknowledged when it is safe at its new place",
                "auto_ack counts as acknowledged what is only on its way to you: a crash after "
                "that loses it",
            )
        return get(queue)

    def basic_ack(*args: Any, **kwargs: Any) -> Any:
        note("ack")
        notes.ack_threads.append(threading.get_ident())
        if threading.get_ident() != owner:
            return None  # noted, and not done: two threads on one connection break it
        return ack(*args, **kwargs)

    def basic_reject(delivery_tag: int = 0, requeue: bool = True) -> Any:
        note("requeue" if requeue else "reject")
        return reject(delivery_tag, requeue)

    def basic_nack(delivery_tag: int = 0, multiple: bool = False, requeue: bool = True) -> Any:
        note("requeue" if requeue else "reject")
        return nack(delivery_tag, multiple, requeue)

    def also(call: str, done: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            note(call)
            return done(*args, **kwargs)

        return noted

    channel.queue_bind = also("bind", channel.queue_bind)
    channel.queue_unbind = also("unbind", channel.queue_unbind)
    channel.queue_delete = also("delete", channel.queue_delete)
    channel.basic_get, channel.basic_publish = basic_get, also("publish", channel.basic_publish)
    channel.basic_ack, channel.basic_nack, channel.basic_reject = (
        basic_ack,
        basic_nack,
        basic_reject,
    )
    return notes


@contextlib.contextmanager
def learners_channel(url: str) -> Iterator[tuple[BlockingChannel, Notes]]:
    """A channel of its own for the learner, with confirms on, closed with its connection."""
    connection = amqp.connect(url, "exercise")
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel, noting(channel)
    except pika.exceptions.ChannelClosedByBroker as exc:
        raise NotYet(
            f"The broker has closed your channel: {exc.reply_code} "
            f"{exc.reply_text.split(' for queue')[0].split(' in vhost')[0]}",
            "none of the calls is refused",
            _why(exc.reply_code, exc.reply_text),
        ) from None
    finally:
        if connection.is_open:
            connection.close()


@contextlib.contextmanager
def errors_allowed() -> Iterator[None]:
    """Lets an answer raise what it likes where only the messages' whereabouts count."""
    try:
        yield
    except NotYet:
        raise
    except Exception:  # pika's, labkit's or the learner's own
        pass


def _why(code: int, text: str) -> str:
    if code == 406 and "inequivalent" in text:
        return (
            "a queue that is there was declared again with other arguments. That changes nothing "
            "and is refused: a queue with other arguments needs another name"
        )
    if code == 406:
        return "a delivery that was answered twice"
    return "a queue or an exchange of this name is not there" if code == 404 else ""


def dying_into(queue: str) -> dict[str, str]:
    """Arguments of a queue whose dead letters go to another queue."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def persistent(order_id: str, **headers: Any) -> pika.BasicProperties:
    """Properties of a message about an order."""
    return pika.BasicProperties(
        delivery_mode=amqp.PERSISTENT, correlation_id=order_id, headers=headers or None
    )


def messages(
    channel: BlockingChannel, queue: str, wanted: int = 0
) -> list[tuple[pika.BasicProperties, bytes]]:
    """Takes everything out of a queue; waits a while where there is less than wanted."""
    found: list[tuple[pika.BasicProperties, bytes]] = []
    deadline = time.monotonic() + SETTLED_WALL_S
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            found.append((properties, body))
        elif len(found) >= wanted or time.monotonic() > deadline:
            return found
        else:
            time.sleep(0.02)


def names(found: list[tuple[pika.BasicProperties, bytes]]) -> str:
    """The orders of some messages, for a sentence."""
    return ", ".join(str(properties.correlation_id) for properties, _ in found) or "none"
