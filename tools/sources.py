"""From an author's source (`notebooks/sources/NN-name.py`) to a learner's or a solved notebook."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = NOTEBOOKS / "sources"

BEGIN, END, STUB = "# BEGIN SOLUTION", "# END SOLUTION", "# STUB:"
DEFAULT_STUB = "raise NotImplementedError"
#: Kept as small as Jupyter allows, so that a new Python or kernel changes no notebook.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class SourceError(Exception):
    """A source can't be turned into a notebook; the message says where and why."""


@dataclass(frozen=True)
class Piece:
    """A run of a cell's lines: plain ones, or a solution with its stub (no markers left)."""

    lines: tuple[str, ...]
    stub: tuple[str, ...] | None = None

    @property
    def solution(self) -> str | None:
        """The solution, flush left, as a learner would read it; None for plain lines."""
        if self.stub is None:
            return None
        return textwrap.dedent("\n".join(self.lines)).strip("\n")


@dataclass(frozen=True)
class Cell:
    """One cell of a source.

    Attributes:
        kind: `markdown` or `code`.
        pieces: its lines, in order.
        tags: its tags, such as `exercise`.
    """

    kind: str
    pieces: tuple[Piece, ...]
    tags: tuple[str, ...] = ()

    @property
    def solutions(self) -> list[str]:
        """The solutions in this cell, each flush left."""
        return [piece.solution for piece in self.pieces if piece.solution is not None]

    def text(self, *, solved: bool) -> str:
        """The cell as a learner gets it, or with its solutions."""
        lines: list[str] = []
        for piece in self.pieces:
            lines += piece.lines if solved or piece.stub is None else piece.stub
        return "\n".join(lines).strip("\n")

    def with_answer(self, answer: str) -> str:
        """The cell as a learner leaves it who types `answer` in place of the stub."""
        lines: list[str] = []
        for piece in self.pieces:
            if piece.stub is None:
                lines += piece.lines
            else:
                indent = _indent_of(piece.lines)
                lines += textwrap.indent(textwrap.dedent(answer).strip("\n"), indent).splitlines()
        return "\n".join(lines).strip("\n")


def _indent_of(lines: tuple[str, ...]) -> str:
    first = next((line for line in lines if line.strip()), "")
    return first[: len(first) - len(first.lstrip())]


def sources(names: list[str] | None = None, folder: Path = SOURCES) -> list[Path]:
    """The sources to build, in order.

    Args:
        names: some of them, as `01-synchronous-orders`, as `01`, or as a path; all if left out.
        folder: where they are.

    Raises:
        SourceError: a name fits none.
    """
    known = sorted(folder.glob("[0-9][0-9]-*.py"))
    if not names:
        return known
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".py").removesuffix(".ipynb")
        fits = [path for path in known if path.stem == stem or path.stem.split("-")[0] == stem]
        if not fits:
            raise SourceError(
                f"No source is called {name!r}. There are: {', '.join(p.stem for p in known)}"
            )
        chosen += fits
    return sorted(set(chosen))


def read(path: Path) -> list[Cell]:
    """The cells of a source.

    Raises:
        SourceError: a solution's markers don't pair, or its stub would end the notebook.
    """
    import jupytext

    try:
        notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    except Exception as exc:  # jupytext lets its parser's own errors through
        raise SourceError(f"{path.name} is no jupytext percent file: {exc}") from exc
    cells = []
    for number, raw in enumerate(notebook.cells, start=1):
        where = f"{path.name}, cell {number}"
        lines = raw.source.splitlines()
        pieces = tuple(_pieces(lines, where)) if raw.cell_type == "code" else (Piece(tuple(lines)),)
        cells.append(Cell(raw.cell_type, pieces, tuple(raw.metadata.get("tags", ()))))
    return cells


def _pieces(lines: list[str], where: str) -> Iterator[Piece]:
    plain: list[str] = []
    inside: list[str] | None = None
    for line in lines:
        mark = line.strip()
        if mark == BEGIN:
            if inside is not None:
                raise SourceError(f"{where}: a solution begins inside another")
            yield Piece(tuple(plain))
            plain, inside = [], []
        elif mark == END:
            if inside is None:
                raise SourceError(f"{where}: {END!r} without {BEGIN!r}")
            yield _solution(inside, where)
            inside = None
        else:
            (plain if inside is None else inside).append(line)
    if inside is not None:
        raise SourceError(f"{where}: {BEGIN!r} without {END!r}")
    yield Piece(tuple(plain))


def _solution(inside: list[str], where: str) -> Piece:
    lines = tuple(line for line in inside if not line.lstrip().startswith(STUB))
    indent = _indent_of(lines)
    stub = []
    for line in inside:
        if line.lstrip().startswith(STUB):
            text = line.lstrip().removeprefix(STUB).removeprefix(" ")
            stub.append((indent + text).rstrip())
    if not any(line.strip() for line in lines):
        raise SourceError(f"{where}: the solution is empty")
    if not stub:
        if not indent:
            raise SourceError(
                f"{where}: a solution at a cell's top level needs a stub that can be run, "
                f"such as '{STUB} answer = ...'"
            )
        stub = [indent + DEFAULT_STUB]
    return Piece(lines, tuple(stub))


def notebook(path: Path, *, solved: bool = False) -> Any:
    """The notebook that a source builds, not executed.

    Args:
        path: the source.
        solved: with its solutions, in place of the stubs.

    Returns:
        An `nbformat` notebook. Its cell ids come from the cells' text, so that a cell that does
        not change keeps its id wherever it moves.

    Raises:
        SourceError: as `read` does.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    seen: set[str] = set()
    cells = []
    for cell in read(path):
        text = cell.text(solved=solved)
        make = new_code_cell if cell.kind == "code" else new_markdown_cell
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        cells.append(make(text, id=_cell_id(cell.kind, text, seen), metadata=metadata))
    return new_notebook(cells=cells, metadata=METADATA)


def _cell_id(kind: str, text: str, seen: set[str]) -> str:
    digest = hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()[:8]
    number = 1
    cell_id = digest
    while cell_id in seen:  # the same text twice in a notebook
        number += 1
        cell_id = f"{digest}-{number}"
    seen.add(cell_id)
    return cell_id
