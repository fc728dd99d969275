"""Exercises of notebook 04: a topology, a careful handler, a channel for a thread, a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.checks import Exercise, NotAttempted, NotYet
from labkit.errors import LabError
from labkit.exercises._obvious_topology import check_declare_orders
from labkit.exercises._web_threads import check_channel_for_thread
from labkit.shop.departments import DepartmentError
from labkit.shop.orders import Order, OrderEvent

MAILS, DEAD = "exercise.mails", "exercise.dead"

Handler = Callable[..., object]

declare_orders = Exercise(
    "declare-orders",
    check_declare_orders,
    hints=[
        "Three kinds of calls do it: exchange_declare, queue_declare, queue_bind.",
        "What survives a restart is declared with durable=True, the exchange as well as the queues.",
        "Payment needs to hear of one thing only, order.created. Email needs that and payment.*, "
        "so it has two bindings.",
    ],
    solution="""
channel.exchange_declare("exercise.orders", exchange_type="topic", durable=True)
channel.queue_declare("exercise.payment", durable=True)
channel.queue_bind("exercise.payment", "exercise.orders", routing_key="order.created")
channel.queue_declare("exercise.email", durable=True)
for key in ("order.created", "payment.*"):
    channel.queue_bind("exercise.email", "exercise.orders", routing_key=key)
""",
    learned="Payment can publish to this exchange without ever hearing itself.",
)


def _mail(name: str) -> bytes:
    order = Order(
        order_id=name,
        basket=name,
        customer_email=f"{name}@example.com",
        product_id="mug",
        quantity=1,
        amount=1200,
    )
    return OrderEvent.about(order, "ORDER_CREATED").to_json()


GOOD = ("order-001", "order-002", "order-003")
REFUSED = "order-refused"
BODIES = {
    GOOD[0]: _mail(GOOD[0]),
    "the message that is no JSON": b'{"order_id": ',
    GOOD[1]: _mail(GOOD[1]),
    "the message whose address the mail server refuses": _mail(REFUSED),
    GOOD[2]: _mail(GOOD[2]),
}
#: Five messages need five deliveries; with more than this, something goes round.
MOST_DELIVERIES = 20


def _clear(channel: BlockingChannel) -> None:
    for queue in (MAILS, DEAD):
        channel.queue_delete(queue)
    channel.exchange_delete(DEAD)


def _take_all(channel: BlockingChannel, queue: str) -> int:
    """How many messages wait, counted by taking them out.

    A passive declare would be quicker, and wrong: the broker answers it before what was sent to
    the queue earlier and is still to be done, such as the rejects.
    """
    taken = 0
    while channel.basic_get(queue, auto_ack=True)[0] is not None:
        taken += 1
    return taken


def _check_on_email(on_email: Handler, url: str) -> None:
    connection = amqp.connect(url, "check")
    try:
        channel = connection.channel()
        _clear(channel)
        channel.exchange_declare(DEAD, exchange_type="fanout", durable=True)
        channel.queue_declare(DEAD, durable=True)
        channel.queue_bind(DEAD, DEAD)
        channel.queue_declare(MAILS, durable=True, arguments={"x-dead-letter-exchange": DEAD})
        for body in BODIES.values():
            amqp.publish(channel, "", MAILS, body)
        sent, waiting = _consume(connection, on_email)
        _judge_mails(sent, waiting, _take_all(channel, DEAD))
    finally:
        if connection.is_open:
            _clear(connection.channel())
            connection.close()


def _consume(connection: pika.BlockingConnection, on_email: Handler) -> tuple[list[str], int]:
    """Hands message after message to the handler.

    Returns:
        What was sent, in its order, and how many messages were not answered.
    """
    sent: list[str] = []

    def send(event: OrderEvent) -> None:
        if event.order_id == REFUSED:
            raise DepartmentError("The mail server refuses the address.")
        sent.append(event.order_id)

    names = {body: name for name, body in BODIES.items()}
    channel = connection.channel()
    try:
        for _ in range(MOST_DELIVERIES):
            method, properties, body = channel.basic_get(MAILS)
            if method is None:
                # What was not answered goes back. Closing the channel would do the same, but in
                # the broker's own time.
                channel.basic_nack(delivery_tag=0, multiple=True, requeue=True)
                return sent, _take_all(channel, MAILS)
            try:
                on_email(channel, method, properties, body, send)
            except LabError as exc:
                raise NotYet(
                    f"on_email lets a {type(exc).__name__} escape for {names[body]}",
                    "it answers the delivery, whatever happens",
                    "the try reaches not far enough, or the except is for another kind of error: "
                    "OrderEvent.read raises MessageError, send raises DepartmentError",
                ) from None
    except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ChannelWrongStateError):
        raise NotYet(
            "The broker has closed the channel",
            "each delivery is answered once",
            "a delivery that was answered twice, such as an ack after a reject",
        ) from None
    raise NotYet(
        f"After {MOST_DELIVERIES} deliveries of 5 messages, there is still one to come",
        "five deliveries, none comes back",
        "requeue=True puts the message at the head of the queue, and it comes back at once. It is "
        "the default of basic_reject and basic_nack, so it needs to be said: requeue=False",
    )


def _judge_mails(sent: list[str], waiting: int, dead: int) -> None:
    if waiting:
        raise NotYet(
            f"{waiting} of 5 messages are back in the queue once the channel is closed",
            "none: each delivery was acknowledged or rejected",
            "a way through on_email that calls neither basic_ack nor basic_reject",
        )
    if sent != list(GOOD):
        raise NotYet(
            f"The mails sent are for: {', '.join(sent) or 'nobody'}",
            f"for: {', '.join(GOOD)}",
            "send(event) is called once for each event that can be read",
        )
    if dead < 2:
        raise NotYet(
            f"{dead} of the 2 bad messages are in the dead letter queue; the rest is lost, silently",
            "both are there",
            "a message that is acknowledged is gone for good, whether or not it was dealt with",
        )
    if dead > 2:
        raise NotYet(
            f"{dead} messages are in the dead letter queue",
            "2: what was sent is acknowledged",
            "a reject that is reached by good messages, too",
        )


on_email = Exercise(
    "careful-email",
    _check_on_email,
    hints=[
        "Two things can fail: to read the body, and to send the mail. Both belong into one try.",
        "A delivery is answered once: basic_ack where it went well, basic_reject where it did not.",
        "basic_reject(method.delivery_tag, requeue=False) sends the message to the queue's dead "
        "letter exchange. Python's try has an else: what runs when nothing was raised.",
    ],
    solution="""
