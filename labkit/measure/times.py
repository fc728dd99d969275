"""How long orders and departments took, and how those times are spread."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from labkit.errors import InputError
from labkit.measure.select import check_kind, check_order, events, options

Floats = NDArray[np.float64]

#: The statuses that end an order.
TERMINAL = ("completed", "declined")


def _occurrence(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each code, how often it stood further up: 0 for the first time."""
    if len(codes) == 0 or np.bincount(codes).max() <= 1:
        return np.zeros(len(codes), dtype=np.intp)
    return np.asarray(pd.Series(codes).groupby(codes).cumcount(), dtype=np.intp)


def _outcome(detail: Any) -> Any:
    """An HTTP status as an int, any other word as it is."""
    return int(detail) if isinstance(detail, str) and detail.isdecimal() else detail


def response_times(frame: pd.DataFrame) -> pd.DataFrame:
    """How long each customer waited for an answer.

    The wait counts from the moment at which the customer *meant* to order. Where the sender fell
    behind, its delay is part of the wait, as it would be for the customer.

    Returns:
        A row an arrival, in the order of arrival: `order_id`, `intended_s` (`sent_s` where no
        `intended` was recorded), `sent_s`, `answered_s`, `response_s` (answered minus intended;
        NaN without an answer) and `outcome` (the HTTP status as an int, else a word such as
        `timeout`; None without an answer). A customer who orders twice under one id has two rows.

    Raises:
        InputError: the frame is not a frame of events.
    """
    chosen = events(frame, "intended", "sent", "answered")
    chosen = chosen[chosen["order_id"].notna()]
    codes, ids = pd.factorize(chosen["order_id"].to_numpy(dtype=object))
    kind = chosen["kind"].to_numpy()
    time_s = chosen["time_s"].to_numpy(dtype=float)

    at: dict[str, tuple[NDArray[np.intp], Any]] = {}
    for name in ("intended", "sent", "answered"):
        of_kind = kind == name
        mine = codes[of_kind]
        # One number for "the n-th time that this order did it": the row that it goes into.
        at[name] = (mine + _occurrence(mine) * max(len(ids), 1), of_kind)
    keys = np.unique(np.concatenate([key for key, _ in at.values()]))

    columns: dict[str, Any] = {"order_id": ids[keys % max(len(ids), 1)] if len(ids) else []}
    for name, (key, of_kind) in at.items():
        column = np.full(len(keys), np.nan)
        column[np.searchsorted(keys, key)] = time_s[of_kind]
        columns[f"{name}_s"] = column
    columns["intended_s"] = np.where(
        np.isnan(columns["intended_s"]), columns["sent_s"], columns["intended_s"]
    )
    columns["response_s"] = columns["answered_s"] - columns["intended_s"]
    outcome = np.full(len(keys), None, dtype=object)
    key, of_kind = at["answered"]
    details = chosen["detail"].to_numpy(dtype=object)[of_kind]
    outcome[np.searchsorted(keys, key)] = [_outcome(detail) for detail in details]
    columns["outcome"] = pd.Series(outcome, dtype=object)
    table = pd.DataFrame(columns)
    return table.sort_values("intended_s", kind="stable", ignore_index=True)


def completion_times(frame: pd.DataFrame, terminal: Sequence[str] = TERMINAL) -> pd.DataFrame:
    """How long each order took until all the work on it was done.

    Args:
        frame: events.
        terminal: the statuses that end an order.

    Returns:
        A row an order, in the order of creation: `order_id`, `created_s` (the first `intended`,
        else the first `status`), `completed_s` (the first terminal status), `completion_s` (the
        difference; both NaN while the order is under way) and `status` (the terminal one, else the
        latest known, else None).

    Raises:
        InputError: the frame is not a frame of events.
    """
    chosen = events(frame, "intended", "status")
    chosen = chosen[chosen["order_id"].notna()]
    codes, ids = pd.factorize(chosen["order_id"].to_numpy(dtype=object))
    time_s = chosen["time_s"].to_numpy(dtype=float)
    is_status = (chosen["kind"] == "status").to_numpy()
    details = chosen["detail"].to_numpy(dtype=object)
    ends = is_status & pd.Series(details, dtype=object).isin(list(terminal)).to_numpy()

    def first(mask: NDArray[np.bool_]) -> Floats:
        """The time of each order's first event of these; from the last to the first, so it stays."""
        column = np.full(len(ids), np.nan)
        column[codes[mask][::-1]] = time_s[mask][::-1]
        return column

    intended_s, status_s, completed_s = first(~is_status), first(is_status), first(ends)
    status = np.full(len(ids), None, dtype=object)
    status[codes[is_status]] = details[is_status]
    status[codes[ends][::-1]] = details[ends][::-1]
    created_s = np.where(np.isnan(intended_s), status_s, intended_s)
    table = pd.DataFrame(
        {
            "order_id": ids,
            "created_s": created_s,
            "completed_s": completed_s,
            "completion_s": completed_s - created_s,
            "status": pd.Series(status, dtype=object),
        }
    )
    return table.sort_values("created_s", kind="stable", ignore_index=True)


