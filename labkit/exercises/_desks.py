"""The check of notebook 02's topology: which of its probes reach which queue."""

from __future__ import annotations

from collections.abc import Callable

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit.checks import NotYet
from labkit.exercises._looking import connected, delete, ready, refusal_of

ConnectDesks = Callable[[BlockingChannel], object]

DESKS = "desks"
EU, FAILED, ARCHIVE = "eu_desk", "failed_payments", "archive"
#: Each probe's key, and the queues that it must reach.
PROBES = {
    "order.created.eu": {EU, ARCHIVE},
    "order.cancelled.eu": {EU, ARCHIVE},
    "order.created.us": {ARCHIVE},
    "order.eu": {ARCHIVE},
    "order.item.returned.eu": {ARCHIVE},
    "payment.failed": {FAILED, ARCHIVE},
    "payment.failed.card": {FAILED, ARCHIVE},
    "payment.failed.card.expired": {FAILED, ARCHIVE},
    "payment.completed": {ARCHIVE},
    "refund": {ARCHIVE},
}
#: What a broker names that no longer makes transient queues for more than one connection.
TRANSIENT = "transient_nonexcl_queues"
_STAR = "* stands for exactly one word, # for any number of words, none included"
#: What most likely led to a wrong queue: by the queue and whether it got a probe that it should not.
CAUSES = {
    (EU, True): f"{_STAR}: between `order` and `eu` there must be one word, no more and no less",
    (EU, False): "the binding's key needs three words, of which the one in the middle is open",
    (FAILED, True): "the binding's key must name both words, `payment` and `failed`",
    (FAILED, False): f"{_STAR}: after `payment.failed` any number of words may follow, or none",
    (ARCHIVE, False): f"{_STAR}: only # alone takes every key",
}


def _check_exchange(connection: pika.BlockingConnection) -> None:
    if refusal_of(connection, lambda c: c.exchange_declare(DESKS, passive=True)):
        raise NotYet(
            f"After your function there is no exchange {DESKS!r}",
            f"an exchange of the type topic, named {DESKS!r}",
            "exchange_declare is missing, or the name differs",
        )
    # To declare it again changes nothing; where it was declared otherwise, the broker says how.
    refusal = refusal_of(
        connection, lambda c: c.exchange_declare(DESKS, exchange_type="topic", durable=True)
    )
    if "'type'" in refusal:
        kind = refusal.rpartition("current is ")[2].strip("'")
        raise NotYet(
            f"The exchange {DESKS!r} is of the type {kind}",
            "topic",
            "fanout ignores the binding's key, direct takes it letter by letter: of the three, "
            "only topic knows * and #",
        )
    if "'durable'" in refusal or "'auto_delete'" in refusal:
        raise NotYet(
            f"The exchange {DESKS!r} does not last",
            "durable=True, and not auto_delete",
            "exchange_declare makes a transient one unless it is told otherwise",
        )


def _check_queue(connection: pika.BlockingConnection, queue: str) -> None:
    refusal = refusal_of(connection, lambda c: c.queue_declare(queue, passive=True))
    if refusal.startswith("404"):
        raise NotYet(
            f"After your function there is no queue {queue!r}",
            f"three queues: {EU}, {FAILED} and {ARCHIVE}",
            "queue_declare is missing for it, or the name differs",
        )
    refusal = refusal or refusal_of(connection, lambda c: c.queue_declare(queue, durable=True))
    if refusal.startswith("405"):
        raise NotYet(
            f"The queue {queue!r} is exclusive",
            "a queue that other connections may use",
            "exclusive=True ties a queue to the connection that declares it",
        )
    if "'durable'" in refusal or "'auto_delete'" in refusal:
        raise NotYet(
            f"The queue {queue!r} does not last",
            "durable=True, and not auto_delete",
            "queue_declare makes a transient queue unless it is told otherwise",
        )


def _reached(channel: BlockingChannel, key: str) -> set[str]:
    """The queues that a probe with this key arrives in."""
    for queue in (EU, FAILED, ARCHIVE):
        channel.queue_purge(queue)
    channel.basic_publish(DESKS, key, b"a probe")  # confirmed: it is in its queues on return
    return {queue for queue in (EU, FAILED, ARCHIVE) if ready(channel, queue)}


def _check_probes(channel: BlockingChannel) -> None:
    reached_by = {key: _reached(channel, key) for key in PROBES}
    # A queue that got nothing at all is a missing binding, before it is a matter of patterns.
    for queue in (ARCHIVE, EU, FAILED):
        if not any(queue in reached for reached in reached_by.values()):
            raise NotYet(
                f"Nothing arrives in {queue!r}: none of {len(PROBES)} keys reached it",
                f"such keys as {next(key for key in PROBES if queue in PROBES[key])!r} do",
                f"is it bound to {DESKS!r} at all? Then its binding's key fits none of them",
            )
    for key, reached in reached_by.items():
        wanted = PROBES[key]
        for queue in sorted(reached ^ wanted):
            verb = "reached" if queue in reached else "did not reach"
            raise NotYet(
                f"A message with the key {key!r} {verb} {queue!r}",
                f"it reaches {' and '.join(sorted(wanted))}, and nothing else",
                CAUSES.get((queue, queue in reached), "compare the keys word by word"),
            )


def _call(connect_desks: ConnectDesks, connection: pika.BlockingConnection) -> None:
    """Runs the learner's function, and says why a broker refuses a queue that it refuses."""
    try:
        connect_desks(connection.channel())
    except (
        pika.exceptions.ChannelClosedByBroker,
        pika.exceptions.ConnectionClosedByBroker,
    ) as exc:
        if TRANSIENT not in exc.reply_text:
            raise
        raise NotYet(
            f"The broker refuses one of your queues: {exc.reply_code} {exc.reply_text}",
            "three queues, each with durable=True, and not exclusive",
            "queue_declare makes a transient queue unless it is told otherwise, and this broker "
            "makes none that are not exclusive",
        ) from exc


def check_desks(connect_desks: ConnectDesks, url: str) -> None:
    """Sends probes through what the learner's function declares, and looks where they arrive.

    Raises:
        NotYet: one of them arrives elsewhere, or a declaration is not as it was asked for.
    """
    with connected(url) as ours, connected(url) as learners:
        channel = ours.channel()
        channel.confirm_delivery()
        channel.exchange_delete(DESKS)  # with the bindings of an earlier attempt
        delete(ours, EU, FAILED, ARCHIVE)
        _call(connect_desks, learners)
        _check_exchange(ours)
        for queue in (EU, FAILED, ARCHIVE):
            _check_queue(ours, queue)
        _check_probes(channel)
