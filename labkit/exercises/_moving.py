"""The checks of notebook 07 in which messages go from one queue to another, and none is lost."""

from __future__ import annotations

from collections.abc import Callable

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import NotAttempted, NotYet
from labkit.exercises._answers import (
    Notes,
    dying_into,
    errors_allowed,
    learners_channel,
    messages,
    names,
    persistent,
)

OLD, NEW, ORDERS, KEY = "exercise.labels", "exercise.labels.v2", "exercise.orders", "label"
DEAD, LABELS, PARCELS = "exercise.dead", "exercise.desk", "exercise.parcels"


def _ready(channel: BlockingChannel, queue: str) -> int | None:
    """How many messages wait, or None where there is no such queue."""
    its = channel.connection.channel()
    try:
        return int(its.queue_declare(queue, passive=True).method.message_count)
    except pika.exceptions.ChannelClosedByBroker:
        return None
    finally:
        if its.is_open:
            its.close()


def check_replace_queue(replace_queue: Callable[[BlockingChannel], object], url: str) -> None:
    """Returns where the new queue has taken over from the old one, with every order."""
    ours = amqp.connect(url, "check")
    channel = ours.channel()
    channel.confirm_delivery()
    try:
        _clear(channel, OLD, NEW, DEAD)
        channel.exchange_declare(ORDERS, exchange_type="direct", durable=True)
        channel.queue_declare(DEAD, durable=True)
        channel.queue_declare(OLD, durable=True)
        channel.queue_bind(OLD, ORDERS, KEY)
        for number in (1, 2, 3):
            channel.basic_publish(ORDERS, KEY, b"a label", persistent(f"order-{number}"))
        with learners_channel(url) as (theirs, notes):
            replace_queue(theirs)
        _look_at_new(channel, notes)
    finally:
        if ours.is_open:
            _clear(ours.channel(), OLD, NEW, DEAD)
            ours.channel().exchange_delete(ORDERS)
            ours.close()


def _look_at_new(channel: BlockingChannel, notes: Notes) -> None:
    left = _ready(channel, OLD)
    if _ready(channel, NEW) is None:
        if left == 3 and not notes.calls:
            raise NotAttempted(f"After your function there is no queue {NEW}.")
        raise NotYet(f"There is no queue {NEW}", f"the function declares {NEW}", "another name")
    moved = messages(channel, NEW)
    if len(moved) < 3:
        missing = f"{len(moved)} of 3 orders are in {NEW}: {names(moved)}"
        if left:
            raise NotYet(
                f"{missing}. In {OLD} there are {left}",
                "all three are in the new queue",
                "a new queue begins empty, whatever it is bound to: what waits in the old one must "
                "be taken out and published to the new one",
            )
        raise NotYet(
            f"{missing}; the others are lost",
            "no order is lost",
            f"queue_delete({OLD!r}) takes the messages along that wait in it; if_empty=True "
            "refuses to do that",
        )
    if left is not None:
        raise NotYet(
            f"{OLD} is still there, with {left} messages ready",
            "it is gone",
            f"queue_delete({OLD!r}) is missing; what was published and not acknowledged comes "
            "back to it, and is there twice"
            if left
            else f"queue_delete({OLD!r}) is missing",
        )
    if len(moved) > 3:
        raise NotYet(
            f"{len(moved)} orders are in {NEW}: {names(moved)}", "3, each once", "moved twice"
        )
    _check_copies(moved, notes)
    _check_new_declaration(channel)
    away = [n for n, call in enumerate(notes.calls) if call in ("unbind", "delete")]
    if "bind" in notes.calls and away and away[0] < notes.calls.index("bind"):
        raise NotYet(
            f"{OLD} was unbound before {NEW} was bound",
            "the new queue is bound first",
            f"a program that ends between the two leaves {ORDERS} without a queue, and new orders "
            "are thrown away",
        )


def _check_copies(moved: list[tuple[pika.BasicProperties, bytes]], notes: Notes) -> None:
    for properties, body in moved:
        if body != b"a label" or properties.correlation_id is None:
            raise NotYet(
                f"An order has arrived as {body!r} with the correlation id "
                f"{properties.correlation_id!r}",
                "body and correlation id are as they were",
                "properties and body of the message belong into the copy",
            )
        if properties.delivery_mode != amqp.PERSISTENT:
            raise NotYet(
                "The copies are not persistent",
                "delivery_mode 2, as the originals had",
                "the originals survived a restart of the broker, and the copies would not",
            )
    check_order_of(notes)


def check_order_of(notes: Notes) -> None:
    """Refuses an acknowledgement that comes before the copy is safe.

    Raises:
        NotYet: something was acknowledged of which no copy had been published.
    """
    safe = 0
    for call in notes.calls:
        safe += (call == "publish") - (call == "ack")
        if safe < 0:
            raise NotYet(
                "A message was acknowledged before its copy was published",
                "publish (confirmed), then acknowledge",
                "a crash between the two leaves the message nowhere. The other way round it is "
                "there twice, which can be dealt with",
            )


