"""What became of the orders under each design, as one bar a design."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from labkit.errors import InputError
from labkit.plots.bars import rows
from labkit.plots.style import INK, dress, new_axes

#: What can become of an order, in the order of the bar's parts, and its colour.
FATES = {"done once": "#0072B2", "doubled": "#E69F00", "lost": "#D55E00", "wrong": "#222222"}
#: Strokes tell the parts apart without their colours, too.
HATCHES = {"done once": "", "doubled": "//", "lost": "xx", "wrong": ".."}
BAR = 0.36
#: A part narrower than this share of the axis could not be seen.
LEAST = 0.004


def outcomes(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A bar for each design, divided into what became of its orders.

    The numbers stand above each bar, since a part may be too narrow for them.

    Args:
        table: a row a design, under its name; columns of `FATES`, each a number of orders.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: the table is empty, or a column is none of `FATES`.
    """
    unknown = [column for column in table.columns if column not in FATES]
    if unknown or table.empty:
        raise InputError(
            "There is nothing to draw.",
            f"columns {list(table.columns)}, {len(table)} rows",
            f"a row a design, with columns of {', '.join(FATES)}",
        )
    ax = ax or new_axes(1.3 + 0.62 * len(table))
    fates = [fate for fate in FATES if fate in table.columns]
    most = float(table[fates].sum(axis=1).max())
    for row, (_, counts) in enumerate(table.iterrows()):
        left = 0.0
        for fate in fates:
            width = max(float(counts[fate]), LEAST * most if counts[fate] else 0.0)
            if width:
                ax.barh(
                    row,
                    width,
                    BAR,
                    left=left,
                    color=FATES[fate],
                    edgecolor="white",
                    hatch=HATCHES[fate],
                    linewidth=0.5,
                )
            left += width
        words = ", ".join(f"{int(counts[fate])} {fate}" for fate in fates)
        ax.annotate(
            words,
            (0, row - BAR / 2),
            (2, 3),
            textcoords="offset points",
            va="bottom",
            fontsize=10,
            color=INK,
        )
    rows(ax, [str(name) for name in table.index])
    ax.set_ylim(len(table) - 0.6, -0.75)
    ax.set_xlim(0, most * 1.01)
    return dress(
        ax,
        "What became of the orders",
        "orders",
        subtitle="done once is plain, doubled has strokes, lost has crosses",
    )
