"""The proof: for each order that was accepted, whether all that it promises has come true.

The audit asks whether money and goods agree, whatever became of the order. The proof asks for
more: the order has ended, and each department has worked once on each event that concerns it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labkit.errors import InputError
from labkit.shop.audit import read_rows
from labkit.shop.decoupled import EVERYONE
from labkit.shop.premises import Premises

#: What is counted of an order: for which department, in which words, and how often it is to be
#: there if the order was paid, and if its payment was declined.
PROMISES = {
    "charges": ("payment", "charges at the gateway", 1, 0),
    "payments": ("payment", "answers noted by payment", 1, 1),
    "taken": ("inventory", "entries in the stock's book", 1, 0),
    "labels": ("shipping", "labels", 1, 0),
    "We have your order": ("email", "mails that confirm the order", 1, 1),
    "We have your payment": ("email", "mails that confirm the payment", 1, 0),
    "Your payment": ("email", "mails about the declined payment", 0, 1),
    "ORDER_CREATED": ("analytics", "notes of ORDER_CREATED", 1, 1),
    "PAYMENT_COMPLETED": ("analytics", "notes of PAYMENT_COMPLETED", 1, 0),
    "PAYMENT_FAILED": ("analytics", "notes of PAYMENT_FAILED", 0, 1),
    "LABEL_PRINTED": ("analytics", "notes of LABEL_PRINTED", 1, 0),
    "bought": ("recommendations", "purchases learned", 1, 1),
}

#: Where what is known of an order lies: database and table.
TABLES = {
    "order_service": "orders",
    "gateway": "charges",
    "payment": "payments",
    "inventory": "taken",
    "shipping": "labels",
    "email": "sent",
    "analytics": "facts",
    "recommendations": "bought",
}


class Violation(NamedTuple):
    """A promise that was not kept.

    Attributes:
        order_id: to which order.
        what: what is wrong, in a few words.
        history: all that is known of the order, a line each: what the databases say, and where
            the shop is at hand, what its recorder says.
        kind: `lost` where something did not happen, `doubled` where it happened too often,
            `early` where it happened before it should.
    """

    order_id: str
    what: str
    history: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        return "\n    ".join([f"{self.order_id}: {self.what}", *self.history])


def violations(
    shop: Premises | Path | str, departments: Iterable[str] | None = None
) -> list[Violation]:
    """What was promised and not kept; an empty list is the proof. Call it once all is quiet.

    An order is accepted where it was saved and the customer was not told that it failed. Each
    must be completed, or declined; have one charge at the gateway, or one recorded decline and no
    charge; one label where it was charged, printed after that, and else none; one mail that
    confirms it, and one about the payment; and each other department has had each of its events
    once. A mail that the mail server has dropped as a duplicate is not counted here;
    `inbox.duplicates` counts those.

    Args:
        shop: a shop, or the folder of its databases. Of a shop, the mails at the mail server are
            counted; of a folder, those that email has noted as sent.
        departments: which took part; those that the shop has consumers for if left out, and of a
            folder all.

    Raises:
        InputError: the folder holds no shop.
    """
    facts = _Facts(shop if isinstance(shop, Premises) else Path(shop))
    took_part = set(getattr(shop, "consumers", EVERYONE) if departments is None else departments)
    found = []
    for order_id, status in facts.accepted:
        broken = list(_broken(order_id, status, facts, took_part))
        if broken:
            history = facts.history(order_id)
            found += [Violation(order_id, what, history, kind) for what, kind in broken]
    return found


def _broken(
    order_id: str, status: str, facts: _Facts, took_part: set[str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with one order, and of which kind it is."""
    declined = facts.declines[order_id] > 0 and not facts.counts["charges"][order_id]
    for name, (department, words, if_paid, if_declined) in PROMISES.items():
        if department in took_part:
            found, expected = facts.counts[name][order_id], if_declined if declined else if_paid
            if found != expected:
                kind = "lost" if found < expected else "doubled"
                yield f"{found} {words}, and not {expected}", kind
    charged_at, labelled_at = facts.first_charge.get(order_id), facts.first_label.get(order_id)
    if charged_at and labelled_at and labelled_at < charged_at:
        yield f"its label is {charged_at - labelled_at:.3f} s older than its charge", "early"
    final = "declined" if declined else "completed"
    if took_part >= {"payment", "shipping"} and status != final:
        yield f"its status is {status}, and not {final}", "lost"


