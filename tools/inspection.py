"""What is wrong with a notebook that is about to be committed, or has been."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.sources import ROOT

IGNORE_TAG = "nbval-ignore-output"
EXERCISE_TAG = "exercise"
MAX_CODE_LINES = 20
MIN_COMPARED_OUTPUTS = 6
#: Home and temporary folders wherever the notebook was run, and this checkout's own.
_FOLDERS = re.compile(r"/home/|/root/|/Users/|/tmp/|/dev/shm/|/var/folders/|[A-Za-z]:\\+Users\\")
_HERE = [str(ROOT), str(Path.home()), sys.prefix]


def outdated(committed: Any, built: Any) -> Iterator[str]:
    """Where a committed notebook is not what its source builds; outputs don't count.

    Args:
        committed: the notebook as it is stored.
        built: the notebook as its source gives it.
    """
    if len(committed.cells) != len(built.cells):
        yield f"has {len(committed.cells)} cells, its source gives {len(built.cells)}"
    pairs = zip(committed.cells, built.cells, strict=False)
    for number, (old, new) in enumerate(pairs, start=1):
        if (old.cell_type, old.source) != (new.cell_type, new.source):
            yield f"cell {number} is not what its source builds ({_title(new)})"
        elif (old.get("id"), old.metadata) != (new.id, new.metadata):
            yield f"cell {number} has another id, tags or metadata than its source gives"
    if committed.metadata != built.metadata:
        yield f"its metadata is not what the tools write: {json.dumps(committed.metadata)}"


def defects(notebook: Any) -> Iterator[str]:
    """What must never be stored: cells not run, errors, warnings, paths of this machine."""
    counts = []
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        where = f"cell {number} ({_title(cell)})"
        tags = cell.metadata.get("tags", [])
        counts.append(cell.execution_count)
        if cell.execution_count is None:
            yield f"{where} was not run: its execution count is null, and nbval compares nothing"
        if set(cell.metadata) - {"tags"}:
            yield f"{where} has metadata besides tags: {sorted(cell.metadata)}"
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in tags:
                yield f"{where} ends in an error: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr" and IGNORE_TAG not in tags:
                first = output.text.strip().splitlines()[:1]
                yield f"{where} writes to stderr, which nbval compares: {first}"
            if found := _machine_path(output):
                yield f"{where} shows a path of this machine: {found}"
    if None not in counts and counts != list(range(1, len(counts) + 1)):
        yield "was not run from top to bottom in one go: its execution counts are not 1, 2, 3, ..."
    if "widgets" in notebook.metadata:
        yield "stores the state of widgets"


def _machine_path(output: Any) -> str | None:
    """The first path in what an output shows as text; pictures are not text."""
    shown = dict(output)
    shown["data"] = {
        kind: data
        for kind, data in output.get("data", {}).items()
        if not kind.startswith("image/") or kind == "image/svg+xml"
    }
    text = json.dumps(shown, ensure_ascii=False)
    for path in _HERE:
        if path in text:
            return path
    found = _FOLDERS.search(text)
    return found.group() if found else None


def shortcomings(notebook: Any, *, pictures: bool = True) -> Iterator[str]:
    """What a learner or nbval would miss.

    Args:
        notebook: an executed notebook.
        pictures: whether it must show at least one.
    """
    cells = notebook.cells
    first = cells[0] if cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "does not open with a title ('# ...' in its first cell)"
    code = [cell for cell in cells if cell.cell_type == "code"]
    compared = sum(map(_is_compared, code))
    if compared < MIN_COMPARED_OUTPUTS:
        yield f"nbval compares {compared} outputs, fewer than {MIN_COMPARED_OUTPUTS}"
    if not any(EXERCISE_TAG in cell.metadata.get("tags", []) for cell in code):
        yield "has no cell tagged 'exercise'"
    shown = 0
    for number, cell in enumerate(cells, start=1):
        if cell.cell_type != "code":
            continue
        lines = len(cell.source.strip().splitlines())
        if lines > MAX_CODE_LINES:
            yield f"cell {number} ({_title(cell)}) has {lines} lines of code, over {MAX_CODE_LINES}"
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    shown += 1
                    if not str(output.metadata.get(kind, {}).get("alt", "")).strip():
                        yield f"cell {number} ({_title(cell)}) shows a picture without alternative text"
    if pictures and not shown:
        yield "shows no picture"
    follows = sum(a.cell_type == b.cell_type == "code" for a, b in itertools.pairwise(cells))
    if follows > len(code) / 2:
        yield f"{follows} of {len(code)} code cells follow another with no prose between"
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    if words < 25 * len(code):
        yield f"has {words} words of prose for {len(code)} code cells, under 25 each"


def _is_compared(cell: Any) -> bool:
    """Whether nbval compares a result here: it skips PNG, and a picture's words are no result."""
    if IGNORE_TAG in cell.metadata.get("tags", []) or "NBVAL_IGNORE_OUTPUT" in cell.source:
        return False
    pictured = any(kind.startswith("image/") for o in cell.outputs for kind in o.get("data", {}))
    counting = ("stream",) if pictured else ("stream", "execute_result", "display_data")
    return any(output.output_type in counting for output in cell.outputs)


def _title(cell: Any) -> str:
    """The first line of a cell that says something, for a message."""
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "empty")
    return first if len(first) <= 50 else first[:47] + "..."
