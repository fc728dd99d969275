"""Who is connected to whom: exchanges, bindings, queues with what is in them, consumers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from labkit.errors import InputError
from labkit.plots.style import (
    COLOURS,
    INK,
    OWNERS,
    SOFT_INK,
    WIDTH_IN,
    apart,
    colours_for,
    dark,
    dress,
    new_axes,
    pale,
)

ROW_IN = 0.58
#: The columns' left and right edges, as parts of the axes' width.
EXCHANGE, QUEUE, CONSUMER = (0.0, 0.13), (0.475, 0.77), (0.81, 1.0)
TALL = 0.62
#: A label longer than this goes onto two lines, above and below its wire.
LONG = 30
WARNING = "#A33B00"


def _box(ax: Axes, edges: tuple[float, float], row: float, text: str, colour: str) -> None:
    left, right = edges
    ax.add_patch(
        FancyBboxPatch(
            (left + 0.005, row - TALL / 2),
            right - left - 0.01,
            TALL,
            boxstyle="round,pad=0.0,rounding_size=0.012",
            mutation_aspect=12,
            facecolor=pale(colour),
            edgecolor=dark(colour),
            linewidth=1.2,
        )
    )
    ax.text((left + right) / 2, row, text, ha="center", va="center", fontsize=10, color=INK)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": SOFT_INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=arrow)


def _wire(ax: Axes, bend: float, start_row: float, end_row: float, keys: list[str]) -> None:
    """From an exchange to a queue: across, up or down, and across again, under its routing keys."""
    # The last part is the arrow; the keys stand above it, where no other wire runs.
    ax.plot(
        [EXCHANGE[1] - 0.005, bend, bend],
        [start_row, start_row, end_row],
        color=SOFT_INK,
        linewidth=1.1,
        solid_capstyle="butt",
        zorder=1,
    )
    _arrow(ax, (bend, end_row), (QUEUE[0] + 0.005, end_row))
    named = [key for key in dict.fromkeys(keys) if key]
    text = ", ".join(named)
    lines = [text]
    if len(text) > LONG and len(named) > 1:
        # Parted where the longer of the two lines is shortest, so that it ends before the queue.
        ways = [(", ".join(named[:n]) + ",", ", ".join(named[n:])) for n in range(1, len(named))]
        lines = list(min(ways, key=lambda way: max(map(len, way))))
    for line, (va, shift) in zip(lines, (("bottom", 2), ("top", -3)), strict=False):
        ax.annotate(
            line,
            (bend, end_row),
            (6, shift),
            textcoords="offset points",
            va=va,
            fontsize=9,
            color=INK,
        )


def topology(
    bindings: Iterable[tuple[str, str, str | None]],
    depths: Mapping[str, int] | Iterable[tuple[str, int]] = (),
    consumers: Iterable[tuple[str, str]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The way of a message: exchange, binding with its routing key, queue with its count, consumer.

    Args:
        bindings: `(exchange, routing key, queue)`, one for each binding; a queue of None says that
            the exchange is there and nothing is bound to it. The exchange `""` is the default one.
        depths: `(queue, ready messages)`, or a dict of them, as `VirtualHost.depths()` gives.
        consumers: `(queue, name)`, one for each consumer; equal ones are counted. Queues without
            one say so, in an empty list all of them. None leaves consumers out of the picture.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: there is nothing to draw, or a binding is not made of three parts.
    """
    wires: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for binding in bindings:
        if isinstance(binding, str) or len(binding) != 3:
            raise InputError(
                "A binding has three parts.",
                f"{binding!r}",
                'write ("exchange", "routing key", "queue")',
            )
        exchange, key, queue = binding
        wires[exchange, queue].append(key)
    ready = dict(depths)
    hands = Counter(consumers or ())
    names = [queue for _, queue in wires if queue is not None]
    queues = list(dict.fromkeys([*names, *ready, *(queue for queue, _ in hands)]))
    exchanges = list(dict.fromkeys(exchange for exchange, _ in wires))
    if not queues and not exchanges:
        raise InputError(
            "There is nothing to draw.",
            "no binding and no queue",
            "declare an exchange or a queue first",
        )
    row_of = _queue_rows(queues, hands)
    colours = colours_for([*queues, *(name for _, name in hands)])
    at = _exchange_rows(exchanges, wires, row_of)
    rows = [*at.values(), *(row_of[q] + (_hands_at(hands, q) - 1) / 2 for q in queues)]
    # Without the last column the picture is narrower, and all else in it as large as ever.
    right = 1.005 if consumers is not None else QUEUE[1] + 0.005
    ax = ax or new_axes(0.9 + ROW_IN * (max(rows) + 1), WIDTH_IN * right)
    for exchange in exchanges:
        _box(ax, EXCHANGE, at[exchange], exchange or "(default)", "#777777")
    for (exchange, queue), keys in wires.items():
        if queue is None:
            ax.text(
                EXCHANGE[1] + 0.01,
                at[exchange],
                "nothing bound: messages\nto it reach nobody",
                fontsize=10,
                va="center",
                color=WARNING,
            )
            continue
        # Wires from several exchanges to one queue come in side by side.
        sources = [name for name in exchanges if (name, queue) in wires]
        offset = 0.34 * (sources.index(exchange) - (len(sources) - 1) / 2)
        bend = EXCHANGE[1] + 0.02 + 0.012 * exchanges.index(exchange)
        _wire(ax, bend, at[exchange], row_of[queue] + offset, keys)
    for queue in queues:
        count = f":  {ready[queue]}" if queue in ready else ""
        _box(ax, QUEUE, row_of[queue], f"{queue}{count}", colours[queue])
        mine = [(name, many) for (its, name), many in hands.items() if its == queue]
        if consumers is not None and not mine:
            ax.text(
                QUEUE[1] + 0.01,
                row_of[queue],
                "no consumer",
                fontsize=10,
                va="center",
                color=WARNING,
            )
        for step, (name, many) in enumerate(mine):
            row = row_of[queue] + step - (len(mine) - 1) / 2
            _arrow(ax, (QUEUE[1] - 0.005, row_of[queue]), (CONSUMER[0] + 0.005, row))
            text = name.replace("_", " ") + (f" \u00d7 {many}" if many > 1 else "")
            # A consumer of no name in the shop looks like the queue that it serves.
            known = name in COLOURS or name in OWNERS
            _box(ax, CONSUMER, row, text, colours[name if known else queue])
    heads = {EXCHANGE: "exchange", QUEUE: "queue: ready messages" if ready else "queue"}
    if consumers is not None:
        heads[CONSUMER] = "consumers"
    for edges, head in heads.items():
        ax.text(sum(edges) / 2, -0.75, head, ha="center", va="center", fontsize=10, color=SOFT_INK)
    ax.set_xlim(-0.005, right)
    ax.set_ylim(max(rows) + 0.5, -1.0)
    title = "Who gets which messages"
    if ready:
        total = sum(ready.values())
        title += f": {total} {'is' if total == 1 else 'are'} waiting"
    dress(ax, title)
    ax.set_axis_off()
    return ax