class _Facts:
    """What the databases and the mail server say, counted by order.

    Attributes:
        accepted: each accepted order's id and status, in the order of saving.
        declines: by order, how often payment noted a decline.
        counts: by what is counted, one of `PROMISES`, then by order.
        first_charge: when an order was first charged, in seconds since 1970.
        first_label: when its first label was printed.
    """

    def __init__(self, source: Premises | Path) -> None:
        self.shop = source if isinstance(source, Premises) else None
        self.folder = source.folder if isinstance(source, Premises) else source
        if not (self.folder / "order_service.db").exists():
            raise InputError(
                "There is no shop to prove anything about.",
                f"{self.folder} has no order_service.db",
                "start a shop in it",
            )
        orders = self._rows("order_service", "SELECT order_id, status, told FROM orders")
        self.accepted = [
            (order_id, status) for order_id, status, told in orders if told != "failed"
        ]
        declined = "SELECT order_id FROM payments WHERE result = 'declined'"
        self.declines = Counter(order_id for (order_id,) in self._rows("payment", declined))
        self.counts = {name: Counter[str]() for name in PROMISES}
        for database, table in TABLES.items():
            if table in self.counts:
                rows = self._rows(database, f"SELECT order_id FROM {table}")
                self.counts[table].update(order_id for (order_id,) in rows)
        self.first_charge = self._first("gateway", "charges")
        self.first_label = self._first("shipping", "labels")
        for order_id, about in self._rows("analytics", "SELECT order_id, type FROM facts"):
            self.counts[about][order_id] += 1
        for subject in self._subjects():
            # `We have your order order-1`, `Your payment for order order-1 was declined`
            start = next(name for name in PROMISES if subject.startswith(name))
            order_id = subject.removesuffix(" was declined").partition(" order ")[2]
            self.counts[start][order_id] += 1
        self._recorded: dict[str, list[str]] | None = None

    def _rows(self, database: str, query: str, *values: str) -> list[tuple[Any, ...]]:
        return read_rows(self.folder, database, query, values)

    def _first(self, database: str, table: str) -> dict[str, float]:
        """When the first row about each order was written."""
        return dict(self._rows(database, f"SELECT order_id, min(at) FROM {table} GROUP BY 1"))

    def _subjects(self) -> list[str]:
        if self.shop is not None:
            return [str(mail["Subject"]) for mail in self.shop.inbox.messages]
        return [str(subject) for (subject,) in self._rows("email", "SELECT subject FROM sent")]

    def history(self, order_id: str) -> tuple[str, ...]:
        """All that is known of an order."""
        lines = []
        for database, table in TABLES.items():
            query = f"SELECT * FROM {table} WHERE order_id = ?"
            for row in self._rows(database, query, order_id):
                lines.append(f"{database}: {', '.join(map(str, row[1:]))}")
        return tuple(lines + self._events(order_id))

    def _events(self, order_id: str) -> list[str]:
        """What the shop's recorder has about an order, a line an event, in shop time."""
        if self.shop is None:
            return []
        if self._recorded is None:
            self._recorded = {}
            for event in self.shop.recorder:
                if event.order_id is not None:
                    at_s = self.shop.pace.at(event.wall)
                    line = f"{at_s:9.3f} s  {event.service}: {event.kind} {event.detail or ''}"
                    self._recorded.setdefault(event.order_id, []).append(line.rstrip())
        return self._recorded.get(order_id, [])
