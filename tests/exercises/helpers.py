"""Shows that an exercise's check tells an untouched, a right and a wrong answer apart."""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from labkit.checks import Exercise, Judgement, Verdict
from tools.sources import SOURCES, Cell, read, sources

_BUTTONS = {"check", "hint", "solution"}
#: A check's time at most, in real seconds: more than a learner's, for a machine that is busy.
_LIMIT_WALL_S = 120.0


def prove_exercise(
    exercise: Exercise,
    source: str,
    answer: str,
    wrong: Sequence[tuple[str, str]],
    names: Mapping[str, Any] | None = None,
    **given: Any,
) -> None:
    """Fails where the check's verdict on one of these answers is not the one it should be.

    The answers are put into the exercise's own cell, as a learner does, and the cell is run,
    without its calls of check, hint and solution.

    Args:
        exercise: what to prove.
        source: the notebook, as `01-synchronous-orders` or `01`.
        answer: the name that the cell gives to what is checked.
        wrong: at least two wrong answers. Each is the code that a learner types in place of the
            stub, flush left, and a regular expression that the reason must hold.
        names: what the cell needs from the cells above it.
        given: what the check takes besides the answer; a callable without arguments is called
            anew for each answer, for what an answer uses up, such as a queue.
    """
    cell = exercise_cell(exercise, source)
    problems = []

    def verdict_on(title: str, code: str) -> Judgement:
        value = _run(code, dict(names or {}), f"<{exercise.name}: {title}>").get(answer)
        fresh = {key: item() if callable(item) else item for key, item in given.items()}
        with mock.patch.object(exercise, "limit_wall_s", exercise.limit_wall_s and _LIMIT_WALL_S):
            return exercise.judge(value, **fresh)

    def expect(title: str, code: str, verdict: Verdict, reason: str = "") -> None:
        found = verdict_on(title, code)
        if found.verdict is not verdict or not re.search(reason, found.message):
            wanted = f"{verdict}, with a reason that holds {reason!r}" if reason else str(verdict)
            problems.append(f"{title}: expected {wanted}; got {found.verdict}: {found.message}")

    expect("untouched", cell.text(solved=False), Verdict.NOT_ATTEMPTED)
    expect("solution", cell.text(solved=True), Verdict.CORRECT)
    assert len(wrong) >= 2, "give at least two wrong answers that a learner would give"
    for number, (code, reason) in enumerate(wrong, start=1):
        assert reason, "say what the reason must hold"
        expect(f"wrong answer {number}", cell.with_answer(code), Verdict.NOT_YET, reason)
    assert not problems, "\n".join([f"{exercise.name}:", *problems])


def exercise_cell(exercise: Exercise, source: str) -> Cell:
    """The cell of a source whose solution is the one that the exercise shows."""
    (path,) = sources([source], SOURCES)
    cells = [cell for cell in read(path) if cell.solutions]
    fitting = [cell for cell in cells if exercise.solution_text in cell.solutions]
    shown = "\n---\n".join(solution for cell in cells for solution in cell.solutions)
    assert len(fitting) == 1, (
        f"{exercise.name}: its solution text must equal the lines between BEGIN and END SOLUTION "
        f"of one cell in {path.name}. It is:\n{exercise.solution_text}\n"
        f"The source's solutions are:\n{shown}"
    )
    assert "exercise" in fitting[0].tags, f"{exercise.name}: its cell needs the tag 'exercise'"
    return fitting[0]


def _run(code: str, names: dict[str, Any], filename: str) -> dict[str, Any]:
    tree = ast.parse(code, filename)
    tree.body = [node for node in tree.body if not _is_button(node)]
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    names["__name__"] = "__main__"  # as in a notebook
    exec(compile(tree, filename, "exec"), names)
    return names


def _is_button(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in _BUTTONS
    )
