"""Picks events out of a frame, and says clearly what is wrong with a frame that won't do."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from labkit.errors import InputError
from labkit.events import KINDS

COLUMNS = ("time_s", "kind", "service", "order_id", "detail")


def options(values: Iterable[object], most: int = 8) -> str:
    """Some values as a list for an error message."""
    names = [str(value) for value in values]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none at all") + more


def check_events(frame: pd.DataFrame) -> None:
    """Raises an `InputError` where a frame is not a frame of events."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(
            "These are no events.",
            f"a {type(frame).__name__} where a frame was expected",
            "pass what `recorder.frame()` gives",
        )
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(
            "This frame does not hold events.",
            f"no column {options(missing)}; there are: {options(frame.columns)}",
            "pass what `recorder.frame()` gives, with all its columns",
        )


def check_kind(kind: str) -> None:
    """Raises an `InputError` that lists the kinds where `kind` is none of them."""
    if kind not in KINDS:
        raise InputError(
            "There is no such kind of event.",
            f"kind={kind!r}",
            f"choose one of: {', '.join(KINDS)}",
        )


def events(frame: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """The events of some kinds, in the order of their time.

    Threads record side by side, so two events may stand in the frame the other way round.

    Raises:
        InputError: the frame is not a frame of events.
    """
    check_events(frame)
    chosen = frame[frame["kind"].isin(kinds)]
    if not chosen["time_s"].is_monotonic_increasing:
        chosen = chosen.sort_values("time_s", kind="stable")
    return chosen


def check_order(frame: pd.DataFrame, order_id: str) -> None:
    """Raises an `InputError` that lists orders where the frame has nothing about this one."""
    check_events(frame)
    if not (frame["order_id"] == order_id).any():
        raise InputError(
            "Nothing was recorded about this order.",
            f"order_id={order_id!r}",
            f"choose one of: {options(frame['order_id'].dropna().unique())}",
        )
