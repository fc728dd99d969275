"""What a figure is, and how a table of them is printed and kept."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: Ratios are taken side by side, so often, and their median counts.
ROUNDS = 5
#: For ratios near their target, of what waits for the disk or the broker: their pace changes from
#: one second to the next.
MANY_ROUNDS = 3 * ROUNDS


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what was measured.
        measured: the figure.
        target: what it must reach.
        at_least: True where more is better.
        unit: of both, such as `s`, or `x` for a ratio.
        note: what else a reader should know, such as the range seen.
    """

    name: str
    measured: float
    target: float
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    def cells(self) -> list[str]:
        """The row's texts."""
        sign = "≥" if self.at_least else "≤"
        return [
            self.name,
            f"{self.measured:.3g} {self.unit}",
            f"{sign} {self.target:g} {self.unit}",
            "holds" if self.holds else "FALLS SHORT",
            self.note,
        ]


HEADINGS = ["figure", "measured", "target", "", "range of the rounds"]


def in_turn(*sides: Any, rounds: int = ROUNDS) -> Iterator[tuple[Any, ...]]:
    """The sides for each round, the first of which warms up; each goes first in turn."""
    for number in range(rounds + 1):
        yield sides[:: -1 if number % 2 else 1]


def median_of(rounds: Callable[[], float], times: int = ROUNDS) -> tuple[float, str]:
    """The median of several rounds, and their range in words."""
    values = [rounds() for _ in range(times)]
    return statistics.median(values), spread(values)


def spread(values: list[float]) -> str:
    """The range of several rounds in words."""
    return f"{min(values):.3g} to {max(values):.3g}, {len(values)} rounds"


def show(figures: list[Figure]) -> None:
    """Prints the table."""
    table = Table(*HEADINGS, title="labkit's figures")
    for figure in figures:
        table.add_row(*figure.cells(), style="" if figure.holds else "bold red")
    Console().print(table)


def keep(figures: list[Figure], conditions: dict[str, str], path: Path) -> None:
    """Writes the table, with the conditions, as Markdown."""
    lines = ["# Figures", "", "Written by `make bench`; measured, not edited.", ""]
    lines += [f"- {name}: {value}" for name, value in conditions.items()]
    lines += ["", f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(figure.cells())} |" for figure in figures]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def conditions(broker_version: str, broker_kind: str) -> dict[str, str]:
    """What a reader must know of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "Python": platform.python_version(),
        "RabbitMQ": f"{broker_version} ({broker_kind})",
        "load average at the end": f"{os.getloadavg()[0]:.1f}",
    }
