"""`labkit lab`: the course in JupyterLab with a broker behind it; both end together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import click

from labkit.errors import LabError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
START = "00-start-here.ipynb"
#: JupyterLab would ask each learner whether it may fetch news of its own.
JUPYTER_CONFIG = Path(__file__).resolve().parent / "jupyter"


def can_open_browser(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a browser would show up on this person's screen.

    Args:
        environment: the process's environment variables.
    """
    if environment.get("BROWSER") or sys.platform in ("darwin", "win32"):
        return True
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def jupyter_command(
    notebook: Path, arguments: Sequence[str] = (), browser: bool | None = None
) -> list[str]:
    """What starts JupyterLab on a notebook.

    Args:
        notebook: what it opens; its folder is all that JupyterLab shows.
        arguments: what to pass on to JupyterLab besides.
        browser: whether it opens a browser; where one can be opened if left out.

    Returns:
        The command, program first.

    Raises:
        LabError: the notebook is not there.
    """
    if not notebook.is_file():
        raise LabError(
            f"There is no notebook {notebook.name}.",
            f"looked in {notebook.parent}",
            "name one that is there, or build it: make notebooks",
        )
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={notebook.parent}"]
    # Not as an argument: the URL that it prints would then lead to an empty JupyterLab.
    command += [f"--LabApp.default_url=/lab/tree/{notebook.name}"]
    # What is left are the URLs, and what goes wrong.
    command += ["--log-level=WARN"]
    if not (can_open_browser() if browser is None else browser):
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container's only user, as a rule
    return [*command, *arguments]


_Start = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[bytes]"]


class _Ended(SystemExit):
    """Somebody wants this process to end."""


@contextlib.contextmanager
def _ending_in_good_order() -> Iterator[_Start]:
    """Turns the signals that would end this process into an end in good order.

    Yields:
        What starts the one process that such a signal is passed on to.
    """
    server: subprocess.Popen[bytes] | None = None
    starting = told_to_end = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        if starting:  # it may run already, and nobody could end it if this went on from here
            told_to_end = True
        elif server is None:
            raise _Ended(128 + number)
        # A Ctrl-C at the terminal has reached JupyterLab already: it asks for a confirmation, and
        # would take a second signal for the answer.
        elif number != signal.SIGINT or not sys.stdin.isatty():
            server.send_signal(signal.SIGTERM)

    def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        nonlocal server, starting
        starting = True
        try:
            server = subprocess.Popen(command, env=environment)
        finally:
            starting = False
        if told_to_end:
            server.send_signal(signal.SIGTERM)
        return server

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What was told to be ignored stays so, as under nohup.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, end)
    try:
        yield start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Sequence[str]) -> int:
    """Runs JupyterLab with a broker behind it, and ends the broker after it.

    The broker stays where somebody else uses it, or where labkit has not started it.

    Args:
        command: what starts JupyterLab.

    Returns:
        JupyterLab's exit status; 0 where it was ended by Ctrl-C or by a signal.

    Raises:
        BrokerError: no broker could be found or started.
    """
    from labkit.broker import connect
    from labkit.broker.sharing import stop_shared

    environment = dict(os.environ)
    for name, place, default in (
        # So that `labkit` is found in JupyterLab's own terminals, too.
        ("PATH", Path(sys.executable).parent, os.defpath),
        ("JUPYTER_CONFIG_PATH", JUPYTER_CONFIG, ""),
    ):
        others = environment.get(name, default)
        environment[name] = os.pathsep.join([str(place), *([others] if others else [])])
    with _ending_in_good_order() as start:
        try:
            click.echo("Looking for a broker; if none runs, one is started (some seconds).")
            broker = connect()
            page = f", management page {broker.management_url}" if broker.management_url else ""
            click.echo(f"RabbitMQ {broker.version} runs ({broker.kind}){page}.")
            if "--no-browser" in command:
                click.echo("Open the URL that JupyterLab prints below, token and all.")
            click.echo("JupyterLab starts. Ctrl-C here ends it, and the broker with it.")
            sys.stdout.flush()
            status = start(command, environment).wait()
        finally:
            for ended in stop_shared(only_idle=True):
                click.echo(f"The broker ({ended.kind}) has ended, too.")
    return 0 if status in (-signal.SIGTERM, -signal.SIGINT) else status


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--notebook", default=START, show_default=True, help="Which notebook of the course to open."
)
@click.option("--browser/--no-browser", default=None, help="Open a browser, or print the URL.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(notebook: str, browser: bool | None, arguments: tuple[str, ...]) -> None:
    """Opens the course in JupyterLab, with a broker; further ARGUMENTS go to JupyterLab."""
    sys.exit(run(jupyter_command(NOTEBOOKS / notebook, arguments, browser)))