def spans(frame: pd.DataFrame, order_id: str | None = None) -> pd.DataFrame:
    """The pieces of work: from `started` to `done` or `failed`, by service and order.

    Args:
        frame: events.
        order_id: keeps one order's alone.

    Returns:
        A row a span, in the order of their starts: `order_id`, `service`, `start_s`, `end_s`,
        `duration_s` (NaN where it has not ended) and `result` (the detail of `done`; `failed`;
        `crashed` where the service was crashed meanwhile; None where it has not ended).

    Raises:
        InputError: the frame is not a frame of events, or has nothing about this order.
    """
    if order_id is not None:
        check_order(frame, order_id)
    chosen = events(frame, "started", "done", "failed", "crashed")
    if order_id is not None:
        chosen = chosen[(chosen["order_id"] == order_id) | (chosen["kind"] == "crashed")]
    rows: list[list[Any]] = []
    # By service, then order: the rows that have not ended, oldest first.
    open_rows: dict[str, dict[Any, deque[list[Any]]]] = defaultdict(lambda: defaultdict(deque))
    for time_s, kind, service, order, detail in zip(
        *(chosen[name].to_numpy(dtype=object) for name in chosen.columns[:5]), strict=True
    ):
        if kind == "started":
            row = [order, service, time_s, np.nan, None]
            rows.append(row)
            open_rows[service][order].append(row)
        elif kind == "crashed":
            # Its work goes no further; a redelivery starts it anew.
            for row in (row for mine in open_rows.pop(service, {}).values() for row in mine):
                row[3:] = time_s, "crashed"
        elif mine := open_rows[service][order]:
            mine.popleft()[3:] = time_s, ("failed" if kind == "failed" else detail)
    table = pd.DataFrame(rows, columns=["order_id", "service", "start_s", "end_s", "result"])
    table = table.astype({"start_s": float, "end_s": float, "result": object})
    table.insert(4, "duration_s", table["end_s"] - table["start_s"])
    return table


def _sorted(values: ArrayLike) -> tuple[Floats, int]:
    """The values that are there, ascending, and how many there are with those that are not."""
    try:
        numbers = np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError):
        raise InputError(
            "These values are not numbers.", f"{values!r:.80}", "pass one column of a frame"
        ) from None
    there = np.sort(numbers[~np.isnan(numbers)])
    if not len(there):
        raise InputError(
            "There is nothing to count.",
            f"{len(numbers)} values, none of them a number" if len(numbers) else "no values",
            "run the experiment first, and check that its events were recorded",
        )
    return there, len(numbers)


def ecdf(values: ArrayLike) -> pd.DataFrame:
    """The empirical distribution: which fraction of the values is at most this long.

    A NaN is something that never happened, so it is longer than every value: it counts in the
    whole, and the fractions then end below 1.

    Returns:
        A row a different value, ascending: `value` and `fraction` (above 0, at most 1).

    Raises:
        InputError: no values, none that is a number, or something else than numbers.
    """
    there, total = _sorted(values)
    value, count = np.unique(there, return_counts=True)
    return pd.DataFrame({"value": value, "fraction": np.cumsum(count) / total})


def percentiles(values: ArrayLike, q: Sequence[float] = (50, 95, 99)) -> pd.Series[float]:
    """The values that q per cent of all do not exceed.

    By the nearest-rank method: the smallest value that at least q per cent are at most as long as.
    It is always a value that was measured, never one in between. A NaN counts as longer than every
    value, so a percentile that falls among those is infinite.

    Returns:
        A series indexed by `p50`, `p95` and so on.

    Raises:
        InputError: no values, none that is a number, or a q outside 0 to 100.
    """
    there, total = _sorted(values)
    wrong = [each for each in q if not 0 <= each <= 100]
    if wrong:
        raise InputError(
            "There is no such percentile.", f"q={options(wrong)}", "choose from 0 to 100"
        )
    # Rounded first: 0.07 * 100 is a little more than 7, and would take the next rank.
    ranks = [max(1, int(np.ceil(round(each * total / 100, 9)))) for each in q]
    found = [there[rank - 1] if rank <= len(there) else np.inf for rank in ranks]
    return pd.Series(found, index=[f"p{each:g}" for each in q], dtype=float)


def throughput(
    frame: pd.DataFrame, kind: str = "done", service: str | None = None, window_s: float = 1.0
) -> pd.DataFrame:
    """How often something happens, window by window.

    Args:
        frame: events.
        kind: which; one of `labkit.events.KINDS`.
        service: of which service; of all if left out.
        window_s: how long a window is, in shop seconds.

    Returns:
        A row a window, from the frame's first event to its last, silent windows included:
        `time_s` (the window's beginning) and `per_s` (events in a shop second). The last window is
        seldom full, so its rate is low.

    Raises:
        InputError: there is no such kind or service, or the window is not above 0.
    """
    check_kind(kind)
    if not (window_s > 0 and np.isfinite(window_s)):
        raise InputError(
            "A window needs a length.", f"window_s={window_s!r}", "choose more than 0 s"
        )
    chosen = events(frame, kind)
    if service is not None:
        known = frame["service"].dropna().unique()
        if service not in list(known):
            raise InputError(
                "No event is of this service.",
                f"service={service!r}",
                f"choose one of: {options(sorted(known))}",
            )
        chosen = chosen[chosen["service"] == service]
    if not len(frame):
        return pd.DataFrame({"time_s": [], "per_s": []}, dtype=float)
    first = np.floor(frame["time_s"].min() / window_s)
    count = int(np.floor(frame["time_s"].max() / window_s) - first) + 1
    window = (np.floor(chosen["time_s"].to_numpy() / window_s) - first).astype(np.intp)
    per_s = np.bincount(window, minlength=count) / window_s
    return pd.DataFrame({"time_s": (first + np.arange(count)) * window_s, "per_s": per_s})
