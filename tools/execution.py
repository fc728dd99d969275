"""Runs a notebook from top to bottom in a fresh kernel and keeps what it shows.

As a pytest plugin (`-p tools.execution`) it has nbval start sooner, and with the same patience.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.sources import METADATA, ROOT

# nbformat's import builds a parser for addresses in all languages, two seconds of every process.
# No notebook has such an address to be checked.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

CELL_TIMEOUT_WALL_S = 120
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


#: What jupyter_client says where a kernel found one of its ports taken. The port was free when it
#: was chosen; another program may take it before the kernel does.
PORT_TAKEN = "Kernel died before replying to kernel_info"


def once_more(start: Callable[..., Any]) -> Callable[..., Any]:
    """A way to start a kernel, tried a second time where another program took a port first."""

    @functools.wraps(start)
    def starting(*args: Any, **kwargs: Any) -> Any:
        try:
            return start(*args, **kwargs)
        except RuntimeError as exc:
            if PORT_TAKEN not in str(exc):
                raise
        return start(*args, **kwargs)

    return starting


def pytest_configure(config: Any) -> None:
    """Has nbval's own kernels, too, tried once more."""
    if config.pluginmanager.hasplugin("nbval"):
        import nbval.kernel

        nbval.kernel.start_new_kernel = once_more(nbval.kernel.start_new_kernel)


def nbval_command(notebook: str, *arguments: str) -> list[str]:
    """What compares a notebook with what it shows, in a process that starts quickly.

    Args:
        notebook: its path.
        arguments: `--nbval`, or `--nbval-lax` to compare what asks for it alone; and more.
    """
    command = [sys.executable, "-m", "pytest", "--nbval-current-env", "-q", "--color=no"]
    command += [f"--nbval-cell-timeout={CELL_TIMEOUT_WALL_S}"]
    for plugin in ("tools.execution", "no:cacheprovider", "no:hypothesispytest", "no:xdist"):
        command += ["-p", plugin]
    return [*command, *arguments, notebook]


def nbval_environment(**more: str) -> dict[str, str]:
    """The caller's, and where `nbval_command` finds its plugin."""
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


class ExecutionError(Exception):
    """A cell failed, or never ended; the message shows the cell and the error in a few lines."""


def execute(
    notebook: Any,
    folder: Path,
    cell_timeout_wall_s: int = CELL_TIMEOUT_WALL_S,
    *,
    require_correct: bool = False,
) -> Any:
    """Runs all cells and stores their outputs in `notebook`.

    Args:
        notebook: what `tools.sources.notebook` gives; changed in place.
        folder: the kernel's working folder.
        cell_timeout_wall_s: how many real seconds a cell may take.
        require_correct: whether an exercise's check that is not correct fails its cell.

    Returns:
        The same notebook, with execution counts 1, 2, 3 and so on, and nothing in it that says
        when or where it was run.

    Raises:
        ExecutionError: a cell raised, took too long, or the kernel died.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    at = {"index": 0}
    client = NotebookClient(
        notebook,
        timeout=cell_timeout_wall_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, cell_index: at.update(index=cell_index),
    )
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        try:
            run = once_more(client.execute)
            run(env=_kernel_environment(require_correct), stderr=stderr)
        except CellExecutionError as exc:
            error = f"{exc.ename}: {exc.evalue}"
        except CellTimeoutError:
            error = f"it was still running after {cell_timeout_wall_s} s"
        except DeadKernelError:
            stderr.seek(0)
            error = "\n".join(["the kernel died", *stderr.read().splitlines()[-5:]])
        else:
            error = ""
    if error:
        raise ExecutionError(_few_lines(notebook, at["index"], error))
    notebook.metadata = type(notebook.metadata)(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.pop("transient", None)
    return notebook


def _kernel_environment(require_correct: bool) -> dict[str, str]:
    """The caller's, so that the broker that it chose is used."""
    environment = dict(os.environ)
    environment.pop("LABKIT_REQUIRE_CORRECT", None)
    if require_correct:
        environment["LABKIT_REQUIRE_CORRECT"] = "1"
    return environment


def _few_lines(notebook: Any, index: int, error: str) -> str:
    cell = notebook.cells[index]
    traceback = [
        line
        for output in cell.get("outputs", [])
        if output.output_type == "error"
        for line in _COLOURS.sub("", "\n".join(output.traceback)).splitlines()
        if re.match(r"-+> ", line)
    ]
    shown = cell.source.splitlines()
    code = [f"    | {line}" for line in shown[:20]] + (["    | ..."] if len(shown) > 20 else [])
    where = [f"  {traceback[0].strip()}"] if traceback else []
    message = [f"  {line}" for line in _COLOURS.sub("", error).splitlines()[:12]]
    return "\n".join([f"cell {index + 1} failed:", *code, *where, *message])
