"""What a trial of the shop in a storm has shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from labkit.shop.proof import Violation


@dataclass(frozen=True)
class Outcome:
    """What a trial has shown.

    Attributes:
        seed: of the plan and of the arrivals.
        answers: what the customers were told, by HTTP status; `none` where the connection broke
            or nobody listened. Whoever was not told 202 has tried again, and what was taken in
            all the same is one more order.
        accepted: how many orders were accepted.
        vanished: orders that a customer was told were accepted, and that the shop knows nothing of.
        violations: promises that were not kept.
        faults: those brought about, by kind.
        missed: those that found nothing to break, by kind.
        put_back: dead letters that were put back when the storm was over.
        malformed: those that nobody can read, which stay.
        copies: messages that the departments' inboxes have stopped, since they knew them.
        duplicate_mails: mails that the mail server has dropped, since it knew them.
        wall_s: real seconds from the first order until all was quiet.
    """

    seed: int
    answers: Counter[str]
    accepted: int
    vanished: list[str]
    violations: list[Violation]
    faults: Counter[str]
    missed: Counter[str]
    put_back: int
    malformed: int
    copies: int
    duplicate_mails: int
    wall_s: float

    @property
    def lost(self) -> int:
        """Orders of which something did not happen."""
        return len(self.vanished) + len({v.order_id for v in self.violations if v.kind == "lost"})

    @property
    def doubled(self) -> int:
        """Orders of which something happened too often."""
        return len({v.order_id for v in self.violations if v.kind == "doubled"})

    @property
    def early(self) -> int:
        """Orders of which something happened before it should: a label before the payment."""
        return len({v.order_id for v in self.violations if v.kind == "early"})

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations and not self.vanished
