"""`labkit doctor`: is everything there that the course needs, and if not, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from labkit.errors import LabError

OK, MISSING, MEND = "ok", "-", "mend"


class Finding(NamedTuple):
    """What one check has found.

    Attributes:
        verdict: `ok`; `-` where something is missing that can be done without; `mend`.
        subject: what was checked.
        text: what was seen, and what to do.
    """

    verdict: str
    subject: str
    text: str


def examine() -> list[Finding]:
    """Makes every check; it starts no broker."""
    findings = [_python(), _packages(), _folder()]
    ways = [_way(*way) for way in _WAYS.items()]
    return [*findings, *(w for w in ways if w is not None), _broker(ways)]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(OK, "Python", version)


def _packages() -> Finding:
    missing = []
    needed = importlib.metadata.requires("labkit") or []
    for requirement in needed:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
        if "extra ==" in requirement:
            continue
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(MEND, "packages", f"missing: {', '.join(missing)}; run `make lab`")
    return Finding(OK, "packages", f"pika {importlib.metadata.version('pika')} and the others")


def _folder() -> Finding:
    from labkit.broker import records

    home = records.home()
    place = next(f for f in (home, *home.parents) if f.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding(OK, "folder", str(home))
    except OSError as exc:
        text = f"{home} can't be written ({exc.strerror}); set LABKIT_HOME to a folder of yours"
        return Finding(MEND, "folder", text)


def _url() -> str | None:
    if not os.environ.get("LABKIT_AMQP_URL"):
        return None
    from labkit.broker.discovery import connect

    return repr(connect("url"))


def _compose() -> str:
    from labkit.broker.discovery import connect

    return repr(connect("compose"))


def _docker() -> str:
    from labkit.broker import container, engine

    with engine.client() as docker:
        version = docker.version().get("Version", "?")
        image = container.chosen_image()
        there = any(image in (i.tags or []) for i in docker.images.list())
    return f"Docker {version}, {image} {'is there' if there else 'will be pulled when needed'}"


def _node() -> str:
    from labkit.broker.node import require_server

    server = require_server()
    release = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return f"{server}{f' ({release[-1].name})' if release else ''}"


#: The ways to get a broker, and the check of each.
_WAYS: dict[str, Callable[[], str | None]] = {
    "url": _url,
    "compose": _compose,
    "container": _docker,
    "node": _node,
}


def _way(kind: str, check: Callable[[], str | None]) -> Finding | None:
    subject = f"broker: {kind}"
    try:
        text = check()
    except LabError as exc:
        steps = "; ".join(step for step in exc.to_do if step)
        # A URL that was given and fails is an error; the other ways stand in for each other.
        verdict = MEND if kind in ("url", os.environ.get("LABKIT_BROKER")) else MISSING
        return Finding(verdict, subject, f"{exc.failed} {exc.seen}. {steps}".replace("\n", " "))
    return None if text is None else Finding(OK, subject, text)


def _broker(ways: list[Finding | None]) -> Finding:
    from labkit.broker.discovery import find_running

    try:
        running = find_running()
    except LabError:
        return Finding(MEND, "a broker", "none serves; see above")
    if running is not None:
        return Finding(OK, "a broker", f"{running!r} runs")
    chosen = os.environ.get("LABKIT_BROKER")
    for way in ways:
        kind = way.subject.removeprefix("broker: ") if way else ""
        startable = kind in ("container", "node") and kind == (chosen or kind)
        if way and startable and way.verdict == OK:
            return Finding(OK, "a broker", f"none runs; a {kind} is started when it is needed")
    return Finding(MEND, "a broker", "none runs and none can be started: do one of the above")


@click.command()
def command() -> None:
    """Checks what the course needs: one line a check, and what to do where one fails."""
    findings = examine()
    for verdict, subject, text in findings:
        click.echo(f"{verdict:<5} {subject:<18} {text}")
    raise SystemExit(any(f.verdict == MEND for f in findings))
