"""How much has been done so far: a line a kind of work, which stands still where nobody does it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from labkit.errors import InputError
from labkit.measure.select import check_kind, events
from labkit.plots.happenings import LABEL_ROW, Happenings
from labkit.plots.style import GRID, apart, colours_for, dark, dress, new_axes, since

#: The height of a line's name, as a part of the axes' height.
NAME = 0.07
#: The width of a character of a name, as a part of the axes' width.
CHARACTER = 0.0131


def totals(
    frame: pd.DataFrame,
    which: Mapping[str, tuple[str, str]],
    ax: Axes | None = None,
    title: str = "What has been done so far",
) -> Axes:
    """How often each kind of thing has happened so far, over time.

    Marks, crashes, stops and returns of services, and faults, are shown as in `backlog`.

    Args:
        frame: events.
        which: a line's name and what it counts, as `(kind of event, service)`, such as
            `{"payments": ("done", "payment")}`. The service gives the line its colour.
        ax: where to draw; a new figure if left out.
        title: what the picture shows.

    Raises:
        InputError: there is nothing to count, or no such kind of event.
    """
    if not which:
        raise InputError(
            "There is nothing to count.",
            f"which={which!r}",
            'name a line and what it counts: {"payments": ("done", "payment")}',
        )
    times: dict[str, np.ndarray] = {}
    for name, (kind, service) in which.items():
        check_kind(kind)
        chosen = events(frame, kind)
        times[name] = chosen.loc[chosen["service"] == service, "time_s"].to_numpy(dtype=float)
    if not any(len(each) for each in times.values()):
        raise InputError(
            "None of it has happened.",
            f"no event of {', '.join(f'{kind} {who}' for kind, who in which.values())}",
            "let orders flow first, and look at the kinds in labkit.events.KINDS",
        )
    ax = ax or new_axes(3.9)
    zero, label = since(frame)
    end = float(max(each[-1] for each in times.values() if len(each))) - zero
    happened = Happenings(frame, zero + end)
    left = min(0.0, happened.first - zero)
    longest = max(len(f"{name}: {len(each)}") for name, each in times.items())
    right = left + (end - left or 1) / (1 - CHARACTER * (longest + 2))
    rows = happened.draw(ax, zero, right)
    colours = colours_for([service for _, service in which.values()])
    for name, each in times.items():
        # From nothing at the left edge, a step up for each, and on to the last thing of all.
        ax.plot(
            np.concatenate([[left], each - zero, [end]]),
            np.concatenate([[0], np.arange(1, len(each) + 1), [len(each)]]),
            drawstyle="steps-post",
            color=colours[which[name][1]],
            linewidth=2,
            label=name,
        )
    top = max(len(each) for each in times.values())
    ax.set_ylim(0, top / (1 - LABEL_ROW * (rows + 0.6)))
    ax.set_xlim(left, right)
    heights = apart([len(each) for each in times.values()], NAME * ax.get_ylim()[1])
    for (name, each), height in zip(times.items(), heights, strict=True):
        ax.annotate(
            f"{name}: {len(each)}",
            (end, height),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            fontweight="bold",
            color=dark(colours[which[name][1]]),
        )
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.grid(axis="y", color=GRID)
    return dress(ax, title, label, "done so far", happened.note)
