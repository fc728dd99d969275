"""Builds the learner's notebooks from their sources: `python -m tools.build_notebooks --help`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from tools import execution, inspection
from tools.sources import NOTEBOOKS, SourceError, notebook, sources


def write(notebook: Any, path: Path) -> None:
    """Stores a notebook in one step: a reader sees the old one or the new one, never a half.

    Raises:
        nbformat.ValidationError: it is not a valid notebook.
    """
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(nbformat.writes(notebook).rstrip("\n") + "\n")
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def build(
    source: Path,
    folder: Path = NOTEBOOKS,
    *,
    solved: bool = False,
    run: bool = True,
    cell_timeout_wall_s: int = execution.CELL_TIMEOUT_WALL_S,
) -> Path:
    """Builds one notebook into `folder`; one that is there stays as it is if this fails.

    Args:
        source: its source.
        folder: where the notebook goes; the kernel works there.
        solved: with the solutions, and with checks that raise where an answer is not correct.
        run: whether to execute it. A learner's notebook that is not executed keeps the outputs
            of the cells that did not change.
        cell_timeout_wall_s: how many real seconds a cell may take.

    Returns:
        The notebook's path.

    Raises:
        SourceError: the source can't be read.
        ExecutionError: a cell failed, or what it showed must not be stored.
    """
    made = notebook(source, solved=solved)
    path = folder / f"{source.stem}.ipynb"
    folder.mkdir(parents=True, exist_ok=True)
    if run:
        execution.execute(made, folder, cell_timeout_wall_s, require_correct=solved)
        found = list(inspection.defects(made))
        if found:
            raise execution.ExecutionError("\n".join(f"  {line}" for line in found))
    elif path.exists():
        _keep_outputs(made, nbformat.read(path, as_version=4))
    write(made, path)
    return path


def _keep_outputs(made: Any, old: Any) -> None:
    """For a change of prose: each code cell that stays the same keeps what it showed."""
    kept = {cell.get("id"): cell for cell in old.cells if cell.cell_type == "code"}
    for cell in made.cells:
        if cell.cell_type == "code" and cell.id in kept:
            cell.outputs = kept[cell.id].outputs
            cell.execution_count = kept[cell.id].execution_count


def check(source: Path, folder: Path = NOTEBOOKS) -> list[str]:
    """What is wrong with the notebook that is stored for `source`; an empty list is well."""
    path = folder / f"{source.stem}.ipynb"
    if not path.exists():
        return ["is not built"]
    stored = nbformat.read(path, as_version=4)
    return [*inspection.outdated(stored, notebook(source)), *inspection.defects(stored)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; gives its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.build_notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", help="which, as 01 or 01-name; all if left out")
    parser.add_argument("--check", action="store_true", help="build nothing; say what is wrong")
    parser.add_argument("--solved", metavar="DIR", type=Path, help="with solutions, into DIR")
    parser.add_argument("--no-execute", action="store_true", help="keep the outputs that there are")
    parser.add_argument(
        "--timeout",
        type=int,
        default=execution.CELL_TIMEOUT_WALL_S,
        metavar="S",
        help="real seconds that a cell may take (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    failed = False
    try:
        for source in sources(options.names):
            if options.check:
                found = check(source)
                for line in found:
                    print(f"notebooks/{source.stem}.ipynb: {line}")
                if found:
                    failed = True
                continue
            try:
                path = build(
                    source,
                    options.solved or NOTEBOOKS,
                    solved=options.solved is not None,
                    run=not options.no_execute,
                    cell_timeout_wall_s=options.timeout,
                )
                print(f"built {path.name} ({path.stat().st_size // 1024} KiB)")
            except execution.ExecutionError as exc:
                print(f"{source.name}: not built, the notebook there is untouched\n{exc}")
                failed = True
    except SourceError as exc:
        print(exc)
        return 1
    if options.check and failed:
        print("To build them: make notebooks, or python -m tools.build_notebooks NN")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
