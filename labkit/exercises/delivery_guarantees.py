"""Exercises of notebook 06: name the guarantee, a handler that works once, a relay without a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.checks import Exercise, NotAttempted, NotYet
from labkit.exercises._bookkeeping import book, check_on_event
from labkit.exercises._relaying import check_relay

__all__ = ["book", "guarantees", "on_event", "relay"]

MOST, LEAST, ONCE, NONE = "at most once", "at least once", "effectively once", "none"

#: Case: the guarantee, and what in the code tells.
CASES = {
    "A": (MOST, "the broker forgets the message as it sends it, before any work is done"),
    "B": (LEAST, "the acknowledgement comes last, so a crash before it brings the message again"),
    "C": (MOST, "the id is kept before the work is done, in a transaction of its own"),
    "D": (ONCE, "the message comes at least once, and a copy finds its id beside the work"),
    "E": (NONE, "nobody waits for the broker on one side, and a copy is worked on on the other"),
    "F": (MOST, "`redelivered` says that the message was delivered, not that the work was done"),
}
LOOKALIKES = {
    ("A", NONE): "the publisher waits for its confirm, and the work is never done twice",
    ("A", LEAST): "a crash of the consumer, and the message is nowhere any more",
    ("B", ONCE): "a crash between the label and the acknowledgement prints it a second time",
    ("C", ONCE): "a crash between the two transactions: the message comes again, its id is known, "
    "and the label is never printed",
    ("C", LEAST): "a crash between the two transactions: the message comes again, its id is known, "
    "and the label is never printed",
    ("D", LEAST): "messages come at least once; ask how often the label is printed",
    ("E", LEAST): "the publisher goes on without knowing whether the broker has the message",
    ("E", MOST): "a crash before the acknowledgement prints the label twice",
    ("F", ONCE): "a crash before the label is printed: the message comes again, and is thrown away",
    ("F", LEAST): "a crash before the label is printed: the message comes again, and is thrown "
    "away",
}


def _check_guarantees(answers: Mapping[str, Any]) -> None:
    if all(value is None or value is ... for value in answers.values()):
        raise NotAttempted("Put one of the four guarantees, in quotes, in place of each None.")
    for case, (guarantee, tells) in CASES.items():
        given = answers.get(case)
        choice = f"one of {', '.join(map(repr, (MOST, LEAST, ONCE, NONE)))}"
        if given is None or given is ...:
            raise NotYet(f"Case {case} has no answer yet", choice)
        if given not in (MOST, LEAST, ONCE, NONE):
            raise NotYet(f"Case {case}: you say {given!r}", choice)
        if given != guarantee:
            raise NotYet(
                f"Case {case}: you say {given!r}",
                f"another one. Look at this: {tells}",
                LOOKALIKES.get((case, given), ""),
            )


guarantees = Exercise(
    "name-the-guarantee",
    _check_guarantees,
    hints=[
        "Pull the plug between any two lines, in your mind. Is the label printed afterwards, never, "
        "or twice?",
        "Ask two questions of each: can a label be missing, and can it be printed twice? No and "
        "yes is at least once, yes and no is at most once.",
        "In three of them a crash at the wrong moment leaves the order without a label, although "
        "its publisher waited for the confirm.",
    ],
    solution="""
answers = {
    "A": "at most once",
    "B": "at least once",
    "C": "at most once",
    "D": "effectively once",
    "E": "none",
    "F": "at most once",
}
""",
    learned="The guarantee lies in the order of the lines, and in what is committed together.",
)

on_event = Exercise(
    "book-it-once",
    check_on_event,
    hints=[
        "Three things have to happen: the event id is kept, the line is written, the message is "
        "acknowledged. Which of them can be committed together?",
        "with database.transaction() as connection: commits at the end of its block. first_time "
        "and book both take that connection.",
        "Inside the block: if first_time(connection, event.event_id): book(connection, event). "
        "After it, for a copy as well: channel.basic_ack(method.delivery_tag).",
    ],
    solution="""
event = OrderEvent.read(body)
with database.transaction() as connection:
    if first_time(connection, event.event_id):
        book(connection, event)
channel.basic_ack(method.delivery_tag)
""",
    learned="Wherever the plug is pulled, the ledger has one line for each event.",
)

relay = Exercise(
    "relay",
    check_relay,
    hints=[
        "Which of the two may happen without the other: that a message is published, or that it is "
        "marked as sent? Begin with that one.",
        "To publish is not enough: the broker must have taken charge, and a queue must have got "
        "it. channel.confirm_delivery() and mandatory=True make basic_publish raise where not.",
        "For each message of outbox.waiting(100): basic_publish to the exchange with "
        "message.routing_key, message.body, delivery_mode=2 and mandatory=True; then "
        "outbox.mark_sent([message]).",
    ],
    solution="""
channel.confirm_delivery()
for message in outbox.waiting(100):
    persistent = pika.BasicProperties(delivery_mode=2, message_id=message.event_id)
    channel.basic_publish(
        exchange, message.routing_key, message.body, persistent, mandatory=True
    )
    outbox.mark_sent([message])
""",
    learned="A crash at any line of it publishes a message twice at worst, and never loses one.",
)
