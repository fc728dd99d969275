"""Each notebook once more as a learner leaves it, with every exercise solved.

Every check must say correct, and every prediction that is made must hold whenever it is run.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from labkit import predict
from tests.notebooks.learning import as_learned, predictions, undecided
from tools.build_notebooks import build, write
from tools.execution import nbval_command, nbval_environment
from tools.sources import NOTEBOOKS, notebook, sources


def run_under_nbval(path: Path) -> subprocess.CompletedProcess[str]:
    """In a pytest of its own, where a check that is not correct fails its cell."""
    return subprocess.run(
        nbval_command(path.name, "--nbval-lax"),
        cwd=path.parent,
        env=nbval_environment(LABKIT_REQUIRE_CORRECT="1"),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_every_check_says_correct_and_every_prediction_can_be_made(source, tmp_path):
    committed = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    path = tmp_path / f"{source.stem}.ipynb"
    write(as_learned(notebook(source, solved=True), committed), path)
    result = run_under_nbval(path)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_most_notebooks_ask_for_predictions():
    asking = [
        source.stem
        for source in sources()
        if [*predictions(nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4))]
    ]
    assert len(asking) >= 8


#: One that measures the same each time, and three that do not, each in its own way.
EXPERIMENTS = (
    "runs = 1",
    "runs = globals().get('runs_so_far', 0) + 1; runs_so_far = runs",
    "runs = 2 if 'later' in globals() else 1",
    "runs = 1; counted = globals().get('counted', 0) + 1",
)
WRONG_SOLUTION = """
# %%
from labkit.exercises import start_here as exercises
# %% tags=["exercise"]
def total_wait(parts_s):
    # BEGIN SOLUTION
    return max(parts_s)
    # END SOLUTION
exercises.total_wait.check(total_wait)
"""


def test_a_wrong_solution_and_an_experiment_that_changes_are_caught(tmp_path):
    source = tmp_path / "90-wrong.py"
    cells = ["# %%\nimport labkit"]
    for number, experiment in enumerate(EXPERIMENTS):
        cells += [
            "# %%",
            f'guess_{number} = labkit.predict("Runs?", {{"a": "one", "b": "more"}}, answer=None)',
            experiment,
            "# %%",
            "told = f\"counted: {globals().get('counted')}\"",
            f'guess_{number}.reveal("a" if runs == 1 else "b", because=told)',
        ]
    source.write_text("\n".join([*cells, "# %%\nlater = True", WRONG_SOLUTION]))
    committed = nbformat.read(build(source, tmp_path / "committed"), as_version=4)
    path = tmp_path / "90-wrong.ipynb"
    write(as_learned(notebook(source, solved=True), committed, from_the_start=4), path)
    result = run_under_nbval(path)
    assert result.returncode == 1
    caught = re.split(r"^_+ .*::Cell \d+ _+$", result.stdout, flags=re.MULTILINE)[1:]
    expected = [
        "Measured: b, more\n  counted: None\nYou predicted a, one: it did not hold",  # at once
        "Measured: a, one\n  counted: 2\nYou predicted a: it held",
        "The exercise total-wait is not solved",
        "Measured: b, more\n  counted: 2\nYou predicted a, one: it did not hold",  # at the end
        "Measured: b, more\n  counted: 2\nYou predicted a, one: it did not hold",
    ]
    assert len(caught) == len(expected), result.stdout
    for text, told in zip(caught, expected, strict=True):
        assert told in text


def test_what_a_prediction_prints_is_told_from_what_was_measured(capsys):
    predict("Which?", {"a": "one", "b": "two"}).reveal("a", because="it is so")
    without = capsys.readouterr().out
    predict("Which?", {"a": "one", "b": "two"}, answer="a").reveal("a", because="it is so")
    decided = capsys.readouterr().out
    assert without != decided
    assert undecided(without) == undecided(decided)
    predict("Which?", {"a": "one", "b": "two"}).reveal("b", because="it is not so")
    assert undecided(capsys.readouterr().out) != undecided(decided)
