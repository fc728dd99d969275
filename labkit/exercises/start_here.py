"""Exercise of notebook 00: one to try the buttons on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labkit.checks import Exercise, NotYet

Wait = Callable[[Sequence[float]], float]


def _check_total_wait(total_wait: Wait) -> None:
    for parts_s, expected_s in (([0.05, 3.0, 0.1, 2.0], 5.15), ([1.0, 1.0], 2.0), ([], 0.0)):
        seen_s = total_wait(parts_s)
        if seen_s is None:
            raise NotYet(
                f"total_wait({parts_s}) gives None",
                f"{expected_s:g}",
                "the function computes it and does not return it",
            )
        if abs(seen_s - expected_s) > 1e-9:
            causes = {
                **dict.fromkeys(
                    parts_s, "that is one part alone: a `return` inside a loop ends it"
                ),
                max(parts_s, default=0.0): "that is the longest part: right if all parts ran at "
                "the same time, and here each waits for the one before",
                len(parts_s): "that is how many parts there are, not how long they take",
            }
            raise NotYet(
                f"total_wait({parts_s}) gives {seen_s:g}",
                f"{expected_s:g}",
                causes.get(seen_s, "look at which parts went into it"),
            )


total_wait = Exercise(
    "total-wait",
    _check_total_wait,
    hints=[
        "The second part starts when the first is done. Draw the parts on a line of time.",
        "The customer waits from the start of the first part to the end of the last.",
        "Python has a function that adds up the numbers in a list.",
    ],
    solution="return sum(parts_s)",
    learned="One after another, every part adds to the wait. Notebook 01 starts from here.",
)
