"""How the times of many orders are spread, and how two flows compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from labkit import measure
from labkit.errors import InputError
from labkit.plots.style import (
    GRID,
    INK,
    SOFT_INK,
    colours_for,
    dark,
    dress,
    new_axes,
    seconds,
)

#: Where the longest is more than so many times the shortest, the axis is logarithmic.
LOG_FROM = 50
QUANTILES = (50, 95)


def _scale(ax: Axes, values: list[np.ndarray[Any, Any]], label: str) -> None:
    """The x axis for durations: logarithmic where they differ very much, and says so."""
    every = np.concatenate(values)
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    if low > 0 and high / low > LOG_FROM:
        ax.set_xscale("log")
        ax.set_xlim(low / 2.5, high * 2.5)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        label += " (logarithmic: each step is ten times the last)"
    else:
        ax.set_xlim(0, high * 1.15 or 1)
    ax.set_xlabel(label)


def ecdf(
    frames: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    xlabel: str = "response time, shop seconds",
    unit: str = "s",
    title: str = "How many customers waited at most so long",
) -> Axes:
    """For each time, which fraction of the customers waited at most that long; marks p50 and p95.

    What never came (NaN) counts as longer than everything: such a curve ends below 100 %.

    Args:
        frames: a label for each set of values, such as `{"synchronous": times["response_s"]}`.
        ax: where to draw; a new figure if left out.
        xlabel: what the values are, and their unit.
        unit: the unit's sign, for the labels on the curves.
        title: what the picture shows.

    Raises:
        InputError: no set, or one without a number in it.
    """
    if not isinstance(frames, Mapping) or not frames:
        raise InputError(
            "There is nothing to compare.",
            f"{type(frames).__name__} where a dict was expected" if frames is not None else "None",
            'pass a dict: ecdf({"synchronous": values, "decoupled": others})',
        )
    ax = ax or new_axes(3.9)
    colours = colours_for(frames)
    tables = {label: measure.ecdf(values) for label, values in frames.items()}
    _scale(ax, [table["value"].to_numpy() for table in tables.values()], xlabel)
    marks: list[tuple[float, float, str, str]] = []
    for label, values in frames.items():
        for name, at in measure.percentiles(values, QUANTILES).items():
            if np.isfinite(at):
                level = float(str(name)[1:]) / 100
                marks.append((level, at, f"{label} {name}: {_plain(at)} {unit}", label))
    right = ax.get_xlim()[1]
    if ax.get_xscale() == "linear" and marks:
        # Room for the name to the right of the last point, where no curve runs.
        _, at, text, _ = max(marks, key=lambda mark: mark[1])
        right = max(right, at / (1 - _width(text)))
        ax.set_xlim(right=right)
    for label, table in tables.items():
        value, fraction = table["value"].to_numpy(), table["fraction"].to_numpy()
        ax.plot(
            np.concatenate([value[:1], value, [right]]),
            np.concatenate([[0.0], fraction, fraction[-1:]]),
            drawstyle="steps-post",
            color=colours[label],
            linewidth=2,
            label=label,
        )
    for level, at, _, label in marks:
        ax.plot(at, level, "o", color=colours[label], markersize=6)
    for q in QUANTILES:
        _name_points(ax, sorted(mark for mark in marks if mark[0] == q / 100), colours)
    ax.set_ylim(0, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 0.95], ["0 %", "25 %", "50 %", "75 %", "95 %"])
    ax.grid(axis="y", color=GRID)
    return dress(ax, title, ax.get_xlabel(), "of the customers")


def _name_points(
    ax: Axes, marks: list[tuple[float, float, str, str]], colours: Mapping[str, str]
) -> None:
    """Writes on the points of one level what they are; `marks` from left to right.

    The rightmost is named to its right, under the curve, the others to their left, above theirs;
    where the axes end too soon for that, the other way round.
    """
    lines = {"left": 0, "right": 0}
    sides: list[str] = []
    for n, (level, at, text, _) in enumerate(marks):
        place = float(ax.transAxes.inverted().transform(ax.transData.transform((at, level)))[0])
        need = _width(text)
        wanted = "right" if n == len(marks) - 1 else "left"
        if wanted == "right" and place + need > 1:
            wanted = "left"
        elif wanted == "left" and place - need < 0:
            wanted = "right"
        sides.append(wanted)
    # Each further label on the same side stands one line lower on the right, higher on the left.
    rightmost_first = list(zip(marks, sides, strict=True))[::-1]
    for (level, at, text, label), side in rightmost_first:
        right = side == "right"
        ax.annotate(
            text,
            (at, level),
            (9, -5 - 15 * lines[side]) if right else (-9, 15 * lines[side]),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top" if right else "center",
            fontsize=10,
            color=dark(colours[label]),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )
        lines[side] += 1


def _width(text: str) -> float:
    """How much of the axes' width a point's name takes at most."""
    return min(0.5, 0.0131 * (len(text) + 1))


def _plain(value: float) -> str:
    """A number with three digits that say something."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def completion_against_response(
    frame: pd.DataFrame | Mapping[str, pd.DataFrame], ax: Axes | None = None
) -> Axes:
    """When the customer has an answer, and when the order is done: a dot an order, for each flow.

    Full dots are response times, hollow ones completion times; the tick is the median.

    Args:
        frame: one run's events, or a dict of them by the flow's name.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: no run, or one in which no order was answered.
    """
    runs = dict(frame) if isinstance(frame, Mapping) else {"": frame}
    if not runs:
        raise InputError("There is nothing to compare.", "an empty dict", "pass at least one run")
    rows: list[tuple[str, str, np.ndarray[Any, Any]]] = []
    for name, run in runs.items():
        rows.append((name, "answered", measure.response_times(run)["response_s"].to_numpy()))
        rows.append((name, "order done", measure.completion_times(run)["completion_s"].to_numpy()))
    if not any(np.isfinite(values).any() for _, _, values in rows):
        raise InputError(
            "No order was answered or done.", "every time is missing", "let orders flow"
        )
    ax = ax or new_axes(1.6 + 0.52 * len(rows))
    colours = colours_for(runs)
    _scale(ax, [values for _, _, values in rows], "shop seconds since the customer ordered")
    for row, (name, what, values) in enumerate(rows):
        there = values[np.isfinite(values)]
        colour = colours[name]
        # Spread a little up and down, the same way on each run, so that equal ones are all seen.
        spread = 0.16 * np.sin(2.4 * np.arange(len(there)))
        ax.plot(
            there,
            row + spread,
            "o",
            markersize=5,
            color=colour,
            markerfacecolor=colour if what == "answered" else "white",
            alpha=0.85,
            label=f"{name} {what}".strip(),
        )
        if not len(there):
            ax.text(
                0.5,
                row,
                "none yet",
                transform=ax.get_yaxis_transform(),
                color=SOFT_INK,
                va="center",
            )
            continue
        median = float(measure.percentiles(there, [50]).iloc[0])
        ax.plot([median, median], [row - 0.36, row + 0.36], color=INK, linewidth=2)
        missing = len(values) - len(there)
        ax.annotate(
            f"median {seconds(median)}" + (f", {missing} not yet" if missing else ""),
            (median, row - 0.36),
            (0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
    ax.grid(axis="y", color=GRID)
    ax.set_yticks(range(len(rows)), [f"{name}\n{what}".strip() for name, what, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.75)
    return dress(ax, "When the customer has an answer, and when the order is done", ax.get_xlabel())
