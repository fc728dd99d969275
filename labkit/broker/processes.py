"""Processes that outlive the one that starts them: launched apart, found again by a mark, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.broker.records import Owner
from labkit.errors import BrokerError

if TYPE_CHECKING:
    import psutil

#: In the environment of every process that belongs to a broker of labkit's.
MARK = "LABKIT_BROKER_ID"

#: An error message shows so many characters of a line of a log.
LINE = 300


def launch(command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> Owner:
    """Starts a process in a session of its own, which no signal to this one reaches.

    The shell in between ends at once, so that the process is nobody's child: this process does
    not have to wait for it, and it outlives it.

    Returns:
        The new process.

    Raises:
        BrokerError: there is no such program.
    """
    script = '"$@" </dev/null >>"$LABKIT_LOG" 2>&1 & echo $!'
    try:
        started = subprocess.run(
            ["/bin/sh", "-c", script, "sh", *command],
            env={**env, "LABKIT_LOG": str(log)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BrokerError(
            "A program can't be started.",
            f"{command[0]}: {exc}",
            "on Windows, use Docker or WSL: a private node needs a POSIX system",
        ) from exc
    return Owner.of(int(started.stdout))


def launch_keeper(folder: Path) -> Owner:
    """Starts the process that looks after one broker; see `labkit.broker.keeper`."""
    import labkit

    root = str(Path(labkit.__file__).parent.parent)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, env.get("PYTHONPATH")) if p)
    env["LABKIT_HOME"] = str(folder.parent.parent)
    command = [sys.executable, "-m", "labkit.broker.keeper", str(folder)]
    if nice := shutil.which("nice"):  # it has time; the broker that starts beside it has not
        command = [nice, "-n", "10", *command]
    return launch(command, env, Path("/"), Path(os.devnull))


def marked(broker_id: str) -> list[psutil.Process]:
    """Every living process that carries a broker's mark, such as beam and epmd.

    The mark and not the number decides, so that a number in use again does no harm.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.environ().get(MARK) == broker_id
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def kill_marked(broker_id: str, timeout_wall_s: float = 10.0) -> None:
    """Ends every process of a broker by SIGKILL, and returns when they are gone.

    Raises:
        BrokerError: one is still there after `timeout_wall_s`.
    """
    import psutil

    deadline = time.monotonic() + timeout_wall_s
    while left := marked(broker_id):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            raise BrokerError(
                "The broker's processes do not end.",
                f"still there: {', '.join(str(p.pid) for p in left)}",
                "end them by hand: kill -9 and the number",
            )
        time.sleep(0.02)


def end(owner: Owner | None, timeout_wall_s: float = 5.0) -> None:
    """Ends one process, politely and then by force; does nothing where it has ended."""
    import psutil

    if owner is None or owner.pid == os.getpid() or not owner.alive():
        return
    with contextlib.suppress(psutil.Error):
        psutil.Process(owner.pid).terminate()
        deadline = time.monotonic() + timeout_wall_s
        while owner.alive():
            if time.monotonic() > deadline:
                psutil.Process(owner.pid).kill()
            time.sleep(0.01)


def telling(log: str, errors: int = 8, last: int = 4) -> str:
    """What a log says went wrong: its first errors and its last lines, for an error message."""
    lines = [line[:LINE] for line in log.strip().splitlines()]  # Erlang's may be pages long
    first = [line for line in lines if "[error]" in line][:errors]
    return "\n".join([*first, *(line for line in lines[-last:] if line not in first)])