try:
    send(OrderEvent.read(body))
except labkit.LabError:
    channel.basic_reject(method.delivery_tag, requeue=False)
else:
    channel.basic_ack(method.delivery_tag)
""",
    learned="Nothing goes round, and nothing vanishes: what can't be processed waits for somebody "
    "to look at it.",
)

channel_for_thread = Exercise(
    "channel-for-thread",
    check_channel_for_thread,
    hints=[
        "What do two channels of one connection still have in common? Experiment 6 has tried it: "
        "a channel each.",
        "The thread runs this function itself. What is opened in here can be its own.",
        "pika.BlockingConnection(pika.URLParameters(url)) opens a connection, and its channel() "
        "is what to return. service is not needed.",
    ],
    solution="""
return pika.BlockingConnection(pika.URLParameters(url)).channel()
""",
    learned="Four threads, four connections. Nobody else puts a frame between a thread's own.",
)

#: Case: the defect's number, and what in the evidence tells.
CASES = {
    "A": (2, "a restart, no error, an exchange that is there, and queues that no longer grow"),
    "B": (6, "a consumer that holds every message, for minutes, and acknowledges none"),
    "C": (3, "far more deliveries than messages, and good ones that wait behind"),
    "D": (5, "the queue is empty, the work was not done, and there is no place for rejects"),
    "E": (1, "each order comes to payment again and again, once for each charge"),
}
LOOKALIKES = {
    ("A", 4): "lost messages of before the restart would be 4; here those of after it are missing",
    ("A", 7): "7 loses the one order of the crash, not every order from then on",
    ("B", 8): "8 is about how many are worked on at a time; here none is, ever",
    ("B", 3): "in 3 the deliveries are counted in thousands; here each came once",
    ("C", 8): "8 makes the work slow, but no message comes back",
    ("C", 5): "5 would leave the queue empty",
    ("D", 3): "in 3 the message stays, and comes back; here nothing waits",
    ("D", 7): "7 happens at a crash of the order service, before payment hears of the order",
    ("D", 4): "the broker was not restarted",
    ("E", 3): "in 3 the same message comes back; here each is a new one, and each was acknowledged",
}


def _check_diagnosis(diagnosis: Mapping[str, Any]) -> None:
    if all(value is None or value is ... for value in diagnosis.values()):
        raise NotAttempted("Put the number of a defect, 1 to 9, in place of each None.")
    for case, (number, tells) in CASES.items():
        given = diagnosis.get(case)
        if given is None or given is ...:
            raise NotYet(f"Case {case} has no answer yet", "a number from 1 to 9")
        if given != number:
            raise NotYet(
                f"Case {case}: you say {given!r}",
                f"another defect. Its mark: {tells}",
                LOOKALIKES.get((case, given) if isinstance(given, int) else ("", 0), ""),
            )


diagnosis = Exercise(
    "diagnosis",
    _check_diagnosis,
    hints=[
        "Ask of each case: are there messages too many, too few, or in the wrong place?",
        "Where nothing waits and nothing was done, the messages were thrown away or never routed. "
        "Is the broker's restart part of the story?",
        "A and D lose messages, C and E make too many deliveries, B holds them back.",
    ],
    solution='diagnosis = {"A": 2, "B": 6, "C": 3, "D": 5, "E": 1}',
    learned="Queue length, consumers, unacknowledged messages, deliveries: four numbers tell most "
    "of these apart.",
)
