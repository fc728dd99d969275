"""A learner's way through a notebook: exercises solved, each prediction set and run again.

The two cells that `reveal` speaks of are run again at once, and for the first predictions, once
the whole notebook has run, all from the prediction to its reveal. Either time they must measure
what they measured, and neither may spoil what comes after.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: So many experiments of a notebook are run once more at its end, the first ones: those furthest
#: back, whose traces the rest of the notebook has had most time to disturb.
FROM_THE_START = 2
UNDECIDED = re.compile(r"^(No prediction yet|You made no prediction).*\n", re.MULTILINE)
DECIDED = re.compile(r"^(Your prediction: |You predicted ).*\n", re.MULTILINE)
MEASURED = re.compile(r"^Measured: (\w+), .*", re.MULTILINE)
#: What keeps nbval from comparing a cell's output, and what has it compare one in lax mode.
VARIES, COMPARED = "nbval-ignore-output", "nbval-check-output"


@dataclass(frozen=True)
class Asked:
    """A prediction: its name, its cell and the lines of its call there, and the cell that reveals."""

    name: str
    cell: int
    lines: tuple[int, int]
    revealed: int


def predictions(notebook: Any) -> Iterator[Asked]:
    """Each prediction with the cell that reveals it.

    Raises:
        AssertionError: one is never revealed, or revealed before it is made.
    """
    made: dict[str, tuple[int, tuple[int, int]]] = {}
    revealed: set[str] = set()
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assign) and _calls(node.value, "predict"):
                (target,) = node.targets
                assert isinstance(target, ast.Name)
                assert target.id not in set(made) - revealed, f"{target.id} is never revealed"
                made[target.id] = index, (node.lineno, node.end_lineno or node.lineno)
                revealed.discard(target.id)
            elif _calls(node, "reveal"):
                name = node.func.value.id
                assert name in made, f"{name} is revealed before it is made"
                revealed.add(name)
                yield Asked(name, *made[name], revealed=index)
    assert revealed == set(made), f"never revealed: {sorted(set(made) - revealed)}"


def _calls(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return name == (function.attr if isinstance(function, ast.Attribute) else ast.unparse(function))


def as_learned(solved: Any, committed: Any, from_the_start: int = FROM_THE_START) -> Any:
    """The solved notebook, whose predictions are made and run again once they are revealed.

    Args:
        solved: the notebook with its solutions, not executed.
        committed: the same one without them, executed.
        from_the_start: so many experiments are run once more at the end.

    Returns:
        A notebook for nbval's lax mode. Cells without an exercise must print in their turn what
        is stored, whatever was run again before.
    """
    cells = [copy.deepcopy(cell) for cell in solved.cells]
    asked = list(predictions(committed))
    learned = copy.deepcopy(solved)
    learned.cells = []
    at_end = [
        cell for one in asked[:from_the_start] for cell in again(solved, committed, one, True)
    ]
    for index, (cell, stored) in enumerate(zip(cells, committed.cells, strict=True)):
        if "lab.stop()" in cell.source:
            learned.cells += at_end
            at_end = []
        same = cell.cell_type == "code" and cell.source == stored.source
        if same and not varies(stored):
            cell.outputs, cell.execution_count = stored.outputs, stored.execution_count
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), COMPARED]
        learned.cells.append(cell)
        for one in asked:
            if one.revealed == index:
                learned.cells += again(solved, committed, one, False)
    learned.cells += at_end
    return learned


def again(solved: Any, committed: Any, asked: Asked, between: bool) -> Iterator[Any]:
    """Cells that set a prediction's answer, run its experiment again and look at what it says.

    Args:
        solved: where the experiment's cells are.
        committed: where what they printed is stored.
        asked: the prediction.
        between: whether to run all from the prediction to its reveal, or these two alone.
    """
    from nbformat.v4 import new_code_cell  # late: a learner's kernel imports `verify` alone

    before = printed(committed.cells[asked.revealed])
    measured = MEASURED.search(before)
    assert measured, f"cell {asked.revealed} reveals nothing"
    question = with_answer(solved.cells[asked.cell].source, asked, measured[1])
    first = asked.cell + 1 if between else max(asked.cell + 1, asked.revealed)
    rest = solved.cells[first : asked.revealed + 1]
    run = [question, *(cell.source for cell in rest if cell.cell_type == "code")]
    for number, source in enumerate(run):
        yield new_code_cell(f"%%capture told{number}\n{source}")
    # Counts beside the verdict may rest on all that a shop has done so far.
    exact = not between and not varies(committed.cells[asked.revealed])
    yield new_code_cell(
        "from tests.notebooks.learning import verify\n"
        f"verify(told0.stdout, told{len(run) - 1}.stdout, {measured[1]!r}, {before!r}, {exact})"
    )


def verify(asked: str, revealed: str, answer: str, before: str, exact: bool) -> None:
    """Looks at what a prediction's two cells print once the answer is set that was measured.

    Args:
        asked: what the first printed.
        revealed: what the second printed.
        answer: the answer's letter.
        before: what the second printed when there was no answer.
        exact: whether all that does not depend on the answer must be the same, or what was
            measured alone.

    Raises:
        AssertionError: something else is printed.
    """
    assert f"Your prediction: {answer}, " in asked, f"the answer is set, and it prints\n{asked}"
    core = undecided if exact else verdicts
    assert f"You predicted {answer}: it held" in revealed, revealed
    assert core(revealed) == core(before), f"not\n{before}\nagain, but\n{revealed}"


def with_answer(source: str, asked: Asked, answer: str) -> str:
    """The cell as a learner leaves it who has set this prediction's answer."""
    lines = source.splitlines()
    first, last = asked.lines
    for number in range(first - 1, last):
        lines[number] = lines[number].replace("answer=None", f'answer="{answer}"')
    changed = "\n".join(lines)
    assert changed != source, f"{asked.name} has no answer=None to set"
    return changed


def undecided(text: str) -> str:
    """What is the same, whatever was predicted."""
    return DECIDED.sub("", UNDECIDED.sub("", text))


def verdicts(text: str) -> list[str]:
    """What was measured, without the counts beside it."""
    return [found[0] for found in MEASURED.finditer(text)]


def printed(cell: Any) -> str:
    """What a stored code cell wrote to its streams."""
    return "".join(out.text for out in cell.get("outputs", []) if out.output_type == "stream")


def varies(cell: Any) -> bool:
    """Whether what a cell prints differs from run to run."""
    return VARIES in cell.metadata.get("tags", [])
