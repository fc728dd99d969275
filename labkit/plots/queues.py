"""What waits in the queues, over time."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from labkit import measure
from labkit.errors import InputError
from labkit.plots.happenings import LABEL_ROW, Happenings
from labkit.plots.style import GRID, colours_for, dark, dress, new_axes, since

#: A line gets no more points than this: more are drawn on the same pixels.
MOST_POINTS = 4000
#: Queues that stay below this part of the highest backlog are named in one line of text.
SMALL = 0.1


def _thinned(values: NDArray[np.int64]) -> NDArray[np.intp]:
    """The positions of the values to draw: of each bin the first, lowest, highest and last one."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    size = -(-len(values) // (MOST_POINTS // 4))
    starts = np.arange(0, len(values), size)
    padded = np.pad(values, (0, len(starts) * size - len(values)), mode="edge")
    bins = padded.reshape(len(starts), size)
    chosen = np.concatenate(
        [starts, starts + bins.argmin(1), starts + bins.argmax(1), starts + size - 1]
    )
    return np.unique(np.minimum(chosen, len(values) - 1))


def backlog(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many messages wait in each queue over time, with what happened meanwhile.

    Marks, crashes, stops and returns of services are vertical lines, faults of a storm are grey
    bands for as long as they last. Queues that stay near empty are named in a line under the
    title; the others at their highest point.

    Args:
        frame: events, with those of a `Probe` among them.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: no queue was sampled.
    """
    depths = measure.backlog(frame)
    if not len(depths):
        raise InputError(
            "There is no backlog to draw.",
            "no event of the kind `depth`",
            "let a labkit.Probe sample the queues while the orders flow",
        )
    ax = ax or new_axes(3.9)
    zero, label = since(frame)
    time_s = depths.index.to_numpy() - zero
    colours = colours_for(depths.columns)
    highest = depths.max()
    top = max(int(highest.max()), 1)  # an axis needs a height, even where nothing waited
    for queue in depths.columns:
        values = depths[queue].to_numpy()
        at = _thinned(values)
        ax.plot(
            time_s[at],
            values[at],
            drawstyle="steps-post",
            color=colours[queue],
            linewidth=2,
            label=queue,
            zorder=2 + highest[queue] / top,
        )
    end = float(time_s[-1])
    happened = Happenings(frame, float(depths.index[-1]))
    text_rows = happened.draw(ax, zero, end)
    large = [queue for queue in depths.columns if highest[queue] > SMALL * top]
    large = sorted(large, key=lambda queue: -highest[queue])
    small = [queue for queue in depths.columns if queue not in large]
    # Free height above the curves, for the labels of the lines and of the peaks.
    ax.set_ylim(0, top / (1 - LABEL_ROW * (text_rows + 1.2)))
    # What was sampled before the first customer came is left out, unless something happened then.
    ax.set_xlim(min(0.0, happened.first - zero), end * 1.02 if end > 0 else 1)
    _name_peaks(ax, depths, large, zero)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.grid(axis="y", color=GRID)
    note = None
    if small and large:
        names = ", ".join(small[:3]) + (f" and {len(small) - 3} more" if len(small) > 3 else "")
        most = int(max(highest[queue] for queue in small))
        note = f"never more than {most} in {names}" if most else f"never one in {names}"
    note = "; ".join(filter(None, [happened.note, note])) or None
    if large:
        title = f"Backlog: up to {top} {_messages(top)} in {large[0]}"
    else:
        title = f"Backlog: never a message waiting, in {len(small)} queues"
    return dress(ax, title, label, "messages ready", note)


def _messages(count: int) -> str:
    return "message" if count == 1 else "messages"


def _name_peaks(ax: Axes, depths: pd.DataFrame, queues: list[str], zero: float) -> None:
    """Each queue's name with its peak: at the peak where there is room, else beside the axes."""
    colours = colours_for(depths.columns)
    right, high = ax.get_xlim()[1], ax.get_ylim()[1]
    places: list[tuple[str, float, float, float]] = []
    for queue in queues:
        values = depths[queue].to_numpy()
        first = int(values.argmax())
        half = 0.0075 * (len(queue) + 5) * right
        x = min(max(float(depths.index[first]) - zero, half), right - half)
        places.append((queue, x, float(values[first]), half))
    crowded = any(
        abs(x - other) < half + its_half and abs(y - level) < LABEL_ROW * high
        for n, (_, x, y, half) in enumerate(places)
        for _, other, level, its_half in places[:n]
    )
    if crowded:
        by_name = {line.get_label(): line for line in ax.lines}
        ax.legend(
            [by_name[queue] for queue in queues],
            [f"{queue}: {int(level)}" for queue, _, level, _ in places],
            title="highest",
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            fontsize=10,
            frameon=False,
            alignment="left",
        )
        return
    for queue, x, y, _ in places:
        ax.annotate(
            f"{queue}: {int(y)}",
            (x, y),
            (0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
            fontweight="bold",
            color=dark(colours[queue]),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
