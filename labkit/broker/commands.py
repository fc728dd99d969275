"""`labkit broker start | status | stop | url`."""

from __future__ import annotations

import click

from labkit.errors import LabError


@click.group()
def broker() -> None:
    """The RabbitMQ that your notebooks share."""


@broker.command()
@click.option("--kind", help="url, compose, container or node; the first that serves if left out.")
def start(kind: str | None) -> None:
    """Finds the broker that runs, or starts one; it then goes on by itself."""
    from labkit.broker.discovery import connect

    click.echo(_line(connect(kind)))


@broker.command()
def status() -> None:
    """Says which brokers run and who uses them; exit status 1 where none does."""
    from labkit.broker import records
    from labkit.broker.discovery import find_running
    from labkit.broker.sharing import shared_brokers

    found = find_running()
    if found is not None:
        click.echo(_line(found))
    for each in shared_brokers():
        users = len(records.live_leases(each.record))
        state = each.record.status if each.answers(1.0) else f"{each.record.status}, silent"
        plural = "process uses" if users == 1 else "processes use"
        click.echo(f"  started by labkit: {each.kind}, {state}; {users} {plural} it")
    if found is None:
        click.echo("No broker runs. `labkit broker start` starts one.")
        raise SystemExit(1)


@broker.command()
@click.option("--if-idle", is_flag=True, help="Leave it where another process uses it.")
def stop(if_idle: bool) -> None:
    """Ends the broker that labkit started, with its data."""
    from labkit.broker.discovery import find_running
    from labkit.broker.sharing import shared_brokers, stop_shared

    for each in stop_shared(only_idle=if_idle):
        click.echo(f"Stopped: {each.kind}, {each.record.management_url}")
    if shared_brokers():
        click.echo("Another process uses the broker: it goes on.")
        return
    left = find_running()
    if left is not None:
        how = "docker compose down" if left.kind == "compose" else "whoever runs it stops it"
        click.echo(f"Not started by labkit, and left alone: {left!r} ({how})")


@broker.command()
def url() -> None:
    """Prints the running broker's AMQP URL, password and all, for any AMQP client."""
    from labkit.broker.discovery import find_running

    found = find_running()
    if found is None:
        raise LabError("No broker runs.", "", "`labkit broker start` starts one")
    click.echo(found.url)


def _line(found: object) -> str:
    from labkit.broker.base import Broker

    assert isinstance(found, Broker)
    page = f", management page {found.management_url}" if found.management_url else ""
    return f"RabbitMQ {found.version} runs ({found.kind}): {found!r}{page}"
