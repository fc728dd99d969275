"""How long each customer waits, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from labkit import measure
from labkit.errors import InputError
from labkit.measure.select import events
from labkit.plots.style import (
    GRID,
    INK,
    OUTCOMES,
    dress,
    new_axes,
    pale,
    seconds,
    since,
)

#: Up to so many customers get a bar each; more become dots.
MOST_BARS = 60
#: The HTTP status of an order whose payment was declined: an answer, and no failure.
PAYMENT_REQUIRED = 402
WAITING = "waits for a worker"


def outcome_class(outcome: object) -> str:
    """Which of `OUTCOMES` an answer belongs to: an HTTP status, a word, or None."""
    if outcome is None or (isinstance(outcome, float) and np.isnan(outcome)):
        return "no answer"
    if isinstance(outcome, int | np.integer):
        return (
            "answered" if outcome < 400 else "declined" if outcome == PAYMENT_REQUIRED else "error"
        )
    return "timeout" if outcome == "timeout" else "error"


def _server_starts(frame: pd.DataFrame, table: pd.DataFrame) -> np.ndarray[Any, Any]:
    """When the order service began with each row of `response_times`, NaN where it is not known."""
    started = events(frame, "started")
    started = started[started["service"] == "order_service"]
    by_order = {key: list(group) for key, group in started.groupby("order_id")["time_s"]}
    nth = table.groupby("order_id").cumcount()
    begun = np.full(len(table), np.nan)
    for row, (order, n) in enumerate(zip(table["order_id"], nth, strict=True)):
        times = by_order.get(order, [])
        begun[row] = times[n] if n < len(times) else np.nan
    return begun


def response_timeline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How long each customer waits: a bar each from the click to the answer, by outcome.

    The pale part of a bar is the wait in front of the server, before a worker took the request;
    it is there where `started` events of the order service were recorded. More than 60 customers
    become dots: the response time over the time of arrival.

    Args:
        frame: events.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: no customer came.
    """
    table = measure.response_times(frame)
    if not len(table):
        raise InputError(
            "There are no response times to draw.",
            "no event of the kinds `intended`, `sent`, `answered`",
            "let customers come first: labkit.load.Customers",
        )
    zero, _ = since(frame)
    classes = [outcome_class(outcome) for outcome in table["outcome"]]
    counts = pd.Series(classes).value_counts()
    handles = [
        Patch(facecolor=colour, label=f"{name}: {counts[name]}")
        for name, colour in OUTCOMES.items()
        if name in counts
    ]
    if len(table) > MOST_BARS:
        ax = ax or new_axes(3.9)
        labels = _dots(ax, table, classes, zero)
        ax.legend(handles=handles, loc="upper left", fontsize=10, frameon=False)
    else:
        ax = ax or new_axes(1.5 + 0.11 * max(len(table), 14))
        begun = _server_starts(frame, table)
        labels = _bars(ax, table, classes, begun, zero, float(frame["time_s"].max()))
        if any(bars.get_label() == WAITING for bars in ax.containers):
            first = next(name for name in OUTCOMES if name in counts)
            handles.append(Patch(facecolor=pale(OUTCOMES[first]), label=WAITING))
        # Bars step down to the right: few leave the upper right free, many the lower left too.
        ax.legend(handles=handles, loc="upper right", fontsize=10, frameon=False)
    who = f"{len(table)} customers" if len(table) > 1 else "One customer"
    there = table["response_s"].dropna()
    if not len(there):
        title = f"{who}, and no answer"
    elif there.max() < 1.2 * there.iloc[0]:
        title = f"{who}: each answer within {seconds(there.max())}"
    else:
        title = (
            f"{who}: the first waits {seconds(there.iloc[0])}, the longest {seconds(there.max())}"
        )
    return dress(ax, title, *labels)


def _bars(
    ax: Axes,
    table: pd.DataFrame,
    classes: list[str],
    begun: np.ndarray[Any, Any],
    zero: float,
    now: float,
) -> tuple[str, str]:
    """A bar a customer; gives the labels of the axes."""
    start = table["intended_s"].to_numpy() - zero
    end = table["answered_s"].fillna(now).to_numpy() - zero
    turn = np.clip(np.where(np.isnan(begun), start, begun - zero), start, end)
    rows = np.arange(1, len(table) + 1)
    colours = [OUTCOMES[name] for name in classes]
    if (turn - start).max() > 0.01 * float(end.max() - start.min()):
        shades = [pale(colour) for colour in colours]
        ax.barh(rows, turn - start, left=start, height=0.74, color=shades, label=WAITING)
    # The edge keeps a bar in sight that is shorter than a pixel.
    ax.barh(
        rows, end - turn, left=turn, height=0.7, color=colours, edgecolor=colours, linewidth=1.2
    )
    longest = int(np.argmax(end - start))
    last = len(table) - 1
    for row in {0, last} | ({longest} if longest < last - 1 and longest > 1 else set()):
        answered = classes[row] != "no answer"
        ax.annotate(
            seconds(end[row] - start[row]) if answered else "no answer yet",
            (end[row], rows[row]),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=INK,
        )
    ax.set_ylim(len(table) + 0.8, 0.2)
    ax.set_yticks([n for n in rows if n == 1 or n % 5 == 0] if len(rows) > 8 else rows)
    ax.set_xlim(0, 1.12 * float(end.max()) or 1)
    ax.grid(axis="x", color=GRID)
    return "shop seconds since the first customer", "customer, by arrival"


def _dots(ax: Axes, table: pd.DataFrame, classes: list[str], zero: float) -> tuple[str, str]:
    """A dot a customer, at the bottom where there is no answer; gives the labels of the axes."""
    arrival_s = table["intended_s"].to_numpy() - zero
    response_s = table["response_s"].fillna(0).to_numpy()
    for name, colour in OUTCOMES.items():
        mine = np.array([each == name for each in classes])
        if mine.any():
            mark = "x" if name == "no answer" else "."
            ax.plot(
                arrival_s[mine],
                response_s[mine],
                mark,
                color=colour,
                markersize=5,
                alpha=0.7,
                label=name,
            )
    # Room for the legend above the dots.
    ax.set_ylim(0, (1.1 + 0.08 * len(set(classes))) * float(response_s.max()) or 1)
    ax.grid(axis="y", color=GRID)
    return "arrival, shop seconds since the first customer", "response time, shop seconds"
