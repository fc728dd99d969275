"""In which order messages were sent, in which they were done, and how far the two differ."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit.errors import InputError
from labkit.measure.select import events


def customer_of(order_id: str) -> str:
    """Whose a message is, by its id: `anna-2`, her second, is anna's."""
    return order_id.rpartition("-")[0] or order_id


def overtaken(
    places: Iterable[float], groups: Sequence[Hashable] | None = None
) -> NDArray[np.int64]:
    """By how many later ones each was overtaken.

    Their sum is the number of overtakings, which mathematics calls inversions: pairs that came in
    the other order. It is 0 where the order was kept, and n(n - 1)/2 where it was turned round.

    Args:
        places: in which place each came in, in the order in which they set out; numbers that
            differ, or NaN for what has not come: that overtakes nothing, and counts as overtaken
            by all that came.
        groups: a group for each, such as its customer; only overtakings within one count.

    Returns:
        A number for each, in the order in which they set out.

    Raises:
        InputError: there are not as many groups as places.
    """
    order = np.asarray(list(places), dtype=float)
    if groups is not None and len(groups) != len(order):
        raise InputError(
            "Each message needs its group.",
            f"{len(order)} places, {len(groups)} groups",
            "pass one group for each place",
        )
    order = np.where(np.isnan(order), np.inf, order)
    found = np.zeros(len(order), dtype=np.int64)
    # From the last that set out to the first: who is behind, by the place in which each came in.
    behind: dict[Hashable, list[float]] = defaultdict(list)
    for n in range(len(order) - 1, -1, -1):
        mine = behind[groups[n] if groups is not None else None]
        found[n] = bisect_left(mine, order[n])
        insort(mine, order[n])
    return found


def sequence(
    frame: pd.DataFrame, customer: Callable[[str], Hashable] = customer_of
) -> pd.DataFrame:
    """Each message's place in the order of sending, and in the order in which the work was done.

    A message is known by its order id, which has to be its own. Where the work on one was done
    twice, as after a crash, the first time counts.

    Args:
        frame: events: `published` says what was sent, `started` and `done` what became of it.
        customer: whose a message is, by its order id; the default takes what stands before the
            last dash.

    Returns:
        A row a message, in the order of sending: `order_id`, `customer`, `sent` and `done` (its
        places, from 1; `done` is NaN while it is not), `published_s`, `started_s` (of the last
        start before it was done), `done_s`, `service` (who did it; None while nobody has),
        `overtaken` (how many messages that were sent later were done earlier) and
        `overtaken_by_own` (how many of those are the same customer's).

    Raises:
        InputError: the frame is not a frame of events, or holds nothing that was published.
    """
    sent = events(frame, "published").drop_duplicates("order_id")
    sent = sent[sent["order_id"].notna()]
    if not len(sent):
        raise InputError(
            "Nothing was sent, so there is no order to look at.",
            "no event of the kind `published` with an order id",
            'note what is sent: recorder.record("published", "order_service", order_id)',
        )
    ids = list(sent["order_id"])
    started: dict[tuple[Any, Any], float] = {}
    ended: dict[Any, tuple[int, float, float, Any]] = {}
    work = events(frame, "started", "done")
    names = ["time_s", "kind", "service", "order_id"]
    for time_s, kind, service, order in work[names].itertuples(index=False, name=None):
        if kind == "started":
            started[service, order] = time_s
        elif order not in ended:
            begun = started.get((service, order), np.nan)
            ended[order] = (len(ended) + 1, begun, time_s, service)
    rows = [ended.get(order, (np.nan, np.nan, np.nan, None)) for order in ids]
    places = [place for place, *_ in rows]
    owners = [customer(order) for order in ids]
    return pd.DataFrame(
        {
            "order_id": ids,
            "customer": owners,
            "sent": np.arange(1, len(ids) + 1),
            "done": np.array(places, dtype=float),
            "published_s": sent["time_s"].to_numpy(dtype=float),
            "started_s": np.array([begun for _, begun, _, _ in rows], dtype=float),
            "done_s": np.array([time_s for _, _, time_s, _ in rows], dtype=float),
            "service": pd.Series([service for *_, service in rows], dtype=object),
            "overtaken": overtaken(places),
            "overtaken_by_own": overtaken(places, owners),
        }
    )
