"""The errors that labkit raises: each says what failed, what was seen and what to do."""

from __future__ import annotations

import sys
from collections.abc import Sequence


class LabError(Exception):
    """Something that the reader of the message can mend.

    Args:
        failed: what could not be done, in a few words.
        seen: what was observed.
        to_do: how to mend it; one line, or several.

    In a notebook it shows as these three parts alone, without a traceback of labkit's insides.
    """

    def __init__(self, failed: str, seen: str = "", to_do: str | Sequence[str] = "") -> None:
        self.failed = failed
        self.seen = seen
        self.to_do = [to_do] if isinstance(to_do, str) else list(to_do)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.failed]
        if self.seen:
            lines.append(f"  Seen:  {self.seen}")
        lines += [f"  To do: {step}" for step in self.to_do if step]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type, tuple[str, str, list[str]]]:
        return type(self), (self.failed, self.seen, self.to_do)

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class BrokerError(LabError):
    """No broker could be found, started, reached or stopped."""


class ServiceError(LabError):
    """A background service failed, or did not stop in time."""


class MessageError(LabError):
    """A message or an order does not hold what it must."""


class InputError(LabError, ValueError):
    """A value that the caller passed makes no sense."""


def report(error: LabError) -> int:
    """Prints an error to stderr as its message alone; gives the exit status for a command."""
    print(f"labkit: {error}", file=sys.stderr)
    return 1
