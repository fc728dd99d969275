"""In which order messages were sent and done, and what each way to keep an order costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from labkit import measure
from labkit.errors import InputError
from labkit.measure.select import events
from labkit.plots.bars import write
from labkit.plots.style import GRID, INK, colours_for, dress, new_axes

ROW_IN = 0.155
#: Up to so many messages have their names on the axis; of more, every fifth has its number.
MOST_NAMES = 32
#: What became of a message's place, and the mark at the end of its bar.
MARKS: dict[str, dict[str, Any]] = {
    "not overtaken": {"marker": "o", "markersize": 4, "markerfacecolor": INK},
    "overtaken": {"marker": "o", "markersize": 5.5, "markerfacecolor": "white"},
    "overtaken by own customer": {"marker": "D", "markersize": 6, "markerfacecolor": INK},
}


def _marks(table: pd.DataFrame) -> pd.Series[str]:
    """Which of `MARKS` each message has."""
    in_place, by_others, by_own = MARKS
    marks = [
        by_own if own else by_others if every else in_place
        for every, own in zip(table["overtaken"], table["overtaken_by_own"], strict=True)
    ]
    return pd.Series(marks, index=table.index, dtype=object)


def sequence(frame: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Who did which message when: a row a message, the first that was sent at the top.

    A bar is work on it, in the colour of who did it, and its end has a mark, which tells whether
    later ones were done before it. Where the order is kept, the marks go down to the right like
    stairs. Work that was given up, by a failure or a crash, is hatched.

    Args:
        frame: events, as for `measure.sequence`.
        ax: where to draw; a new figure if left out.
        title: instead of the number of overtakings.

    Raises:
        InputError: nothing was sent, or nothing of it was begun.
    """
    table = measure.sequence(frame)
    place = {order: n for n, order in enumerate(table["order_id"])}
    spans = measure.spans(frame)
    spans = spans[spans["order_id"].isin(place)]
    if not len(spans):
        raise InputError(
            "Nobody has worked on what was sent.",
            "no event of the kind `started` for it",
            "wait until it has been worked on, then draw",
        )
    ax = ax or new_axes(1.5 + ROW_IN * len(table))
    zero = float(spans["start_s"].min())
    now = float(frame["time_s"].max())
    who = sorted(set(spans["service"]))
    colours = dict(zip(who, colours_for(who).values(), strict=True))
    for order, service, start_s, end_s, _, result in spans.itertuples(index=False, name=None):
        end = now if pd.isna(end_s) else end_s
        whole = result not in ("failed", "crashed", None)
        ax.barh(
            place[order],
            end - start_s,
            left=start_s - zero,
            height=0.72,
            color=colours[service] if whole else "white",
            edgecolor=colours[service],
            hatch=None if whole else "//////",
            linewidth=0.8,
        )
    marks = _marks(table)
    for mark, look in MARKS.items():
        mine = table[marks.eq(mark) & table["done"].notna()]
        at = [place[order] for order in mine["order_id"]]
        ax.plot(mine["done_s"] - zero, at, color=INK, linestyle="none", label=mark, **look)
    for moment, service in _crashes(frame):
        ax.axvline(moment - zero, color=INK, linewidth=1, linestyle=":")
        ax.annotate(
            f"{service.replace('_', ' ')} crashes",
            (moment - zero, 0.02),
            (-4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=10,
            color=INK,
        )
    _legend(ax, colours, set(marks))
    _name_rows(ax, list(table["order_id"]))
    ax.set_xlim(0, 1.03 * (now - zero) or 1)
    every, own = int(table["overtaken"].sum()), int(table["overtaken_by_own"].sum())
    counted = f"{every} overtakings, {own} of them within a customer's own messages"
    return dress(
        ax,
        title or ("Done in the order in which they were sent" if not every else counted),
        "shop seconds since the first was begun",
        "message, in the order of sending",
        subtitle="",  # the legend stands there
    )


def _crashes(frame: pd.DataFrame) -> list[tuple[float, str]]:
    crashed = events(frame, "crashed")
    return list(zip(crashed["time_s"], crashed["service"], strict=True))


def _legend(ax: Axes, colours: dict[str, str], marks: set[str]) -> None:
    """Who works, and which marks there are: a line under the title, where no bar can be."""
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, label=name.replace("_", " ")) for name, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color=INK, linestyle="none", label=mark, **look)
        for mark, look in MARKS.items()
        if mark in marks
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        fontsize=9,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.1,
        borderpad=0.2,
    )


def _name_rows(ax: Axes, names: list[str]) -> None:
    ax.set_ylim(len(names) - 0.2, -0.8)
    ax.grid(axis="x", color=GRID)
    if len(names) <= MOST_NAMES:
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", labelsize=8)
    else:
        shown = [n for n in range(len(names)) if n == 0 or (n + 1) % 5 == 0]
        ax.set_yticks(shown, [str(n + 1) for n in shown])


def costs_of_order(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many messages a second each arrangement does, with its overtakings.

    Args:
        table: a row an arrangement, indexed by its name: `per_s` (messages in a shop second),
            `overtaken` and `overtaken_by_own` (overtakings in all, and within a customer's own).
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: one of these columns is missing, or there is no row.
    """
    wanted = ["per_s", "overtaken", "overtaken_by_own"]
    missing = [name for name in wanted if name not in table.columns]
    if missing or not len(table):
        raise InputError(
            "There is nothing to compare.",
            f"no column {', '.join(missing)}" if missing else "no row",
            f"pass a table with the columns {', '.join(wanted)}",
        )
    names = [str(name) for name in table.index]
    ax = ax or new_axes(1.3 + 0.55 * len(names))
    colours = colours_for(names)
    whole = 1.25 * float(table["per_s"].max())
    ax.set_xlim(0, whole)
    labels = []
    for row, (name, per_s, every, own) in enumerate(
        zip(names, *(table[column] for column in wanted), strict=True)
    ):
        ax.barh(row, per_s, height=0.6, color=colours[name])
        write(ax, f"{per_s:.1f} a second", per_s, per_s, row, whole)
        labels.append(f"{name}\novertakings: {every}, within a customer: {own}")
    ax.set_yticks(range(len(names)), labels)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x", color=GRID)
    return dress(ax, "What keeping order costs", "messages done per second, in shop seconds")