def _check_new_declaration(channel: BlockingChannel) -> None:
    its = channel.connection.channel()
    try:
        its.queue_declare(NEW, durable=True, arguments=dying_into(DEAD))
    except pika.exceptions.ChannelClosedByBroker as exc:
        if "x-dead-letter" in exc.reply_text:
            raise NotYet(
                f"The dead letters of {NEW} do not go by the default exchange to {DEAD}",
                'x-dead-letter-exchange "", x-dead-letter-routing-key the name of the queue',
                "an argument that is missing, or another value",
            ) from None
        raise NotYet(
            f"{NEW} is not as it was asked for: {exc.reply_text.split(' for queue')[0]}",
            "durable, with two arguments for its dead letters",
            "queue_declare without durable=True",
        ) from None
    its.close()
    channel.basic_publish(ORDERS, KEY, b"a label", persistent("order-4"))
    if len(arrived := messages(channel, NEW)) != 1:
        raise NotYet(
            f"A new order to {ORDERS} with the routing key {KEY} arrives in {NEW} "
            f"{len(arrived)} times",
            "once",
            "queue_bind is missing, or has another routing key",
        )


def check_put_back(put_back: Callable[[BlockingChannel, set[str]], object], url: str) -> None:
    """Returns where the wanted letters are back where they died, and the others are still dead."""
    ours = amqp.connect(url, "check")
    channel = ours.channel()
    channel.confirm_delivery()
    try:
        _bury(channel)
        wanted = {"order-2", "order-3", "order-5"}
        with learners_channel(url) as (theirs, notes):
            put_back(theirs, set(wanted))
        if not notes.calls:
            raise NotAttempted("Your function has taken no letter yet.")
        _judge(channel, notes)
        _check_missing_queue(channel, put_back, url)
    finally:
        if ours.is_open:
            _clear(ours.channel(), DEAD, LABELS, PARCELS)
            ours.close()


def _bury(channel: BlockingChannel) -> None:
    """Five dead letters: orders 1, 2 and 5 of the desk, 3 and 4 of the parcels."""
    _clear(channel, DEAD, LABELS, PARCELS)
    channel.queue_declare(DEAD, durable=True)
    for queue in (LABELS, PARCELS):
        channel.queue_declare(queue, durable=True, arguments=dying_into(DEAD))
    for number, queue in enumerate((LABELS, LABELS, PARCELS, PARCELS, LABELS), start=1):
        order_id = f"order-{number}"
        channel.basic_publish("", queue, f"about {order_id}".encode(), persistent(order_id))
        channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
        while _ready(channel, DEAD) != number:
            channel.connection.sleep(0.01)


def _judge(channel: BlockingChannel, notes: Notes) -> None:
    dead = messages(channel, DEAD, wanted=2)
    found = {queue: messages(channel, queue) for queue in (LABELS, PARCELS)}
    everywhere = dead + found[LABELS] + found[PARCELS]
    lost = [n for n in range(1, 6) if f"order-{n}" not in names(everywhere)]
    where = f"{LABELS}: {names(found[LABELS])}; {PARCELS}: {names(found[PARCELS])}; {DEAD}: {names(dead)}"
    if lost:
        raise NotYet(
            f"Not to be found any more: {', '.join(f'order-{n}' for n in lost)}. {where}",
            "each letter is in one of the three queues, with its correlation id",
            "a letter that was acknowledged, or rejected without requeue, and not published; or "
            "one that was published without its correlation id",
        )
    if len(everywhere) > 5:
        raise NotYet(
            f"There are {len(everywhere)} messages where there were 5. {where}",
            "each once",
            "published, and not acknowledged: it stays a dead letter as well",
        )
    if names(found[LABELS]) != "order-2, order-5" or names(found[PARCELS]) != "order-3":
        died = "orders 1, 2 and 5 died in the one, 3 and 4 in the other"
        raise NotYet(
            f"With wanted = order-2, order-3, order-5. {where}",
            f"{LABELS}: order-2, order-5; {PARCELS}: order-3; the others stay",
            f"properties.headers['x-death'][0]['queue'] tells for each letter where it died: {died}",
        )
    for properties, body in found[LABELS] + found[PARCELS]:
        if body != f"about {properties.correlation_id}".encode():
            raise NotYet(f"{properties.correlation_id} came back as {body!r}", "its own body")
        if properties.delivery_mode != amqp.PERSISTENT:
            raise NotYet("What was put back is not persistent", "delivery_mode=2")
    check_order_of(notes)


def _check_missing_queue(
    channel: BlockingChannel, put_back: Callable[[BlockingChannel, set[str]], object], url: str
) -> None:
    _bury(channel)
    channel.queue_delete(PARCELS)
    with learners_channel(url) as (theirs, _), errors_allowed():
        put_back(theirs, {"order-3"})
    if "order-3" not in names(messages(channel, DEAD, wanted=5)):
        raise NotYet(
            f"{PARCELS} was missing, and order-3, which died there, is lost",
            f"it is still in {DEAD}; an error is all right",
            "without mandatory=True a message to a queue that is not there is confirmed, and gone. "
            "It must also be acknowledged after it was published, not before",
        )


def _clear(channel: BlockingChannel, *queues: str) -> None:
    for queue in queues:
        channel.queue_delete(queue)
