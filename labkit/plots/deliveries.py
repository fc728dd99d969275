"""When each message was delivered, what became of each delivery, and when it was planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from labkit.errors import InputError
from labkit.measure.select import events
from labkit.plots.bars import rows
from labkit.plots.style import GRID, INK, SOFT_INK, dress, new_axes

ROW_IN = 0.34
#: What became of a delivery: marker, colour. The shapes differ, for whom the colours do not.
BECAME = {
    "put back at once": ("|", "#D55E00"),
    "to be tried later": (">", "#E69F00"),
    "dead letter": ("X", "#222222"),
    "done": ("o", "#0072B2"),
    "not answered": ("_", "#8A8A8A"),
}
#: How wide a note at the right is, as a part of the axes' width.
NOTE = 0.2


def _became(frame: pd.DataFrame, order_id: str) -> list[tuple[float, str]]:
    """Each delivery of a message: when, and what became of it."""
    own = frame[frame["order_id"] == order_id]
    times = list(events(own, "delivered", "redelivered")["time_s"])
    answers = [str(kind) for kind in events(own, "acked", "rejected", "requeued")["kind"]]
    found = []
    for number, time_s in enumerate(times):
        answer = answers[number] if number < len(answers) else ""
        # What is acknowledged and comes again was a copy, which had been put aside.
        again = number + 1 < len(times)
        word = {
            "requeued": "put back at once",
            "rejected": "dead letter",
            "acked": "to be tried later" if again else "done",
        }.get(answer, "not answered")
        found.append((float(time_s), word))
    return found


def deliveries(
    frame: pd.DataFrame,
    messages: Iterable[str] | None = None,
    planned: Mapping[str, Sequence[float]] | None = None,
    ax: Axes | None = None,
    title: str = "When each message was delivered",
) -> Axes:
    """A row a message, a mark a delivery, whose shape says what became of it.

    The time axis begins with the first delivery of all.

    Args:
        frame: events, with those that a consumer records; each message bears an order id.
        messages: which messages, from the top, also such as were never delivered; those that
            were, in the order of their first delivery, if left out.
        planned: for some messages the times that were planned for their deliveries, in shop
            seconds after their own first one; hollow diamonds.
        ax: where to draw; a new figure if left out.
        title: what the picture shows.

    Raises:
        InputError: nothing was delivered.
    """
    delivered = events(frame, "delivered", "redelivered")
    if not len(delivered):
        raise InputError(
            "No message was delivered.",
            "no event of the kinds `delivered`, `redelivered`",
            "give the consumer a recorder, and let it take messages",
        )
    names = list(delivered["order_id"].dropna().unique()) if messages is None else list(messages)
    zero, end = float(delivered["time_s"].min()), 0.0
    ax = ax or new_axes(1.9 + ROW_IN * len(names))
    marks: dict[str, list[tuple[float, int]]] = {word: [] for word in BECAME}
    notes = []
    for row, name in enumerate(names):
        came = [(time_s - zero, word) for time_s, word in _became(frame, name)]
        for at, word in came:
            marks[word].append((at, row))
        plan = [came[0][0] + at for at in (planned or {}).get(name, ())] if came else []
        end = max([end, *plan, *(at for at, _ in came)])
        if len(came) != 1:
            last = max([0.0, *plan, *(at for at, _ in came)])
            notes.append((last, row, f"{len(came):,} deliveries" if came else "never delivered"))
        if plan:
            ax.plot(
                plan,
                [row] * len(plan),
                "D",
                markersize=12,
                markerfacecolor="none",
                markeredgecolor=SOFT_INK,
                linestyle="none",
                label="planned",
            )
    for word, (marker, colour) in BECAME.items():
        if marks[word]:
            when, on = zip(*marks[word], strict=True)
            ax.plot(
                when, on, marker, color=colour, markersize=8, label=word, linestyle="none", zorder=3
            )
    for last, row, text in notes:
        ax.annotate(
            text,
            (last, row),
            (11, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=INK,
        )
    rows(ax, names)
    end = end or 1.0
    ax.set_xlim(-0.02 * end, end * (1 + (NOTE if notes else 0.02)))
    ax.grid(axis="x", color=GRID)
    named = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(
        named.values(),
        named.keys(),
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.995),
        ncols=len(named),
        frameon=False,
        fontsize=10,
        handletextpad=0.3,
        columnspacing=1.4,
        borderaxespad=0.1,
    )
    dress(ax, title, "shop seconds since the first delivery")
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=30)
    return ax
