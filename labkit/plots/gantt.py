"""One order: where its seconds go."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from labkit import measure
from labkit.errors import InputError
from labkit.plots.bars import BAR, rows, write
from labkit.plots.style import INK, colours_for, dress, ink_on, new_axes, pale, seconds

ROW_IN = 0.42


def _total(ax: Axes, total: float, text: str) -> None:
    """A line where it ends, with the total written above it."""
    ax.axvline(total, color=INK, linewidth=1.2)
    ax.annotate(
        text,
        (total, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=10,
        fontweight="bold",
        color=INK,
    )


def gantt(frame: pd.DataFrame, order_id: str, ax: Axes | None = None) -> Axes:
    """Where the seconds of one order go: a row a department, a bar a piece of work.

    A wait in front of the order service, from the customer's click to the start of its work, is a
    pale bar. Work that failed or has not ended is hatched. The total is the time from the order's
    first event to its last.

    Args:
        frame: events.
        order_id: which order.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: nothing was recorded about this order, or no work on it.
    """
    spans = measure.spans(frame, order_id)
    if not len(spans):
        raise InputError(
            "No department has worked on this order.",
            f"order_id={order_id!r} has no event of the kind `started`",
            "wait until it has been worked on, then draw",
        )
    own = frame.loc[frame["order_id"] == order_id, "time_s"]
    zero, total = float(own.min()), float(own.max() - own.min())
    services = list(dict.fromkeys(spans["service"]))
    colours = colours_for(services)
    ax = ax or new_axes(1.4 + ROW_IN * len(services))
    first_of_door = spans.loc[spans["service"] == "order_service", "start_s"].min() - zero
    if first_of_door > 0.02 * total:
        row = services.index("order_service")
        ax.barh(row, first_of_door, height=BAR, color=pale(colours["order_service"]))
        write(ax, f"waits {seconds(first_of_door)}", 0, first_of_door, row, total, INK)
    for _, service, start_s, end_s, duration_s, result in spans.itertuples(index=False, name=None):
        row, start = services.index(service), start_s - zero
        ended = not pd.isna(end_s)
        end = end_s - zero if ended else total
        text = seconds(duration_s) if ended else "not finished"
        whole_bar = ended and result not in ("failed", "crashed")
        ax.barh(
            row,
            end - start,
            left=start,
            height=BAR,
            color=colours[service] if whole_bar else "white",
            edgecolor=colours[service],
            hatch=None if whole_bar else "////",
        )
        if not whole_bar and ended:
            text = f"{text}, {result}"
        ink = ink_on(colours[service]) if whole_bar else INK
        write(ax, text, start, end, row, total, ink, hatched=not whole_bar)
    rows(ax, services)
    _total(ax, total, f"total {seconds(total)}")
    ax.set_xlim(0, 1.1 * total or 1)
    title = f"Where the {seconds(total)} of {order_id} go"
    return dress(ax, title, "shop seconds since the customer ordered")
