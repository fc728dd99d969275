"""Notebook 06's exercises."""

from __future__ import annotations

import pika

from labkit.exercises import delivery_guarantees
from labkit.shop import OrderEvent
from labkit.shop.inbox import first_time

SOURCE = "06-delivery-guarantees"
ANSWERS = """
answers = {
    "A": "at most once",
    "B": "at least once",
    "C": "at most once",
    "D": "effectively once",
    "E": "none",
    "F": "at most once",
}
"""


def instead(old: str, new: str) -> str:
    """The right answers with one wrong."""
    assert old in ANSWERS
    return ANSWERS.replace(old, new)


def test_guarantees_tells_right_from_wrong(prove):
    prove(
        delivery_guarantees.guarantees,
        source=SOURCE,
        answer="answers",
        wrong=[
            (instead('"A": "at most once"', '"A": "none"'), "as it sends it"),
            (instead('"B": "at least once"', '"B": "effectively once"'), "a second time"),
            (instead('"C": "at most once"', '"C": "effectively once"'), "its id is known"),
            (instead('"D": "effectively once"', '"D": "at least once"'), "how often the label"),
            (instead('"E": "none"', '"E": "at least once"'), "without knowing"),
            (instead('"F": "at most once"', '"F": "effectively once"'), "thrown away"),
            (instead('"F": "at most once"', '"F": None'), "Case F has no answer"),
            (instead('"at least once"', '"at least"'), "Case B: you say 'at least'"),
        ],
    )


EVENT = "event = OrderEvent.read(body)\n"
ACK = "channel.basic_ack(method.delivery_tag)\n"
RIGHT = """
with database.transaction() as connection:
    if first_time(connection, event.event_id):
        book(connection, event)
"""


def test_on_event_tells_right_from_wrong(prove, vhost):
    prove(
        delivery_guarantees.on_event,
        source=SOURCE,
        answer="on_event",
        wrong=[
            # Nothing keeps the copy away.
            (
                EVENT + "with database.transaction() as connection:\n"
                "    book(connection, event)\n" + ACK,
                "is there 2 times(.|\n)*sent the message twice",
            ),
            # Checked in one transaction, worked in another.
            (
                EVENT + "with database.transaction() as connection:\n"
                "    new = first_time(connection, event.event_id)\n"
                "if new:\n"
                "    with database.transaction() as connection:\n"
                "        book(connection, event)\n" + ACK,
                "plug was pulled(.|\n)*missing(.|\n)*both belong in one",
            ),
            # Worked in one, noted in another.
            (
                EVENT + "known = database.rows(\n"
                "    'SELECT 1 FROM seen_messages WHERE event_id = ?', (event.event_id,))\n"
                "if not known:\n"
                "    with database.transaction() as connection:\n"
                "        book(connection, event)\n"
                "    with database.transaction() as connection:\n"
                "        first_time(connection, event.event_id)\n" + ACK,
                "plug was pulled(.|\n)*is there 2 times(.|\n)*passed for\\s+new",
            ),
            # Acknowledged before the commit.
            (
                EVENT + "with database.transaction() as connection:\n"
                "    if first_time(connection, event.event_id):\n"
                "        book(connection, event)\n"
                "    " + ACK,
                "plug was pulled(.|\n)*missing(.|\n)*acknowledged before",
            ),
            (EVENT + ACK + RIGHT, "plug was pulled(.|\n)*acknowledged before"),
            # An order has more than one event.
            (
                EVENT + RIGHT.replace("event.event_id", "event.order_id") + ACK,
                "PAYMENT_COMPLETED of order-001 is missing(.|\n)*order id stands",
            ),
            # The mark of the broker instead of an inbox.
            (
                EVENT + "with database.transaction() as connection:\n"
                "    if not method.redelivered:\n"
                "        book(connection, event)\n" + ACK,
                "is there 2 times",
            ),
            (
                EVENT + RIGHT.replace("if first", "if not method.redelivered and first") + ACK,
                "plug was pulled(.|\n)*missing(.|\n)*`redelivered`",
            ),
            # Kept in memory, which a crash parts from the ledger.
            (
                "seen = on_event.__dict__.setdefault('seen', set())\n" + EVENT + "\n"
                "if event.event_id not in seen:\n"
                "    seen.add(event.event_id)\n"
                "    with database.transaction() as connection:\n"
                "        book(connection, event)\n" + ACK,
                "plug was pulled(.|\n)*missing",
            ),
            # A copy is never answered, or goes round.
            (
                EVENT + RIGHT + "        " + ACK,
                "acknowledged before|back in the queue",
            ),
            (
                EVENT + "with database.transaction() as connection:\n"
                "    new = first_time(connection, event.event_id)\n"
                "    if new:\n"
                "        book(connection, event)\n"
                "if new:\n    " + ACK,
                "1 of 4 messages are back",
            ),
            (
                EVENT + "with database.transaction() as connection:\n"
                "    new = first_time(connection, event.event_id)\n"
                "    if new:\n"
                "        book(connection, event)\n"
                "if new:\n    " + ACK + "else:\n    channel.basic_nack(method.delivery_tag)\n",
                "still\\s+one\\s+to\\s+come",
            ),
            (EVENT + RIGHT + ACK + ACK, "closed the channel"),
            (EVENT + RIGHT, "back in the queue"),
            (RIGHT + ACK, "NameError"),
        ],
        names={
            "OrderEvent": OrderEvent,
            "first_time": first_time,
            "book": delivery_guarantees.book,
        },
        url=vhost.url,
    )


