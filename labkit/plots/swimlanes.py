"""One order: which way it takes through the shop, who works on it when, and where it waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from labkit import measure
from labkit.events import KINDS
from labkit.measure.select import check_order, events
from labkit.plots.bars import BAR, CHARACTER, fits, rows, write
from labkit.plots.style import (
    COLOURS,
    GRID,
    INK,
    OWNERS,
    SOFT_INK,
    colours_for,
    dark,
    dress,
    ink_on,
    new_axes,
    pale,
    seconds,
)

LANE_IN = 0.52


def _lane(service: str) -> str:
    """The department that a consumer works for, where it is named after its queue."""
    return OWNERS.get(service, service)


def swimlanes(
    frame: pd.DataFrame,
    order_id: str,
    ax: Axes | None = None,
    bindings: Iterable[tuple[str, str, str]] | None = None,
) -> Axes:
    """The journey of one order: a lane a service, pale where it waits, solid where it is worked on.

    A dot is a message being published, with its routing key; the arrows from it lead to the lanes
    of those whose queues it went to. A diamond is a new status of the order.

    Args:
        frame: events.
        order_id: which order.
        ax: where to draw; a new figure if left out.
        bindings: as in `measure.waits`, where one order has several messages waiting at a time.

    Raises:
        InputError: nothing was recorded about this order.
    """
    check_order(frame, order_id)
    own = events(frame[frame["order_id"] == order_id], *KINDS)
    zero, total = (
        float(own["time_s"].min()),
        float(own["time_s"].max() - own["time_s"].min()) or 1.0,
    )
    found = {_lane(service) for service in own["service"]}
    lanes = [name for name in ("customer", *COLOURS) if name in found]
    lanes = list(dict.fromkeys(lanes))
    lanes += [name for name in dict.fromkeys(map(_lane, own["service"])) if name not in lanes]
    ax = ax or new_axes(1.6 + LANE_IN * len(lanes))
    lane = _Lanes(ax, lanes, zero, total)
    answered_s = lane.customer(measure.response_times(own))
    lane.waits(measure.waits(own, bindings))
    lane.work(measure.spans(frame, order_id))
    lane.messages(own[own["kind"] == "published"])
    lane.statuses(own[own["kind"] == "status"])
    rows(ax, lanes)
    ax.grid(axis="y", color=GRID)
    ax.set_xlim(-0.02 * total, lane.end)
    completion_s = measure.completion_times(own)["completion_s"].max()
    parts = [f"answered after {seconds(answered_s)}"] if answered_s is not None else []
    parts += [f"done after {seconds(completion_s)}"] if pd.notna(completion_s) else []
    title = f"{order_id}: {', '.join(parts)}" if parts else f"The journey of {order_id}"
    reading = ["full: work"]
    # A message in a consumer's hands waits too, and is not in the queue any more.
    reading += ["pale: waits, queued or fetched ahead", "dot: publishes"] if lane.published else []
    reading += ["diamond: new status"]
    return dress(
        ax, title, "shop seconds since the customer ordered", subtitle="    ".join(reading)
    )


class _Lanes:
    """The lanes of one order's picture, and what is drawn on them.

    Args:
        ax: where.
        lanes: their names, from the top.
        zero: the time at which the picture begins, as the events count it.
        total: how long the order took, in shop seconds.
    """

    def __init__(self, ax: Axes, lanes: list[str], zero: float, total: float) -> None:
        self.end = 1.03 * total
        self.published = False
        self._ax = ax
        self._row = {name: row for row, name in enumerate(lanes)}
        self._colours = colours_for(lanes)
        self._zero = zero
        self._total = total

    def _bar(self, lane: str, start: float, end: float, colour: Any, order: float = 2) -> None:
        # The edge keeps a bar in sight that is shorter than a pixel.
        self._ax.barh(
            self._row[lane],
            end - start,
            left=start,
            height=BAR,
            color=colour,
            edgecolor=colour,
            linewidth=1,
            zorder=order,
        )

    def customer(self, response: pd.DataFrame) -> float | None:
        """The customer's wait; gives the response time, None without an answer."""
        answered = response.dropna(subset="response_s")
        if not len(answered):
            return None
        start = float(answered["intended_s"].iloc[0]) - self._zero
        response_s = float(answered["response_s"].iloc[0])
        end = start + response_s
        self._bar("customer", start, end, self._colours["customer"])
        text = f"waits {seconds(response_s)}"
        write(self._ax, text, start, end, self._row["customer"], self._total, "white")
        return response_s

    def waits(self, waits: pd.DataFrame) -> None:
        """Pale bars from publishing to delivery, with an arrow from the publisher's lane."""
        columns = ["service", "publisher", "published_s", "wait_s"]
        known = waits.dropna(subset="published_s")[columns]
        for service, publisher, published_s, wait_s in known.itertuples(index=False, name=None):
            lane, sender = _lane(service), _lane(publisher)
            start = published_s - self._zero
            row, sender_row = self._row[lane], self._row[sender]
            if wait_s > 0.01 * self._total:
                self._bar(lane, start, start + wait_s, pale(self._colours[lane]), 1.5)
            text = f"waits {seconds(wait_s)}"
            if fits(text, wait_s, self._total):
                middle = start + wait_s / 2
                self._ax.text(middle, row, text, ha="center", va="center", fontsize=10, color=INK)
            if sender_row == row:
                continue
            # To the edge of the bar; the order service has a diamond there and no bar.
            reach = 0.17 if lane == "order_service" else BAR / 2
            tip = row - reach if row > sender_row else row + reach
            arrow = {"arrowstyle": "-|>", "color": SOFT_INK, "shrinkA": 0, "shrinkB": 0}
            self._ax.annotate("", (start, tip), (start, sender_row), arrowprops=arrow)

    def work(self, spans: pd.DataFrame) -> None:
        """Full bars, with their durations where there is room."""
        columns = ["service", "start_s", "end_s", "duration_s"]
        for service, start_s, end_s, duration_s in spans[columns].itertuples(
            index=False, name=None
        ):
            lane, start = _lane(service), start_s - self._zero
            end = self._total if pd.isna(end_s) else end_s - self._zero
            self._bar(lane, start, end, self._colours[lane])
            text, ink = seconds(duration_s), ink_on(self._colours[lane])
            if pd.notna(end_s) and fits(text, duration_s, self._total):
                write(self._ax, text, start, end, self._row[lane], self._total, ink)

    def messages(self, published: pd.DataFrame) -> None:
        """Dots, each with the message's routing key."""
        columns = ["time_s", "service", "detail"]
        for time_s, service, key in published[columns].itertuples(index=False, name=None):
            at, row = time_s - self._zero, self._row[_lane(service)]
            self.published = True
            # Small and on top: the order service saves and publishes in the same moment.
            self._ax.plot(at, row, "o", color=INK, markeredgecolor="white", markersize=6, zorder=5)
            self._ax.annotate(
                str(key or ""),
                (at, row),
                # Below the diamonds, where there are any: a slow answer puts one here.
                (9, -11) if _lane(service) == "order_service" else (13, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
                zorder=5,
            )
            self.end = max(
                self.end, at + (1.1 * CHARACTER * len(str(key or "")) + 0.04) * self._total
            )

    def statuses(self, statuses: pd.DataFrame) -> None:
        """Diamonds, each with the new status above it."""
        times = [time_s - self._zero for time_s in statuses["time_s"]]
        for n, (at, service, status) in enumerate(
            zip(times, statuses["service"], statuses["detail"], strict=True)
        ):
            row, text = self._row[_lane(service)], str(status)
            room = CHARACTER * (len(text) + 6) * self._total
            # Labels that would touch lean away from each other.
            ahead = n + 1 < len(times) and times[n + 1] - at < room
            behind = n > 0 and at - times[n - 1] < room
            side = "right" if ahead and not behind else "left" if behind or n == 0 else "center"
            self._ax.plot(
                at, row, "D", color=dark(self._colours[_lane(service)]), markersize=9, zorder=4
            )
            self._ax.annotate(
                text,
                (at, row - BAR / 2),
                (0, 2),
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=9,
                color=INK,
            )
