"""How every picture looks: colours by service, figure size, fonts, and labels that don't overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

WIDTH_IN = 8.0
DPI = 100

#: One colour a service, the same in every picture. The hues are Okabe and Ito's, which people with
#: any of the common colour blindnesses tell apart; their yellow, too pale for a line on white, is
#: left out for a dark wine red.
COLOURS = {
    "order_service": "#0072B2",
    "payment": "#E69F00",
    "inventory": "#009E73",
    "email": "#56B4E9",
    "shipping": "#D55E00",
    "analytics": "#CC79A7",
    "recommendations": "#7A2048",
    "customer": "#444444",
    "gateway": "#8A8A8A",
    "carrier": "#A3A3A3",
    "smtp": "#BBBBBB",
    "dead_letters": "#8A8A8A",
    "synchronous": "#D55E00",
    "decoupled": "#0072B2",
}

#: Which service each of the shop's queues belongs to, and takes its colour from.
OWNERS = {
    "payment_processing": "payment",
    "email_notifications": "email",
    "inventory_updates": "inventory",
    "shipping_labels": "shipping",
    "analytics_events": "analytics",
    "recommendation_updates": "recommendations",
    "order_updates": "order_service",
}

#: What became of a request, and its colour.
OUTCOMES = {
    "answered": "#0072B2",
    "declined": "#CC79A7",
    "error": "#D55E00",
    "timeout": "#222222",
    "no answer": "#999999",
}

#: For names that are nobody's in the shop, in this order.
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A2048", "#444444")

INK = "#222222"
SOFT_INK = "#595959"
GRID = "#E4E4E4"


def colours_for(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: the shop's own for its services and queues, else one of `OTHERS`."""
    chosen: dict[str, str] = {}
    spare = 0
    for name in names:
        known = COLOURS.get(name) or COLOURS.get(OWNERS.get(name, ""))
        if known is None:
            known, spare = OTHERS[spare % len(OTHERS)], spare + 1
        chosen[name] = known
    return chosen


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = colors.to_rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK


def dark(colour: str) -> tuple[float, float, float]:
    """A colour dark enough for text on white."""
    red, green, blue = colors.to_rgb(colour)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    factor = min(1.0, 0.40 / max(light, 1e-9))
    return red * factor, green * factor, blue * factor


def new_axes(height_in: float = 3.6, width_in: float = WIDTH_IN) -> Axes:
    """An empty `Axes` on a figure of its own.

    Args:
        height_in: the figure's height in inches; one inch is 100 pixels.
        width_in: its width in inches, at most 9, so that it fits a notebook.
    """
    figure = Figure(
        figsize=(width_in, height_in),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def dress(
    ax: Axes,
    title: str,
    xlabel: str | None = None,
    ylabel: str | None = None,
    subtitle: str | None = None,
) -> Axes:
    """Title at the left, a line of reading help under it, units on the axes, no needless frame."""
    pad = 10 if subtitle is None else 26
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=pad)
    if subtitle is not None:
        ax.annotate(
            subtitle,
            (0, 1),
            (0, 9),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=10,
            color=SOFT_INK,
        )
    if xlabel is not None:
        ax.set_xlabel(xlabel, fontsize=10, color=SOFT_INK)
    if ylabel is not None:
        ax.set_ylabel(ylabel, fontsize=10, color=SOFT_INK)
    ax.tick_params(labelsize=10, colors=SOFT_INK, labelcolor=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#AAAAAA")
    ax.set_axisbelow(True)
    return ax


def since(frame: pd.DataFrame) -> tuple[float, str]:
    """Where a picture's time axis begins, and its label.

    That is the first customer's arrival, so that two runs can be compared whatever was set up
    before; where no customer came, it is the frame's first event.
    """
    customers = frame.loc[frame["kind"].isin(["intended", "sent"]), "time_s"]
    if len(customers):
        return float(customers.min()), "shop seconds since the first customer"
    first = float(frame["time_s"].min()) if len(frame) else 0.0
    return first, "shop seconds since the first event"


def seconds(value: float) -> str:
    """A duration in shop seconds with as many digits as say something, such as `0.012 s`."""
    digits = 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f} s"


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Positions as near as they can be to the wanted ones, and at least `least` from each other."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    # Groups that have met move as one, around the mean of what their members wanted.
    groups: list[list[int]] = []

    def centre(group: list[int]) -> float:
        return sum(wanted[n] for n in group) / len(group)

    for n in order:
        groups.append([n])
        while len(groups) > 1:
            low, high = groups[-2], groups[-1]
            reach = (len(low) + len(high)) / 2 * least
            if centre(high) - centre(low) >= reach:
                break
            groups[-2:] = [low + high]
    placed = [0.0] * len(wanted)
    for group in groups:
        bottom = centre(group) - (len(group) - 1) / 2 * least
        for step, n in enumerate(group):
            placed[n] = bottom + step * least
    return placed


def pale(colour: str) -> tuple[float, float, float]:
    """A colour's light version, for waiting where the colour itself stands for work."""
    red, green, blue = colors.to_rgb(colour)
    return tuple(1 - 0.28 * (1 - part) for part in (red, green, blue))  # type: ignore[return-value]
