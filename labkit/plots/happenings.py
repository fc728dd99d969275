"""What happened meanwhile, behind a curve over time: marks, crashes, returns, faults of a storm."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from labkit.measure.select import events
from labkit.plots.style import INK, SOFT_INK

#: The height of one row of text, as a part of the axes' height.
LABEL_ROW = 0.075
#: More than this, crashes and faults together, are bands without words, or nobody could read them.
MOST_LABELS = 8
#: The width of a band at least, as a part of the axes' width: a fault may last for no time at all.
NARROWEST = 0.004


class Band(NamedTuple):
    """A fault, from when it was brought about until it was mended, in shop seconds."""

    start_s: float
    end_s: float
    label: str


class Happenings:
    """What happened beside a curve.

    Args:
        frame: events.
        until: when the curve ends, in shop seconds; faults that are not mended end there.

    Attributes:
        lines: what gets a line, `(time, label)`: marks, crashes, stops under way, comings back.
            Where they and the faults would be too many to read, marks alone.
        bands: the faults of a storm.
        note: what the bands are, for a line under the title; None where there are none.
    """

    def __init__(self, frame: pd.DataFrame, until: float) -> None:
        self.bands = _faults(frame, until)
        self.lines = _lines(frame, until)
        self.crowded = bool(self.bands) and len(self.bands) + len(self.lines) > MOST_LABELS
        if self.crowded:
            marks = events(frame, "mark")
            self.lines = list(zip(marks["time_s"], map(str, marks["detail"]), strict=True))
        number = len(self.bands)
        self.note = f"grey: {number} {'fault' if number == 1 else 'faults'}" if number else None

    @property
    def first(self) -> float:
        """When the first of it happened, in shop seconds; infinity where nothing did."""
        starts = [at for at, _ in self.lines] + [band.start_s for band in self.bands]
        return min(starts, default=math.inf)

    def draw(self, ax: Axes, zero: float, end: float) -> int:
        """Draws bands, and lines with their labels above the data.

        Args:
            ax: where.
            zero: the shop time of the axes' zero.
            end: the right end of the axes.

        Returns:
            How many rows of text the labels need.
        """
        for band in self.bands:
            start, width = band.start_s - zero, band.end_s - band.start_s
            width = max(width, NARROWEST * (end or 1))
            ax.axvspan(start, start + width, color=INK, alpha=0.13, linewidth=0, zorder=0.5)
        for at, _ in self.lines:
            ax.axvline(at - zero, color=SOFT_INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        labels = list(self.lines)
        if not self.crowded:
            # A crash has a line of its own, which says whose it is.
            labels += [(b.start_s, b.label) for b in self.bands if not b.label.startswith("crash")]
        return _write(ax, [(at - zero, label) for at, label in sorted(labels)], end)


def _faults(frame: pd.DataFrame, until: float) -> list[Band]:
    """Each fault with its end, in the order in which they began."""
    bands: list[Band] = []
    open_faults: dict[tuple[str, str], list[float]] = {}
    chosen = events(frame, "fault", "mended")
    columns = ["time_s", "kind", "service", "detail"]
    for time_s, kind, target, fault in chosen[columns].itertuples(index=False, name=None):
        begun = open_faults.setdefault((str(target), str(fault)), [])
        if kind == "fault":
            begun.append(time_s)
        elif begun:
            bands.append(Band(begun.pop(0), time_s, _label(str(target), str(fault))))
    for (target, fault), begun in open_faults.items():
        bands += [Band(at, max(at, until), _label(target, fault)) for at in begun]
    return sorted(band for band in bands if band.start_s <= until)


def _label(target: str, fault: str) -> str:
    """`kill broker`, or `refuse: email`."""
    return fault if target in fault else f"{fault}: {target.replace('_', ' ')}"


def _lines(frame: pd.DataFrame, until: float) -> list[tuple[float, str]]:
    """Marks, crashes, stops under way, and comings back."""
    lines: list[tuple[float, str]] = []
    gone: set[str] = set()
    chosen = events(frame, "mark", "crashed", "stopped", "up")
    columns = ["time_s", "kind", "service", "detail"]
    for time_s, kind, service, detail in chosen[columns].itertuples(index=False, name=None):
        name = str(service).replace("_", " ")
        if kind == "mark":
            lines.append((time_s, str(detail)))
        elif kind == "up":
            # The first start of each service is no news.
            if service in gone:
                lines.append((time_s, f"{name} is back"))
            gone.discard(service)
        elif time_s <= until:  # what is stopped after the last sample only clears up
            gone.add(service)
            lines.append((time_s, f"{name} {'crashes' if kind == 'crashed' else 'is stopped'}"))
    return lines


def _write(ax: Axes, labels: list[tuple[float, str]], end: float) -> int:
    """Writes labels at the top, each where there is room; gives how many rows they need."""
    free: list[float] = []  # by row of text: from where on it is free
    for time_s, label in labels:
        length = 0.0125 * (len(label) + 2) * (end or 1)
        left = time_s + length > 1.02 * end
        begin = time_s - length if left else time_s
        row = next((n for n, taken in enumerate(free) if begin >= taken), len(free))
        free[row : row + 1] = [begin + length]
        ax.annotate(
            label,
            (time_s, 1),
            (-4 if left else 4, -4 - 14 * row),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            fontsize=10,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )
    return len(free)
