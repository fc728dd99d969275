"""Exercises of notebook 08: overtakings counted, a key chosen, turns declared, a late event."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from labkit.checks import Exercise, NotYet
from labkit.exercises._partitioning import check_routing_key
from labkit.exercises._taking_turns import check_declare_changes


def _pairs(done: Sequence[int]) -> int:
    return sum(later < earlier for n, earlier in enumerate(done) for later in done[n + 1 :])


#: What a count may mistake for overtakings, and how that shows.
MISTAKES: tuple[tuple[Callable[[Sequence[int]], int], str], ...] = (
    (
        lambda done: sum(b < a for a, b in itertools.pairwise(done)),
        "it compares neighbours alone: two messages need not stand side by side for one to have "
        "overtaken the other",
    ),
    (
        lambda done: sum(a != b for a, b in zip(done, sorted(done), strict=True)),
        "it counts the messages that are not in their place, and one that overtakes moves many",
    ),
    (
        lambda done: sum(any(b < a for b in done[n + 1 :]) for n, a in enumerate(done)),
        "it counts each message that overtook once, however many it overtook",
    ),
    (
        lambda done: sum(any(b > a for b in done[:n]) for n, a in enumerate(done)),
        "it counts each message that was overtaken once, however many went before it",
    ),
    (
        lambda done: len(done) * (len(done) - 1) // 2 - _pairs(done),
        "it counts the pairs that came in order",
    ),
)


def _check_overtakings(overtakings: Callable[[list[int]], int]) -> None:
    chance = random.Random(1)
    for done in (
        [1, 2, 3, 4],
        [2, 3, 5, 1, 4],  # each of the mistakes gives another number
        [2, 1],
        [3, 2, 1],
        [],
        [7, 3, 9],
        chance.sample(range(1, 41), 40),
    ):
        seen: Any = overtakings(list(done))
        wanted = _pairs(done)
        if isinstance(seen, bool) or seen != wanted:
            shown = f"{done}" if len(done) < 9 else f"forty messages, done as {done[:6]} and so on"
            causes = [words for wrong, words in MISTAKES if wrong(done) == seen]
            raise NotYet(
                f"Done in the order {shown}: you count {seen!r}",
                f"{wanted}",
                causes[0] if causes else "count the pairs of which the later one was done first",
            )


overtakings = Exercise(
    "overtakings",
    _check_overtakings,
    hints=[
        "An overtaking is a pair: a message, and one with a smaller number that stands further "
        "behind in the list. Which pairs are there in [2, 3, 1]?",
        "Two loops: for each message, look at all that were done after it, not only the next.",
        "done[n + 1:] is all that was done after the message at n. Count those that are smaller.",
    ],
    solution="""
return sum(later < earlier for n, earlier in enumerate(done) for later in done[n + 1 :])
""",
    learned="0 says that the order was kept. It is the number of swaps of neighbours that would "
    "put it right.",
)


routing_key = Exercise(
    "routing-key",
    check_routing_key,
    hints=[
        "The same key means the same queue. What have two events in common that must stay in "
        "order, and other events not?",
        "Two orders of one customer have two order ids. What is the same in both?",
        'The customer\'s address is in event["customer_email"], and it is text already.',
    ],
    solution="""
return event["customer_email"]
""",
    learned="What has to stay in order shares a key; what has not may go its own way.",
)


declare_changes = Exercise(
    "declare-changes",
    check_declare_changes,
    hints=[
        "It is one call, channel.queue_declare, with the queue's name, durable, and arguments.",
        "arguments is a dictionary; the notebook has used the one that you need where one clerk stood ready.",
        'arguments={"x-single-active-consumer": True}',
    ],
    solution="""
channel.queue_declare(
    "exercise.changes", durable=True, arguments={"x-single-active-consumer": True}
)
""",
    learned="The broker lets one consumer work, and has the next one ready.",
)


#: What arrives, as (customer, version), what is the version of each at the end, and what it shows.
ARRIVALS: tuple[tuple[tuple[tuple[str, int], ...], dict[str, int], str], ...] = (
    (
        (("anna", 1), ("anna", 2)),
        {"anna": 2},
        "a newer change takes the place of what is there; here the first one stayed",
    ),
    (
        (("anna", 2), ("anna", 1)),
        {"anna": 2},
        "what arrives last is not what was sent last: compare the versions",
    ),
    (
        (("anna", 1), ("anna", 3), ("anna", 2)),
        {"anna": 3},
        "a version that is still missing is no reason to leave a newer one out: it may never come",
    ),
    (
        (("anna", 5), ("ben", 1), ("ben", 2)),
        {"anna": 5, "ben": 2},
        "each customer's versions count by themselves; ben's have nothing to do with anna's",
    ),
    (
        (("anna", 9), ("anna", 10), ("anna", 9)),
        {"anna": 10},
        'versions are numbers: as text, "10" comes before "9"',
    ),
    (
        (("anna", 2), ("anna", 1), ("anna", 1), ("anna", 2)),
        {"anna": 2},
        "a redelivery brings again what has been dealt with, and changes nothing",
    ),
)


def _check_keep_newer(keep_newer: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    for arrivals, wanted, shows in ARRIVALS:
        book: dict[str, Any] = {}
        for customer, version in arrivals:
            keep_newer(
                book,
                {"customer": customer, "version": version, "address": f"{version} Elm Street"},
            )
        story = ", then ".join(f"{customer}'s version {version}" for customer, version in arrivals)
        for customer, version in wanted.items():
            seen = book.get(customer)
            if seen is None:
                raise NotYet(f"There came {story}: {customer} is not in the book", "in it", shows)
            if not isinstance(seen, dict) or "version" not in seen:
                raise NotYet(
                    f"book[{customer!r}] is {seen!r}",
                    "the change itself, with its version",
                    "without the version, nobody can tell whether the next one is newer",
                )
            if seen["version"] != version:
                raise NotYet(
                    f"There came {story}: {customer} has version {seen['version']} at the end",
                    f"version {version}",
                    shows,
                )


keep_newer = Exercise(
    "late-change",
    _check_keep_newer,
    hints=[
        "What arrived last need not be what was sent last. The change itself says how new it is.",
        "Look up what the book has for this customer: book.get(customer) gives None for a new one.",
        "Put the change in where there is none yet, or where its version is larger than that of "
        "the one in the book. Otherwise leave the book alone.",
    ],
    solution="""
known = book.get(change["customer"])
if known is None or change["version"] > known["version"]:
    book[change["customer"]] = change
""",
    learned="With this handler the order of arrival no longer matters, nor does a redelivery.",
)
