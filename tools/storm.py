"""Has the shop take orders in a storm of faults, and looks at each order afterwards.

The shop is the full one: outbox, confirms, message inboxes, retries and dead letters; a real
RabbitMQ of its own, which is killed, SQLite, HTTP and SMTP. The same seed gives the same plan of
faults and the same arrivals. Exit status 1 where an order was lost or something happened twice.

LABKIT_BROKER=node or =container chooses where the broker comes from, LABKIT_IMAGE which image.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import labkit
from labkit.errors import LabError, report
from labkit.faults.outcome import Outcome
from labkit.faults.plan import KINDS
from labkit.faults.trial import Trial

#: Of so many orders that went wrong, all that is known is printed; the others are named.
MOST_HISTORIES = 5


@click.command(help=__doc__)
@click.option("--orders", default=500, show_default=True, type=click.IntRange(1))
@click.option("--faults", default=20, show_default=True, type=click.IntRange(0))
@click.option("--seed", default=1, show_default=True, type=int)
@click.option("--rate", default=25.0, show_default=True, help="Customers in a real second.")
def main(orders: int, faults: int, seed: int, rate: float) -> None:
    """Runs one storm."""
    console = Console()
    try:
        with (
            console.status("starting a broker"),
            tempfile.TemporaryDirectory(prefix="labkit-storm-") as folder,
            labkit.own_broker() as broker,
        ):
            about = f"RabbitMQ {broker.version} ({broker.kind}), {os.cpu_count()} cores"
            with Trial(broker, Path(folder), orders, faults, seed, rate) as trial:
                outcome = watched(trial, console)
                # While the shop is there, whose recorder knows what happened to an order.
                show(outcome, about, console)
    except LabError as exc:
        console.print(f"seed {seed}: the storm could not be carried out", style="bold red")
        sys.exit(report(exc))
    sys.exit(0 if outcome.holds else 1)


def watched(trial: Trial, console: Console) -> Outcome:
    """Waits for the outcome, with a bar for orders and one for faults."""
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        accepted = progress.add_task("orders in", total=trial.orders, more="")
        ended = progress.add_task("orders done", total=trial.orders, more="")
        faults = progress.add_task("faults", total=len(trial.storm.plan), more="")
        written = 0.0

        def watch(trial: Trial) -> None:
            nonlocal written
            done, missed = len(trial.storm.done), len(trial.storm.missed)
            kills = sum(fault.kind == "kill broker" for fault in list(trial.storm.done))
            progress.update(accepted, completed=min(trial.accepted, trial.orders))
            progress.update(ended, completed=min(trial.ended, trial.orders))
            progress.update(faults, completed=done + missed, more=f"{kills} broker kills")
            # A log file has no use for a bar that moves.
            if not console.is_terminal and time.monotonic() > written + 20:
                written = time.monotonic()
                console.print(
                    f"{datetime.now(UTC):%H:%M:%S} UTC: {trial.accepted} orders in, {trial.ended} "
                    f"done, {done} faults, {kills} broker kills",
                    soft_wrap=True,
                )

        return trial.wait(watch)


def show(outcome: Outcome, about: str, console: Console) -> None:
    """Prints the summary, and what is known of orders that went wrong."""
    table = Table("what", "how many", title=f"seed {outcome.seed}; {about}")
    kinds = outcome.faults
    rows: list[tuple[str, object]] = [
        ("orders accepted", outcome.accepted),
        ("lost", outcome.lost),
        ("doubled", outcome.doubled),
        ("labels printed before the payment", outcome.early),
        ("faults", sum(kinds.values())),
        ("of them broker kills", kinds["kill broker"]),
        ("faults that found nothing to break", sum(outcome.missed.values())),
        ("messages that an inbox knew already", outcome.copies),
        ("mails that the mail server knew already", outcome.duplicate_mails),
        ("dead letters put back", outcome.put_back),
        ("malformed messages left as dead letters", outcome.malformed),
        ("customers' requests, by answer", in_words(outcome.answers)),
        ("real seconds", f"{outcome.wall_s:.0f}"),
    ]
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)
    by_kind = Table("fault", "times", title="faults by kind")
    for kind in KINDS:
        by_kind.add_row(kind, str(kinds[kind]))
    console.print(by_kind)
    if outcome.holds:
        console.print("Every accepted order was done once.", style="bold green")
        return
    wrong = sorted({violation.order_id for violation in outcome.violations})
    console.print(f"\nseed {outcome.seed}: {len(wrong)} orders went wrong", style="bold red")
    for order_id in outcome.vanished:
        console.print(f"{order_id}: the customer was told that it is accepted; nobody knows of it")
    for order_id in wrong[:MOST_HISTORIES]:
        of_order = [v for v in outcome.violations if v.order_id == order_id]
        for violation in of_order:
            console.print(f"{order_id}: {violation.what}", style="red", markup=False)
        for line in of_order[0].history:
            console.print(f"    {line}", markup=False, highlight=False)
    if wrong[MOST_HISTORIES:]:
        console.print(f"and {', '.join(wrong[MOST_HISTORIES:])}")


def in_words(counted: Counter[str]) -> str:
    """Counts in one line."""
    return ", ".join(f"{number} x {what}" for what, number in counted.most_common()) or "none"


if __name__ == "__main__":
    main()
