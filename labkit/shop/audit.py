"""Reads the databases and says, for each order, what is true, whatever anyone was told."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

#: What can be wrong with an order, in the words of whoever finds out.
FINDINGS = {
    "lost": "accepted, and then nothing happened to it",
    "charged twice": "the customer paid more than once for one basket",
    "charged, not shipped": "paid, and no label was ever printed",
    "shipped, not charged": "a label without a payment",
    "told failed, yet charged": "the customer was told that it failed, and the money is gone",
    "told completed, yet not done": "the customer was told that all is done, and it is not",
}


@dataclass(frozen=True)
class Audit:
    """What the databases say.

    Attributes:
        orders: a row an order, by order id: `basket`, `status`, `told`, `charges`, `labels`,
            `stock` and `emails` (how many of each), and `findings`, a list of `FINDINGS`.
        charged_cents: what the gateway took from all customers together.
    """

    orders: pd.DataFrame
    charged_cents: int

    def counts(self) -> dict[str, int]:
        """How many orders each finding concerns; every finding is named."""
        found = [finding for findings in self.orders["findings"] for finding in findings]
        return {finding: found.count(finding) for finding in FINDINGS}

    def with_finding(self, finding: str) -> pd.DataFrame:
        """The orders that a finding concerns.

        Raises:
            InputError: there is no such finding.
        """
        if finding not in FINDINGS:
            raise InputError(
                f"The audit knows no finding {finding!r}.", "", f"choose from {', '.join(FINDINGS)}"
            )
        return self.orders[[finding in findings for findings in self.orders["findings"]]]

    @property
    def consistent(self) -> bool:
        """Whether nothing is wrong with any order."""
        return not any(self.counts().values())

    def __str__(self) -> str:
        lines = [f"{len(self.orders)} orders"]
        lines += [f"{n:4d}  {finding}" for finding, n in self.counts().items() if n]
        return "\n".join(lines if len(lines) > 1 else [*lines, "   0  findings"])


def audit(folder: Path | str) -> Audit:
    """Reads a shop's folder of databases, while the shop runs or afterwards.

    The gateway's ledger says what was charged, not the payment department, which may have crashed
    before it could note the answer.

    Raises:
        InputError: the folder holds no shop.
    """
    import pandas as pd

    folder = Path(folder)
    if not (folder / "order_service.db").exists():
        raise InputError(
            "There is no shop to audit.", f"{folder} has no order_service.db", "start a shop in it"
        )
    orders = read_rows(folder, "order_service", "SELECT order_id, basket, status, told FROM orders")
    frame = pd.DataFrame(orders, columns=["order_id", "basket", "status", "told"]).set_index(
        "order_id"
    )
    for column, database, table in (
        ("charges", "gateway", "charges"),
        ("labels", "shipping", "labels"),
        ("stock", "inventory", "taken"),
        ("emails", "email", "sent"),
    ):
        counted = dict(
            read_rows(folder, database, f"SELECT order_id, count(*) FROM {table} GROUP BY order_id")
        )
        frame[column] = [int(counted.get(order_id, 0)) for order_id in frame.index]
    by_basket: dict[Any, int] = frame.groupby("basket")["charges"].sum().to_dict()
    frame["findings"] = [
        _findings(row, by_basket[row.basket]) for row in frame.itertuples(index=False)
    ]
    cents = read_rows(folder, "gateway", "SELECT coalesce(sum(amount), 0) FROM charges")[0][0]
    return Audit(frame, int(cents))


def read_rows(
    folder: Path, database: str, query: str, values: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """What a query finds in one of a shop's databases; nothing where there is no such file."""
    path = folder / f"{database}.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query, values).fetchall()


def _findings(order: Any, charges_of_basket: int) -> list[str]:
    charged, shipped = order.charges > 0, order.labels > 0
    ended = order.status in ("declined", "failed", "completed")
    found = {
        "lost": not charged and not shipped and not ended,
        "charged twice": charges_of_basket > 1 and charged,
        "charged, not shipped": charged and not shipped,
        "shipped, not charged": shipped and not charged,
        "told failed, yet charged": order.told in ("failed", "declined") and charged,
        "told completed, yet not done": order.told == "completed" and not (charged and shipped),
    }
    return [finding for finding, holds in found.items() if holds]
