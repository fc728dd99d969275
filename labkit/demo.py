"""`labkit demo`: what a first-time visitor runs, in the terminal and as a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labkit.clock import Pace
from labkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from labkit.broker import Broker
    from labkit.events import Recorder
    from labkit.lab import Lab
    from labkit.shop import Audit, DecoupledShop, SynchronousShop

CUSTOMERS = 30
ARRIVALS_PER_S = 1.0
#: Those that both flows have: the same work in each.
DEPARTMENTS = ("payment", "inventory", "email", "shipping")
#: More than the shop's usual 10 s, so that no order fails for a busy machine at a high speed.
TIMEOUT_S = 60.0
LOOK_EVERY_WALL_S = 0.1


@dataclass(frozen=True)
class Run:
    """What one flow has done with the customers.

    Attributes:
        events: the recorder's frame.
        audit: what the databases say afterwards.
    """

    events: pd.DataFrame
    audit: Audit

    def percentiles(self, what: str) -> pd.Series[float]:
        """`p50` and `p95` of the `response` or the `completion` times, in shop seconds."""
        from labkit import measure

        times = {"response": measure.response_times, "completion": measure.completion_times}[what]
        return measure.percentiles(times(self.events)[f"{what}_s"], [50, 95])


def side_by_side(
    out: Path | str,
    speed: float | None = None,
    broker: Broker | None = None,
    customers: int = CUSTOMERS,
    console: Console | None = None,
) -> dict[str, Run]:
    """Runs the same customers through both flows, prints a table and writes the picture.

    Args:
        out: where the PNG goes.
        speed: of shop time; what `LABKIT_SPEED` says, else 10, if left out.
        broker: which; the first that `labkit.connect()` finds if left out.
        customers: how many arrive, one a shop second.
        console: where the progress bar and the table go; the terminal if left out.

    Returns:
        The runs by the name of their flow, `synchronous` and `decoupled`.

    Raises:
        InputError: the picture can't be written there, or the speed makes no sense.
        BrokerError: no broker answers.
    """
    from rich.console import Console

    from labkit import plots
    from labkit.lab import Lab

    out = _checked(Path(out))
    console = console or Console()
    pace = Pace(speed)
    with Lab("side-by-side", broker, speed=pace.speed) as lab:
        found = lab.broker
        console.print(
            f"RabbitMQ {found.version} ({found.kind}). {customers} customers, one a shop second. "
            f"{pace.speed:g} shop seconds pass in one real second."
        )
        runs = _both(lab, customers, console)
    out.write_bytes(plots.png(figure(runs)))
    console.print(table(runs, pace))
    console.print(_reading(runs))
    console.print(f"The picture: {out}")
    return runs


def _checked(out: Path) -> Path:
    """The path, once it is clear that the picture can be written; before the long run."""
    if out.suffix.lower() != ".png":
        raise InputError(
            "The picture can't be written.",
            f"{out} does not end in .png",
            "give the name of a PNG file, such as --out side-by-side.png",
        )
    if not out.parent.is_dir() or out.is_dir() or not os.access(out.parent, os.W_OK):
        seen = f"{out} {'is a folder' if out.is_dir() else 'is in no folder that may be written'}"
        raise InputError("The picture can't be written.", seen, "give another place by --out")
    return out


def _both(lab: Lab, customers: int, console: Console) -> dict[str, Run]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from labkit.events import Recorder
    from labkit.shop import DecoupledShop, SynchronousShop, audit

    flows: dict[str, Callable[[Path, Recorder], SynchronousShop | DecoupledShop]] = {
        "synchronous": lambda folder, recorder: SynchronousShop(
            folder, lab.pace, recorder, timeout_s=TIMEOUT_S
        ),
        "decoupled": lambda folder, recorder: DecoupledShop(
            folder, lab.pace, recorder, lab.url, departments=DEPARTMENTS
        ),
    }
    name, unit = TextColumn("{task.description:12}"), TextColumn("orders done")
    columns = (name, BarColumn(), MofNCompleteColumn(), unit, TimeElapsedColumn())
    runs = {}
    with Progress(*columns, console=console) as progress:
        tasks = {flow: progress.add_task(flow, start=False, total=customers) for flow in flows}
        for flow, make in flows.items():
            progress.start_task(tasks[flow])
            recorder = Recorder(lab.pace)
            folder = lab.new_folder(flow)

            def advance(
                flow: str = flow, recorder: Recorder = recorder, progress: Progress = progress
            ) -> None:
                progress.update(tasks[flow], completed=_ended(recorder))

            with make(folder, recorder) as shop:
                _let_come(shop, customers, recorder, advance)
            runs[flow] = Run(recorder.frame(), audit(folder))
    return runs


def _let_come(
    shop: SynchronousShop | DecoupledShop,
    customers: int,
    recorder: Recorder,
    advance: Callable[[], None],
) -> None:
    """Lets the customers order, and waits until every order is done."""
    from labkit.background import Background
    from labkit.load import Customers, constant, http_door
    from labkit.shop import DecoupledShop

    arrivals = constant(ARRIVALS_PER_S, customers)
    with Customers(http_door(shop.url), arrivals, shop.pace, recorder) as coming:
        while not coming.join(LOOK_EVERY_WALL_S):
            advance()
        coming.wait()
    if isinstance(shop, DecoupledShop):
        wait = shop.wait_until_done
        with Background("wait-until-done", lambda _: wait(customers)) as waiting:
            while not waiting.join(LOOK_EVERY_WALL_S):
                advance()
    advance()


def _ended(recorder: Recorder) -> int:
    ends = ("completed", "declined", "failed")
    return sum(event.kind == "status" and event.detail in ends for event in recorder)


def table(runs: dict[str, Run], pace: Pace) -> Table:
    """The comparison, a column a flow."""
    from rich.table import Table

    made = Table(title="The same customers, the same departments", title_justify="left")
    made.add_column("")
    for flow in runs:
        made.add_column(flow, justify="right")
    names = {"response": "the customer has an answer", "completion": "the order is done"}
    for what, name in names.items():
        times = [run.percentiles(what) for run in runs.values()]
        for level in ("p50", "p95"):
            shop_s = [f"{each[level]:.3g}" for each in times]
            made.add_row(f"{name}, {level}, shop seconds", *shop_s)
        for level in ("p50", "p95"):
            real_ms = [f"{1000 * pace.to_wall(each[level]):.0f}" for each in times]
            made.add_row(f"  {level}, real ms", *real_ms, end_section=level == "p95")
    audits = [run.audit for run in runs.values()]
    for label, cell in (
        ("orders accepted", lambda audit: str((audit.orders["status"] != "failed").sum())),
        ("orders done", lambda audit: str((audit.orders["status"] == "completed").sum())),
        ("what customers were told", lambda audit: _listed(Counter(audit.orders["told"]))),
        ("what the audit finds wrong", lambda audit: _listed(audit.counts())),
    ):
        made.add_row(label, *map(cell, audits))
    return made


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{word}: {n}" for word, n in counts.items() if n) or "nothing"


def _reading(runs: dict[str, Run]) -> str:
    """What the table says, in a few sentences."""
    ratio, done = (
        runs["synchronous"].percentiles(what) / runs["decoupled"].percentiles(what)
        for what in ("response", "completion")
    )
    said = (
        f"With the queue, the answer comes {ratio['p50']:,.0f} times sooner at p50, "
        f"{ratio['p95']:,.0f} times at p95. It says 'received', not 'done': the work itself "
        "takes as long."
    )
    sooner = " Notebook 03 tells why orders are done sooner all the same."
    return said + (sooner if done["p50"] > 1 else "")


def figure(runs: dict[str, Run]) -> Figure:
    """Two panels: each customer's wait by arrival, and when answer and order are there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from labkit import plots
    from labkit.plots.style import DPI, WIDTH_IN

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.12, hspace=0.06)
    made = Figure(figsize=(WIDTH_IN, 6.9), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    above, below = made.subplots(2, 1, height_ratios=[3.1, 3.8])
    _waits(above, runs)
    plots.completion_against_response({flow: run.events for flow, run in runs.items()}, below)
    return made


def _waits(ax: Axes, runs: dict[str, Run]) -> None:
    """A dot a customer: how long the answer took."""
    from labkit import measure
    from labkit.plots.style import COLOURS, GRID, dark, dress, seconds

    highest = 0.0
    for flow, run in runs.items():
        times = measure.response_times(run.events)
        arrival = times["intended_s"] - times["intended_s"].min()
        ax.plot(arrival, times["response_s"], "o-", color=COLOURS[flow], markersize=5, linewidth=1)
        highest = max(highest, float(times["response_s"].max()))
        ax.annotate(
            f"{flow}: {seconds(times['response_s'].iloc[-1])} for the last",
            (arrival.iloc[-1], times["response_s"].iloc[-1]),
            (0, 8),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=10,
            fontweight="bold",
            color=dark(COLOURS[flow]),
        )
    ax.set_ylim(-0.03 * highest, 1.25 * highest)
    ax.grid(axis="y", color=GRID)
    title = "How long each customer waits for an answer"
    dress(ax, title, "arrival, shop seconds", "shop seconds")


@click.group()
def demo() -> None:
    """Demonstrations that need no notebook."""


@demo.command("side-by-side")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="side-by-side.png",
    show_default=True,
    help="Where the picture goes.",
)
@click.option(
    "--speed", type=float, help="Shop seconds in a real second.  [default: LABKIT_SPEED, else 10]"
)
@click.option(
    "--customers",
    type=click.IntRange(1, 1000),
    default=CUSTOMERS,
    show_default=True,
    help="How many arrive, one a shop second.",
)
def _side_by_side(out: Path, speed: float | None, customers: int) -> None:
    """Sends the same customers through both order flows on a real RabbitMQ and compares."""
    side_by_side(out, speed, customers=customers)