LOOP = "for message in outbox.waiting(100):\n"
PROPERTIES = "    persistent = pika.BasicProperties(delivery_mode=2, message_id=message.event_id)\n"
PUBLISH = (
    "    channel.basic_publish(\n"
    "        exchange, message.routing_key, message.body, persistent, mandatory=True)\n"
)
MARK = "    outbox.mark_sent([message])\n"
CONFIRM = "channel.confirm_delivery()\n"


def test_relay_tells_right_from_wrong(prove, vhost):
    prove(
        delivery_guarantees.relay,
        source=SOURCE,
        answer="relay_round",
        wrong=[
            (
                CONFIRM + LOOP + PROPERTIES + MARK + PUBLISH,
                "refused|plug was pulled(.|\n)*never\\s+published",
            ),
            (LOOP + PROPERTIES + PUBLISH + MARK, "without\\s+channel.confirm_delivery"),
            (
                CONFIRM + LOOP + PROPERTIES + PUBLISH.replace(", mandatory=True", "") + MARK,
                "reached\\s+nobody",
            ),
            (
                CONFIRM + LOOP + PROPERTIES.replace("delivery_mode=2, ", "") + PUBLISH + MARK,
                "not persistent",
            ),
            (CONFIRM + LOOP + PROPERTIES + PUBLISH, "3 of three messages"),
            (
                CONFIRM + LOOP + PROPERTIES + PUBLISH + "outbox.mark_sent(outbox.waiting(100))",
                "saved\\s+order-004",
            ),
            (
                CONFIRM
                + LOOP
                + PROPERTIES
                + "    try:\n    "
                + PUBLISH.replace("\n", "\n    ", 1)
                + "    except pika.exceptions.AMQPError:\n        pass\n"
                + MARK,
                "refused(.|\n)*NackError",
            ),
            (
                CONFIRM + "waiting = outbox.waiting(100)\noutbox.mark_sent(waiting)\n"
                "for message in waiting:\n" + PROPERTIES + PUBLISH,
                "never",
            ),
            (
                CONFIRM
                + "for message in reversed(outbox.waiting(100)):\n"
                + PROPERTIES
                + PUBLISH
                + MARK,
                "order-003, order-002",
            ),
            (
                CONFIRM
                + LOOP
                + PROPERTIES
                + PUBLISH.replace("exchange, message.routing_key", "'', 'orders'")
                + MARK,
                "got: nothing",
            ),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


def test_a_relay_that_marks_all_at_the_end_is_right_too(vhost):
    def relay_round(outbox, channel, exchange):
        channel.confirm_delivery()
        waiting = outbox.waiting(100)
        for message in waiting:
            persistent = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish(
                exchange, message.routing_key, message.body, persistent, mandatory=True
            )
        if waiting:
            outbox.mark_sent(waiting)

    assert delivery_guarantees.relay.check(relay_round, url=vhost.url) == "correct"
