"""Every notebook that is committed: current, clean, and worth comparing.

What they show is compared by nbval itself (`pytest --nbval notebooks`).
"""

from __future__ import annotations

import re

import nbformat
import pytest

from tools import inspection
from tools.build_notebooks import check
from tools.sources import NOTEBOOKS, sources

ALL = sources()
each_notebook = pytest.mark.parametrize("source", ALL, ids=lambda path: path.stem)


def test_every_notebook_has_a_source_and_every_source_a_notebook():
    notebooks = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert notebooks == {path.stem for path in ALL}


@each_notebook
def test_it_is_what_its_source_builds_and_clean(source):
    """Cells, ids, tags and metadata; no null count, error, warning or path of a machine."""
    assert check(source) == []


@each_notebook
def test_it_has_what_a_learner_and_nbval_need(source):
    """A title, an exercise, a picture with alternative text, six compared outputs, prose."""
    notebook = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    assert list(inspection.shortcomings(notebook)) == []


@each_notebook
def test_its_links_to_other_notebooks_lead_somewhere(source):
    text = (NOTEBOOKS / f"{source.stem}.ipynb").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w./-]+\.ipynb)", text))
    assert [name for name in sorted(linked) if not (NOTEBOOKS / name).exists()] == []


def test_the_start_page_leads_to_every_other_notebook():
    start, *others = sorted(path.stem for path in ALL)
    text = (NOTEBOOKS / f"{start}.ipynb").read_text(encoding="utf-8")
    assert [name for name in others if f"]({name}.ipynb)" not in text] == []
