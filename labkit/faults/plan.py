"""What goes wrong, where and when: a plan that a seed decides."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from labkit.errors import InputError

#: Every kind of fault, and what it does to its target.
KINDS = {
    "crash before work": "the consumer crashes with a message that it has not begun to work on",
    "crash after work": "the consumer crashes when the work is done and not yet acknowledged",
    "crash after ack": "the consumer crashes when the broker has its acknowledgement",
    "drop connection": "the consumer's sockets break, as by a cut cable",
    "close connection": "the broker closes the consumer's connections, as its operator may",
    "refuse": "the department can't work for a while",
    "slow": "the department takes five times as long for a while",
    "lock database": "another program keeps the department's SQLite file from being written",
    "malformed message": "a message that nobody can read comes into the department's queue",
    "stop broker": "the broker is stopped in good order for a while",
    "restart broker": "the broker is stopped in good order and started at once",
    "kill broker": "the broker is killed, as by a power cut, and comes back after a while",
    "crash relay": "what publishes a service's outbox crashes, somewhere in its work",
    "crash order service": "the order service crashes with an order saved that nobody heard of yet",
}

#: The target of the kinds that are about the broker.
BROKER = "broker"
BROKER_KINDS = ("stop broker", "restart broker", "kill broker")
#: These need a shop with outboxes: `labkit.shop.ReliableShop`.
OUTBOX_KINDS = ("crash relay", "crash order service")
#: The services that have something to tell the others, and a relay for it.
WITH_RELAY = ("order_service", "payment", "shipping")
#: These happen in a moment; the others last.
MOMENTARY = ("drop connection", "close connection", "malformed message", "restart broker")
#: The order service does not work as departments do: it can't be closed or slow.
NOT_FOR_ORDER_SERVICE = ("refuse", "slow")

#: What a plan is made of unless told otherwise: what any shop with queues can meet with.
USUAL_KINDS = tuple(kind for kind in KINDS if kind not in OUTBOX_KINDS)

#: How long what lasts, lasts: the shortest and the longest time, in shop seconds.
LASTS_S = (2.0, 10.0)


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        at_s: when, in shop seconds from the start of the storm.
        kind: what, one of `KINDS`.
        target: whom it hits: a consumer's and department's name, or `broker`.
        lasts_s: after how many shop seconds it is mended; 0 for what happens in a moment.
    """

    at_s: float
    kind: str
    target: str
    lasts_s: float = 0.0


def plan(
    seed: int,
    number: int,
    over_s: float,
    targets: Sequence[str],
    kinds: Iterable[str] = USUAL_KINDS,
    lasts_s: tuple[float, float] = LASTS_S,
) -> list[Fault]:
    """Draws faults by chance; the same arguments give the same plan, on any machine.

    Each kind comes equally often, give or take one, in an order that is left to chance. So is the
    target of each. One fault falls, by chance, into each of `number` equal parts of the time.

    Args:
        seed: of the random numbers.
        number: of faults.
        over_s: how long the storm is, in shop seconds.
        targets: whom faults may hit, by the names of consumers, such as `payment`.
        kinds: which kinds, of `KINDS`; one that is named twice comes twice as often. Leave out
            `BROKER_KINDS` where the broker is not yours to stop. Left out, all but
            `OUTBOX_KINDS`.
        lasts_s: the shortest and the longest time that a fault lasts, in shop seconds.

    Returns:
        The faults, in the order of time.

    Raises:
        InputError: a kind is unknown, a number makes no sense, or a kind fits no target.
    """
    kinds = list(kinds)
    _check(number, over_s, targets, kinds, lasts_s)
    chance = random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < number:
        chance.shuffle(kinds)
        drawn += kinds
    chance.shuffle(drawn := drawn[:number])
    part_s = over_s / number if number else 0.0
    faults = []
    for n, kind in enumerate(drawn):
        at_s = part_s * (n + chance.random())
        target = chance.choice(_targets(kind, targets))
        longer_s = chance.uniform(*lasts_s)
        faults.append(Fault(at_s, kind, target, 0.0 if kind in MOMENTARY else longer_s))
    return faults


def _targets(kind: str, targets: Sequence[str]) -> list[str]:
    """Whom a fault of this kind may hit."""
    if kind in BROKER_KINDS:
        return [BROKER]
    if kind == "crash order service":
        return [target for target in targets if target == "order_service"]
    if kind == "crash relay":
        return [target for target in targets if target in WITH_RELAY]
    if kind in NOT_FOR_ORDER_SERVICE:
        return [target for target in targets if target != "order_service"]
    return list(targets)


def _check(
    number: int,
    over_s: float,
    targets: Sequence[str],
    kinds: Sequence[str],
    lasts_s: tuple[float, float],
) -> None:
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(
            "There is no such kind of fault.",
            repr(unknown[0]),
            f"choose from {', '.join(map(repr, KINDS))}",
        )
    if not kinds or number < 0 or not over_s > 0 or not 0 <= lasts_s[0] <= lasts_s[1]:
        raise InputError(
            "No faults can be planned like this.",
            f"number={number!r}, over_s={over_s!r}, kinds={list(kinds)!r}, lasts_s={lasts_s!r}",
            "give some kinds, times above 0, and the shorter duration first",
        )
    if homeless := [kind for kind in kinds if not _targets(kind, targets)]:
        raise InputError(
            f"Nobody is there whom the fault {homeless[0]!r} could hit.",
            f"targets={list(targets)!r}",
            "name consumers, such as 'payment', or leave the kind out",
        )
