"""Predictions: what a learner commits to before an experiment, and whether it held."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from labkit.errors import InputError

#: So many characters fit into a line of a notebook's output.
WIDTH = 92


class Quiet:
    """Printed already: as a cell's last line it shows nothing more."""

    def _ipython_display_(self) -> None:
        return None


class Prediction(Quiet):
    """What a learner expects of an experiment; made by `predict`.

    Attributes:
        options: the possible outcomes, by their key.
        answer: the key that the learner chose, or None.
    """

    def __init__(self, options: Mapping[str, str], answer: str | None) -> None:
        self.options = dict(options)
        self.answer = answer

    def reveal(self, measured: str, because: str = "") -> None:
        """Prints what was measured, and whether the prediction held.

        Args:
            measured: the key of the option that came true.
            because: what was seen; the same on every run, if nbval is to compare the output.

        Raises:
            InputError: `measured` is not one of the options.
        """
        if measured not in self.options:
            raise InputError(
                "This can't be what was measured.",
                f"measured={measured!r}",
                f"give one of the options: {_listed(self.options)}",
            )
        print(f"Measured: {measured}, {self.options[measured]}")
        if because:
            print(block("  ", because))
        if self.answer is None:
            print("You made no prediction. Set one above and run both cells again to compare.")
        elif self.answer == measured:
            print(f"You predicted {self.answer}: it held.")
        else:
            print(
                f"You predicted {self.answer}, {self.options[self.answer]}: it did not hold. "
                "Worth a minute: what did you assume that is not so?"
            )


def predict(question: str, options: Mapping[str, str], answer: object = None) -> Prediction:
    """Asks what will happen, before it does, and prints what the learner commits to.

    Args:
        question: what is to be foreseen.
        options: the possible outcomes by their key, such as `{"a": "the sum", "b": ...}`.
        answer: the key that the learner chooses; None as long as there is none.

    Returns:
        The prediction, whose `reveal` compares it with what was measured. An answer that is
        none of the options is named with those that there are, and counts as none.
    """
    print(block("", question))
    for key, text in options.items():
        print(block(f"  {key}  ", text))
    chosen = _chosen(options, answer)
    if chosen is not None:
        print(f"Your prediction: {chosen}, {options[chosen]}")
    elif answer is None or answer is ...:
        print(f"No prediction yet: set answer to {_listed(options)}. Going on.")
    else:
        print(f"There is no option {answer!r}: set answer to {_listed(options)}. Going on.")
    return Prediction(options, chosen)


def _chosen(options: Mapping[str, str], answer: object) -> str | None:
    wanted = str(answer).strip().casefold()
    return next((key for key in options if key.casefold() == wanted), None)


def _listed(options: Mapping[str, str]) -> str:
    *first, last = (f'"{key}"' for key in options)
    return f"{', '.join(first)} or {last}" if first else last


def block(first: str, text: str) -> str:
    """A text behind its label, its further lines under the first, none wider than a notebook."""
    lines = [part for line in text.splitlines() for part in _wrapped(line, WIDTH - len(first))]
    return "\n".join((first if n == 0 else " " * len(first)) + line for n, line in enumerate(lines))


def _wrapped(line: str, width: int) -> list[str]:
    label = re.match(r"\s*([A-Z]\w+:\s+)?", line)
    under = " " * (label.end() if label else 0)
    parts = textwrap.wrap(
        line, width, subsequent_indent=under, break_long_words=False, break_on_hyphens=False
    )
    return parts or [""]
