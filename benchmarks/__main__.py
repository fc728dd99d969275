"""Measures, prints a row a figure, writes `results.md`; exit status 1 where one falls short."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

import labkit
from benchmarks import figures, messaging, orders, recording, reliability, startup
from labkit.broker import Broker, sharing

RESULTS = Path(__file__).parent / "results.md"

Found = figures.Figure | list[figures.Figure]


def _alone(measure: Callable[[], Found]) -> Callable[[Broker], Found]:
    """A measurement that needs no broker, or one of its own."""
    return lambda broker: measure()


def _in_vhost(measure: Callable[[str], Found]) -> Callable[[Broker], Found]:
    """A measurement in a virtual host of its own, whose URL it takes."""

    def measured(broker: Broker) -> Found:
        with broker.virtual_host("bench") as vhost:
            return measure(vhost.url)

    return measured


#: What is measured, by the name that `--only` picks it by, in order.
MEASUREMENTS: dict[str, Callable[[Broker], Found]] = {
    "import": _alone(startup.import_labkit),
    "connect": _alone(startup.connect),
    "record": _alone(recording.one_event),
    "million": _alone(recording.million_events),
    "consumer": _in_vhost(messaging.consumer),
    "publish": _in_vhost(messaging.publish),
    "confirms": _in_vhost(reliability.confirms),
    "create": _in_vhost(orders.create_order),
    "once": _in_vhost(reliability.effectively_once),
    "door": _in_vhost(orders.response_at_the_door),
    "restart-consumer": _in_vhost(reliability.consumer_back),
    "restart-broker": _alone(reliability.broker_back),
    "start": _alone(startup.broker_start),
    "notebooks-00-04": _alone(lambda: startup.notebooks("00", "04", 90)),
    "notebooks-05-08": _alone(lambda: startup.notebooks("05", "08", 150)),
}


def _chosen(context: click.Context, parameter: click.Parameter, only: str | None) -> list[str]:
    """The names that hold a word; all of them without one."""
    names = [name for name in MEASUREMENTS if only is None or only in name]
    if not names:
        raise click.BadParameter(
            f"no measurement has {only!r} in its name; there are {', '.join(MEASUREMENTS)}"
        )
    return names


@click.command(help=__doc__)
@click.option(
    "--only",
    "names",
    metavar="WORD",
    callback=_chosen,
    help="Measure what has this word in its name; results.md stays as it is.",
)
def main(names: list[str]) -> None:
    """Runs every measurement, one after the other, so that none disturbs another."""
    broker = labkit.connect()
    table: list[figures.Figure] = []
    for name in names:
        Console(stderr=True).print(f"measuring: {name}")
        found = MEASUREMENTS[name](broker)
        table += found if isinstance(found, list) else [found]
        figures.show(table)
    if len(names) == len(MEASUREMENTS):
        figures.keep(table, figures.conditions(broker.version, broker.kind), RESULTS)
    sharing.stop_shared(only_idle=True)
    sys.exit(0 if all(figure.holds for figure in table) else 1)


if __name__ == "__main__":
    main()
