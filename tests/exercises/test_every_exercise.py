"""What holds for each exercise, and that `prove` itself can fail."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from labkit import exercises
from labkit.checks import Exercise, NotYet
from labkit.exercises import start_here
from tests.exercises.helpers import exercise_cell
from tools.sources import sources

MODULES = [module.name for module in pkgutil.iter_modules(exercises.__path__)]


def found():
    for name in MODULES:
        module = importlib.import_module(f"labkit.exercises.{name}")
        for attribute, value in vars(module).items():
            if isinstance(value, Exercise):
                yield pytest.param(name, attribute, value, id=f"{name}.{attribute}")


def source_of(module: str) -> str:
    fitting = [path.stem for path in sources() if path.stem[3:].replace("-", "_") == module]
    assert len(fitting) == 1, f"no notebook is called NN-{module.replace('_', '-')}"
    return fitting[0]


@pytest.mark.parametrize(("module", "attribute", "exercise"), list(found()))
def test_it_is_in_its_notebook_has_hints_and_is_proven(module, attribute, exercise):
    """Its solution is the one in the source, and a test puts wrong answers to it."""
    exercise_cell(exercise, source_of(module))
    assert len(exercise.hints) >= 2
    proof = Path(__file__).with_name(f"test_{module}.py")
    assert f"{module}.{attribute}" in proof.read_text(), f"{proof.name} does not prove it"


WRONG = [("return max(parts_s)", "longest part"), ("return len(parts_s)", "how many parts")]


def copy_of_total_wait(check=None, solution=None) -> Exercise:
    original = start_here.total_wait
    return Exercise(
        original.name,
        check or original._given_check,
        original.hints,
        solution or original.solution_text,
    )


def refuse(total_wait):
    total_wait([])
    raise NotYet("no")


@pytest.mark.parametrize(
    ("exercise", "wrong", "told"),
    [
        (copy_of_total_wait(lambda f: f([1.0])), WRONG, "wrong answer 1: expected not yet"),
        (copy_of_total_wait(lambda f: None), WRONG, "untouched: expected not attempted"),
        (copy_of_total_wait(refuse), WRONG, "solution: expected correct; got not yet: no"),
        (copy_of_total_wait(), [WRONG[0], (WRONG[1][0], "no such reason")], "no such reason"),
        (copy_of_total_wait(), WRONG[:1], "at least two wrong answers"),
        (copy_of_total_wait(solution="return 1"), WRONG, "its solution text must equal"),
    ],
)
def test_a_check_that_does_not_tell_answers_apart_is_caught(prove, exercise, wrong, told):
    with pytest.raises(AssertionError, match=told):
        prove(exercise, source="00", answer="total_wait", wrong=wrong)
