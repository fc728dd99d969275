"""Exercises of notebook 02: bindings that route, a reader that acknowledges, a publisher that knows."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit.checks import Exercise, NotYet
from labkit.exercises._desks import check_desks
from labkit.exercises._looking import connected, settled, waiting
from labkit.exercises._taking import check_take

PublishSafely = Callable[[BlockingChannel, str, str, bytes], object]

connect_desks = Exercise(
    "connect-desks",
    check_desks,
    hints=[
        "Begin with the type of the exchange: which of the three looks at parts of a key?",
        "* stands for exactly one word, # for any number of words, none included. Say each "
        "desk's rule aloud with 'exactly one' or 'any number', and the pattern is there.",
        "`order.*.eu`, `payment.failed.#` and `#`. Each queue is declared, then bound. Both "
        "declarations need durable=True.",
    ],
    solution="""
channel.exchange_declare("desks", exchange_type="topic", durable=True)
patterns = {"eu_desk": "order.*.eu", "failed_payments": "payment.failed.#", "archive": "#"}
for queue, pattern in patterns.items():
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange="desks", routing_key=pattern)
""",
    learned="The check published ten keys of its own, and each arrived where it should. Whoever "
    "publishes them knows none of the desks.",
)


take = Exercise(
    "take",
    check_take,
    hints=[
        "basic_get fetches one message, or tells by a delivery of None that there is none.",
        "Three things for each message, in this order: get it, handle it, acknowledge it. If "
        "handle raises, the last of them is not reached, and that is right.",
        "`for _ in range(n):` get; `if delivery is None: return`; handle(body); "
        "channel.basic_ack(delivery.delivery_tag).",
    ],
    solution="""
for _ in range(n):
    delivery, _properties, body = channel.basic_get(queue)
    if delivery is None:
        return
    handle(body)
    channel.basic_ack(delivery.delivery_tag)
""",
    learned="The check let your handler fail in the middle of an order: the order was in the "
    "queue again, and what had been done before it was not.",
)


def _check_answer(answer: object, routable: bool, channel: BlockingChannel) -> None:
    if answer is routable:
        return
    kind = "with a queue bound for its key" if routable else "that no binding takes"
    if answer is None:
        cause = "a way through the function ends without a return"
    elif routable:
        cause = "look at which way through the function a message takes that arrives"
    # pika has no public way to ask whether a channel is in confirm mode.
    elif not getattr(channel, "_delivery_confirmation", False):
        cause = (
            "the channel is not in confirm mode. Then basic_publish returns before the broker "
            "has answered, and can't raise anything: call confirm_delivery() first"
        )
    else:
        cause = (
            "a confirm alone says that the broker took charge, and for a message without a queue "
            "it does so, too: only mandatory=True makes it give the message back"
        )
    raise NotYet(f"For a message {kind} it gives {answer!r}", repr(routable), cause)


def _check_publish_safely(publish_safely: PublishSafely, url: str) -> None:
    suffix = uuid.uuid4().hex[:8]
    exchange, queue = f"check-{suffix}", f"check-{suffix}"
    with connected(url) as ours, connected(url) as learners:
        look, channel = ours.channel(), learners.channel()
        look.exchange_declare(exchange, exchange_type="topic", durable=True)
        look.queue_declare(queue, durable=True)
        look.queue_bind(queue, exchange, "order.*")
        try:
            for number, (key, routable) in enumerate(
                [("order.created", True), ("payment.failed", False), ("order.cancelled", True)]
            ):
                body = f"message {number}".encode()
                try:
                    answer = publish_safely(channel, exchange, key, body)
                except pika.exceptions.UnroutableError as exc:
                    raise NotYet(
                        "For a message that no binding takes it raises UnroutableError",
                        "False",
                        "the broker gave the message back, and nobody catches the exception",
                    ) from exc
                _check_answer(answer, routable, channel)
                settled(look, queue, int(routable))
                arrived = waiting(look, queue)
                if arrived != ([body.decode()] if routable else []):
                    raise NotYet(
                        f"publish_safely(channel, exchange, {key!r}, {body!r}) gives {answer!r}, "
                        f"and the queue got {arrived}",
                        f"[{body.decode()!r}], once",
                        "look at what is handed to basic_publish, and how often",
                    )
        finally:
            look.queue_delete(queue)
            look.exchange_delete(exchange)


publish_safely = Exercise(
    "publish-safely",
    _check_publish_safely,
    hints=[
        "Two things together make basic_publish tell you: a mode of the channel, and an argument "
        "of the call. You have seen both in the table above.",
        "channel.confirm_delivery() once, then basic_publish(..., mandatory=True) raises "
        "pika.exceptions.UnroutableError for a message that reaches no queue.",
        "Put basic_publish into a try. Where the exception is caught, return False; after the "
        "try, return True.",
    ],
    solution="""
channel.confirm_delivery()
try:
    channel.basic_publish(exchange, key, body, persistent, mandatory=True)
except pika.exceptions.UnroutableError:
    return False
return True
""",
    learned="A message that reaches nobody is now something that your program knows of.",
)
