"""Exercises: whether a learner's answer holds, in three verdicts, with hints and a solution."""

from __future__ import annotations

import enum
import linecache
import os
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from labkit.background import Background
from labkit.errors import LabError
from labkit.predictions import Prediction, Quiet, block, predict

__all__ = [
    "Exercise",
    "Judgement",
    "NotAttempted",
    "NotYet",
    "Prediction",
    "Verdict",
    "predict",
]

#: How long a learner's code may take before a check gives up on it, in real seconds.
LIMIT_WALL_S = 20.0
#: How long a check waits for code that it has just interrupted, in real seconds.
_INTERRUPT_WALL_S = 3.0


class Verdict(Quiet, enum.StrEnum):
    """What a check says of an answer."""

    NOT_ATTEMPTED = "not attempted"
    NOT_YET = "not yet"
    CORRECT = "correct"


class NotAttempted(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a check that finds no attempt, such as no queue of the name asked for."""


class NotYet(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a check whose answer falls short.

    Args:
        seen: what the check saw, and for which input.
        expected: what a correct answer gives instead.
        cause: what most likely leads to what was seen.
    """

    def __init__(self, seen: str, expected: str = "", cause: str = "") -> None:
        self.seen = seen
        self.expected = expected
        self.cause = cause
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.seen]
        if self.expected:
            lines.append(f"Expected: {self.expected}")
        if self.cause:
            lines.append(f"Likely:   {self.cause}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Judgement:
    """A verdict and the words that go with it."""

    verdict: Verdict
    message: str


class Exercise:
    """A task whose answer can be checked, with hints and a solution.

    Args:
        name: what the messages call it, such as `parallel-calls`.
        check: takes the answer, and by keyword what the notebook gives besides; returns where
            the answer is correct, raises `NotYet` or `NotAttempted` where it is not. A subclass
            may define `_check` instead.
        hints: from a nudge to nearly the answer.
        solution: the code that `solution()` shows.
        learned: what a correct answer has shown, in a sentence.
        limit_wall_s: how long the check may take, in real seconds; None runs it in the caller's
            own thread, without a limit.
    """

    def __init__(
        self,
        name: str,
        check: Callable[..., object] | None = None,
        hints: Sequence[str] = (),
        solution: str = "",
        learned: str = "",
        limit_wall_s: float | None = LIMIT_WALL_S,
    ) -> None:
        self.name = name
        self.hints = list(hints)
        self.solution_text = textwrap.dedent(solution).strip("\n")
        self.learned = learned
        self.limit_wall_s = limit_wall_s
        self._given_check = check
        self._hints_shown = 0

    def __repr__(self) -> str:
        return f"<exercise {self.name}: check(...), hint(), solution()>"

    def _check(self, answer: Any, **given: Any) -> None:
        """Returns where the answer is correct, raises `NotYet` or `NotAttempted` where not."""
        if self._given_check is None:
            raise NotImplementedError(f"{self.name} has no check")
        self._given_check(answer, **given)

    def judge(self, answer: Any, **given: Any) -> Judgement:
        """What `check` says, without printing it.

        Args:
            answer: the learner's value, function or class.
            given: what the check needs besides, such as the broker's URL.

        Raises:
            LabError: the check could not be made, for a reason that is not the learner's.
        """
        if answer is None or answer is ...:
            return Judgement(Verdict.NOT_ATTEMPTED, _TO_ATTEMPT)
        failure = self._failure_of(answer, given)
        if failure is None:
            return Judgement(Verdict.CORRECT, self.learned)
        if isinstance(failure, NotAttempted):
            return Judgement(Verdict.NOT_ATTEMPTED, str(failure) or _TO_ATTEMPT)
        if isinstance(failure, NotYet):
            return Judgement(Verdict.NOT_YET, str(failure))
        for cause in _causes(failure):
            if line := _line_of_the_learner(cause, answer):
                if isinstance(cause, NotImplementedError):
                    return Judgement(Verdict.NOT_ATTEMPTED, _TO_ATTEMPT)
                raised = f"Your code raised {_named(cause)}\nWhere:    {line}"
                return Judgement(Verdict.NOT_YET, raised)
        if isinstance(failure, LabError):
            raise failure
        return Judgement(
            Verdict.NOT_YET,
            f"The check can't use your answer, {_short(answer)}: {_named(failure)}",
        )

    def check(self, answer: Any = None, **given: Any) -> Verdict:
        """Looks at an answer and prints what it finds.

        Args:
            answer: the learner's value, function or class; None or `...` is no attempt.
            given: what the check needs besides, such as the broker's URL.

        Returns:
            The verdict.

        Raises:
            LabError: the check could not be made, for a reason that is not the learner's; or,
                where `LABKIT_REQUIRE_CORRECT` is 1, the answer is not correct.
        """
        judgement = self.judge(answer, **given)
        print(f"{self.name}: {judgement.verdict}.")
        if judgement.message:
            print(block("  ", judgement.message))
        if judgement.verdict is Verdict.NOT_YET and self.hints:
            print("  Stuck? hint() gives a nudge, solution() one way to do it.")
        if judgement.verdict is not Verdict.CORRECT and _must_be_correct():
            raise LabError(
                f"The exercise {self.name} is not solved.",
                judgement.message,
                "mend the solution in the notebook's source or the check in labkit.exercises",
            )
        return judgement.verdict

    def hint(self, n: int | None = None) -> None:
        """Prints a hint: the next one, or the n-th, counted from 1."""
        total = len(self.hints)
        if not total:
            print(f"{self.name} has no hints.")
            return
        if n is None:
            n = min(self._hints_shown + 1, total)
            self._hints_shown = n
        if not 1 <= n <= total:
            print(f"{self.name} has hints 1 to {total}.")
            return
        print(block(f"Hint {n} of {total}: ", self.hints[n - 1]))
        if n == total:
            print("That is the last hint. solution() shows one way to do it.")

    def solution(self) -> None:
        """Prints one way to do it."""
        print(self.solution_text or f"{self.name} has no solution to show.")

    def _failure_of(self, answer: Any, given: Mapping[str, Any]) -> BaseException | None:
        if self.limit_wall_s is None:
            try:
                self._check(answer, **given)
            except Exception as exc:  # judged by the caller
                return exc
            return None
        work = Background(f"check-{self.name}", lambda _stop: self._check(answer, **given)).start()
        try:
            ended = work.join(self.limit_wall_s)
        except BaseException:  # the learner interrupts the cell
            work.abandon()
            raise
        if ended:
            return work.failure
        work.abandon()
        survives = (
            ""
            if work.join(_INTERRUPT_WALL_S)
            else (" It is still running: restart the kernel to be rid of it.")
        )
        return NotYet(
            f"Your code was still running after {self.limit_wall_s:g} s.{survives}",
            "it comes to an end",
            "a loop whose end is never reached, or start_consuming() that nothing stops",
        )


_TO_ATTEMPT = (
    "Write your code in place of `raise NotImplementedError` or `...`, and run the cell again."
)


def _must_be_correct() -> bool:
    return os.environ.get("LABKIT_REQUIRE_CORRECT", "") not in ("", "0")


def _causes(failure: BaseException) -> list[BaseException]:
    """What led to a failure, the first cause first: a service wraps what a handler raised."""
    chain = [failure]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain[::-1]


def _line_of_the_learner(failure: BaseException, answer: object) -> str:
    """Where in the learner's code it was raised, else an empty text."""
    files = _files_of(answer)
    for frame, number in reversed(list(traceback.walk_tb(failure.__traceback__))):
        if _is_the_learners(frame, files):
            code = linecache.getline(frame.f_code.co_filename, number).strip()
            return f"line {number} of your cell: {code}" if code else f"line {number} of your cell"
    return ""


def _is_the_learners(frame: FrameType, files: set[str]) -> bool:
    return frame.f_globals.get("__name__") == "__main__" or frame.f_code.co_filename in files


def _files_of(answer: object) -> set[str]:
    """Where the code of a function, or of a class's methods, stands, unless that is labkit."""
    parts = [answer, *vars(answer if isinstance(answer, type) else type(answer)).values()]
    codes = [getattr(part, "__code__", None) for part in parts]
    files = {code.co_filename for code in codes if code is not None}
    return {file for file in files if not file.startswith(os.path.dirname(__file__))}


def _named(failure: BaseException) -> str:
    text = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {text}" if text else f"{type(failure).__name__}."


def _short(answer: object) -> str:
    return textwrap.shorten(repr(answer), 60, placeholder=" ...")