def _hands_at(hands: Counter[tuple[str, str]], queue: str) -> int:
    """How many different consumers a queue has, and at least the one row that it takes."""
    return max(1, sum(1 for its, _ in hands if its == queue))


def _queue_rows(queues: list[str], hands: Counter[tuple[str, str]]) -> dict[str, float]:
    """A row a queue, or as many as it has different consumers."""
    rows: dict[str, float] = {}
    free = 0
    for queue in queues:
        need = _hands_at(hands, queue)
        rows[queue] = free + (need - 1) / 2
        free += need
    return rows


def _exchange_rows(
    exchanges: list[str],
    wires: Mapping[tuple[str, str | None], list[str]],
    row_of: Mapping[str, float],
) -> dict[str, float]:
    """Each exchange in the middle of its queues, and none on another or above the picture."""
    middle = sum(row_of.values()) / len(row_of) if row_of else 0.0
    wanted = []
    for exchange in exchanges:
        rows = [row_of[queue] for its, queue in wires if its == exchange and queue is not None]
        wanted.append((min(rows) + max(rows)) / 2 if rows else middle)
    placed = apart(wanted, 1.0)
    lift = max(0.0, -min(placed, default=0.0))
    return {exchange: row + lift for exchange, row in zip(exchanges, placed, strict=True)}
