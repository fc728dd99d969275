"""The inspection of notebooks sees each thing that it is there to see."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.inspection import defects, outdated, shortcomings
from tools.sources import ROOT, notebook

PROSE = " ".join(["word"] * 30)


def code(text: str, *outputs, count: int | None = 1, tags: tuple[str, ...] = ()):
    cell = new_code_cell(text, outputs=list(outputs), execution_count=count)
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def said(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)


def picture(alt: str = "A bar for each department"):
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return new_output("display_data", data={"image/png": "iVBORw0KGgo="}, metadata=metadata)


def good():
    """A notebook with nothing to find: seven cells of code, six of which print."""
    cells = [new_markdown_cell("# A title\n\n" + PROSE)]
    for number in range(1, 7):
        cell = code(f"print({number})", said(f"{number}\n"), count=number)
        cells += [cell, new_markdown_cell(PROSE)]
    cells[-2].metadata["tags"] = ["exercise"]
    cells.append(code("show()", picture(), count=7))
    return new_notebook(cells=cells)


def first_code(book):
    return book.cells[1]


def test_a_good_notebook_has_nothing_to_find():
    assert list(defects(good())) == []
    assert list(shortcomings(good())) == []


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda b: first_code(b).update(execution_count=None), "was not run"),
        (lambda b: first_code(b).update(execution_count=3), "not run from top to bottom"),
        (
            lambda b: first_code(b).outputs.append(
                new_output("error", ename="ValueError", evalue="no", traceback=[])
            ),
            "ends in an error: ValueError: no",
        ),
        (lambda b: first_code(b).outputs.append(said("Careful", "stderr")), "writes to stderr"),
        (lambda b: first_code(b).outputs.append(said("/home/ada/inbox")), "path of this machine"),
        (lambda b: first_code(b).outputs.append(said(f"{ROOT}/x")), "path of this machine"),
        (lambda b: first_code(b).outputs.append(said(f"{Path.home()}/x")), "path of this machine"),
        (
            lambda b: first_code(b).outputs.append(said("C:\\Users\\ada\\shop.db")),
            "path of this machine",
        ),
        (
            lambda b: first_code(b).outputs.append(
                new_output("execute_result", data={"text/html": "<b>/tmp/shop</b>"})
            ),
            "path of this machine",
        ),
        (lambda b: first_code(b).metadata.update(execution={"at": "10:00"}), "besides tags"),
        (lambda b: b.metadata.update(widgets={}), "state of widgets"),
    ],
)
def test_what_must_not_be_stored_is_found(spoil, found):
    book = good()
    spoil(book)
    assert any(found in line for line in defects(book)), list(defects(book))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda b: b.cells.pop(0), "does not open with a title"),
        (lambda b: first_code(b).outputs.clear(), "compares 5 outputs"),
        (lambda b: first_code(b).metadata.update(tags=["nbval-ignore-output"]), "5 outputs"),
        (lambda b: first_code(b).update(outputs=[picture()]), "compares 5 outputs"),
        (lambda b: b.cells[-3].metadata.clear(), "no cell tagged 'exercise'"),
        (lambda b: b.cells[-1].update(outputs=[picture(alt="")]), "without alternative text"),
        (lambda b: b.cells[-1].outputs.clear(), "shows no picture"),
        (lambda b: first_code(b).update(source="x = 1\n" * 21), "21 lines of code"),
        (lambda b: [c.update(source="Word") for c in b.cells[1:] if c.cell_type == "markdown"],
         "words of prose"),
        (lambda b: b.update(cells=[c for c in b.cells if c.cell_type == "code"]), "no prose between"),
    ],
)  # fmt: skip
def test_what_a_learner_would_miss_is_found(spoil, found):
    book = good()
    spoil(book)
    assert any(found in line for line in shortcomings(book)), list(shortcomings(book))


@pytest.fixture
def built(tmp_path):
    source = tmp_path / "90-example.py"
    source.write_text("# %% [markdown]\n# # A title\n\n# %%\nprint(1)\n\n# %%\nprint(2)\n")
    return notebook(source)


def test_a_notebook_that_its_source_builds_is_current(built):
    committed = nbformat.from_dict(built)
    committed.cells[1].outputs = [said("1\n")]
    committed.cells[1].execution_count = 1
    assert list(outdated(committed, built)) == []


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda b: b.cells[1].update(source="print(3)"), "cell 2 is not what its source builds"),
        (lambda b: b.cells.pop(), "has 2 cells, its source gives 3"),
        (lambda b: b.cells[1].update(id="other"), "another id"),
        (lambda b: b.cells[1].metadata.update(tags=["exercise"]), "tags"),
        (lambda b: b.metadata.language_info.update(version="3.11.2"), "its metadata"),
    ],
)
def test_a_notebook_that_its_source_does_not_build_is_found(built, spoil, found):
    committed = copy.deepcopy(built)
    spoil(committed)
    assert any(found in line for line in outdated(committed, built))
