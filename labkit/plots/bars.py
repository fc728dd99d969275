"""Rows of bars, with a text on each or beside it."""

from __future__ import annotations

from matplotlib.axes import Axes

from labkit.plots.style import GRID, INK

BAR = 0.6
#: The width of a character at font size 10, as a fraction of the usual axes' width.
CHARACTER = 0.013


def fits(text: str, length: float, whole: float) -> bool:
    """Whether a text fits a length of an axis that is `whole` long."""
    return length > CHARACTER * (len(text) + 1) * whole


def write(
    ax: Axes,
    text: str,
    start: float,
    end: float,
    row: float,
    whole: float,
    ink: str = INK,
    hatched: bool = False,
) -> None:
    """A bar's text: on it where it fits, else to its right, or to its left near the end.

    On a hatched bar it stands on white, since letters can't be read among strokes.
    """
    middle = (start + end) / 2
    if fits(text, end - start, whole):
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 2} if hatched else None
        ax.text(middle, row, text, ha="center", va="center", fontsize=10, color=ink, bbox=ground)
        return
    right = fits(text, whole - end, whole)
    ax.annotate(
        text,
        (end if right else start, row),
        (5 if right else -5, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=10,
        color=INK,
    )


def rows(ax: Axes, names: list[str]) -> None:
    """A row a name, the first at the top."""
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="x", color=GRID)
