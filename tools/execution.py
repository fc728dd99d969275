"""Runs a notebook from top to bottom in a fresh kernel and keeps what it shows."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tools.sources import METADATA

CELL_TIMEOUT_WALL_S = 120
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


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
            client.execute(env=_kernel_environment(require_correct), stderr=stderr)
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
