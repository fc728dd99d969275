"""What waits in queues: backlog, messages in hand, and how long a message stayed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labkit.measure.select import events

#: A message may reach its consumer before the publisher has its confirm and notes that it has
#: published. So much earlier, in shop seconds, a delivery may stand in the record.
CONFIRM_DELAY_S = 0.1


def backlog(frame: pd.DataFrame) -> pd.DataFrame:
    """How many messages were ready in each queue, from the `depth` events.

    Returns:
        Indexed by `time_s`, a row a moment of sampling; a column a queue, in alphabetical order,
        with whole numbers. Between two samples of a queue the earlier one holds; before its first
        a queue counts as empty.

    Raises:
        InputError: the frame is not a frame of events.
    """
    samples = events(frame, "depth")
    codes, queues = pd.factorize(samples["service"].to_numpy(dtype=object), sort=True)
    # A column of small whole numbers: their own type is worth asking for, it is many times faster.
    ready = samples["detail"].to_numpy(dtype=object).astype(np.int64)
    time_s = samples["time_s"].to_numpy(dtype=float)
    return _steps(time_s, codes, ready, list(queues))


def _steps(
    time_s: NDArray[Any], codes: NDArray[Any], level: NDArray[Any], queues: list[Any]
) -> pd.DataFrame:
    """Levels by queue as a wide frame in which each holds until the next.

    Args:
        time_s: when, ascending; shape (n,).
        codes: of which queue, as its position in `queues`; shape (n,).
        level: the level from then on; shape (n,).
        queues: the names of the columns.
    """
    # The last of several events at one moment counts.
    last = np.append(time_s[1:] != time_s[:-1], True) if len(time_s) else np.zeros(0, dtype=bool)
    moment = np.cumsum(np.append(0, last[:-1])) if len(time_s) else np.zeros(0, dtype=np.intp)
    columns = {}
    for code, queue in enumerate(queues):
        mine = codes == code
        latest = np.zeros(int(last.sum()), dtype=np.intp)
        latest[moment[mine]] = np.arange(1, int(mine.sum()) + 1)
        columns[queue] = np.append(0, level[mine])[np.maximum.accumulate(latest)]
    index = pd.Index(time_s[last], name="time_s", dtype=float)
    return pd.DataFrame(columns, index=index, columns=pd.Index(queues, name="queue", dtype=object))


def peak(frame: pd.DataFrame) -> pd.DataFrame:
    """The highest backlog of each queue.

    Args:
        frame: events.

    Returns:
        Indexed by `queue`: `peak` (messages), `at_s` (when it was first reached) and `last` (what
        was there at the end).

    Raises:
        InputError: the frame is not a frame of events.
    """
    depths = backlog(frame)
    return pd.DataFrame(
        {
            "peak": depths.max().astype(int) if len(depths) else pd.Series(dtype=int),
            "at_s": depths.idxmax().astype(float) if len(depths) else pd.Series(dtype=float),
            "last": depths.iloc[-1].astype(int) if len(depths) else pd.Series(dtype=int),
        },
        index=depths.columns,
    )


def in_flight(frame: pd.DataFrame) -> pd.DataFrame:
    """How many messages were in a consumer's hands: delivered, and not yet answered.

    An ack, a reject or a requeue ends it, and so does a crash of the consumer. A redelivery of an
    order that is still noted as in hand takes the place of the earlier delivery, whose connection
    was lost.

    Returns:
        As `backlog`: indexed by `time_s`, a column a queue, whole numbers.

    Raises:
        InputError: the frame is not a frame of events.
    """
    begins, ends = ("delivered", "redelivered"), ("acked", "rejected", "requeued")
    chosen = events(frame, *begins, *ends, "crashed")
    held: dict[Any, Counter[Any]] = defaultdict(Counter)  # by (service, queue): orders in hand
    total: Counter[Any] = Counter()
    changes: list[tuple[float, Any, int]] = []

    def change(time_s: float, queue: Any, by: int) -> None:
        total[queue] += by
        changes.append((time_s, queue, total[queue]))

    columns = ("time_s", "kind", "service", "order_id", "detail")
    for time_s, kind, service, order, queue in zip(
        *(chosen[name].to_numpy(dtype=object) for name in columns), strict=True
    ):
        if kind == "crashed":
            for (owner, its_queue), orders in held.items():
                if owner == service and orders.total():
                    change(time_s, its_queue, -orders.total())
                    orders.clear()
            continue
        mine = held[service, queue]
        if kind in begins:
            lost = kind == "redelivered" and mine[order] > 0
            mine[order] += 0 if lost else 1
            change(time_s, queue, 0 if lost else 1)
        elif mine[order] > 0:
            mine[order] -= 1
            change(time_s, queue, -1)
    queues = sorted({queue for _, queue, _ in changes})
    position = {queue: code for code, queue in enumerate(queues)}
    return _steps(
        np.array([time_s for time_s, _, _ in changes], dtype=float),
        np.array([position[queue] for _, queue, _ in changes], dtype=np.intp),
        np.array([level for _, _, level in changes], dtype=np.int64),
        queues,
    )


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange's binding pattern takes a routing key.

    Words are parted by dots; `*` stands for one word, `#` for any number, none included.
    """
    head, *rest = pattern.split(".")
    words = routing_key.split(".") if routing_key else []
    if head == "#":
        if not rest:
            return True
        return any(
            matches(".".join(rest), ".".join(words[skip:])) for skip in range(len(words) + 1)
        )
    if not words:
        return pattern == ""
    if head not in ("*", words[0]):
        return False
    return matches(".".join(rest), ".".join(words[1:])) if rest else len(words) == 1


def waits(
    frame: pd.DataFrame, bindings: Iterable[tuple[str, str, str]] | None = None
) -> pd.DataFrame:
    """How long each message stayed in its queue: from `published` to `delivered`.

    A publisher notes a routing key, a consumer a queue. What joins them is the order and, where it
    is given, the bindings: with them, the n-th message of an order that they route to the queue is
    its n-th delivery. Without them a delivery belongs to the order's latest message before it;
    that holds unless a second message of the same order is published while the first still waits.
    Redeliveries are left out.

    Args:
        frame: events.
        bindings: `(exchange, routing key, queue)`, with `*` and `#` as in a topic exchange.

    Returns:
        A row a delivery, in the order of delivery: `order_id`, `queue`, `service` (the consumer),
        `publisher`, `routing_key`, `published_s`, `delivered_s` and `wait_s` (at least 0). Where
        no message of the order was noted before it, publisher and key are None, times NaN.

    Raises:
        InputError: the frame is not a frame of events.
    """
    keys_of: Mapping[str, list[str]] | None = None
    if bindings is not None:
        keys_of = defaultdict(list)
        for _, key, queue in bindings:
            keys_of[queue].append(key)
    published: dict[Any, list[tuple[float, Any, Any]]] = defaultdict(list)
    names = ["time_s", "service", "order_id", "detail"]
    sent = events(frame, "published")
    for time_s, service, order, key in sent[names].itertuples(index=False, name=None):
        published[order].append((time_s, service, key))
    taken: Counter[tuple[Any, Any]] = Counter()
    rows = []
    got = events(frame, "delivered")
    for time_s, service, order, queue in got[names].itertuples(index=False, name=None):
        messages = published.get(order, [])
        message: tuple[float, Any, Any] | None = None
        if keys_of is not None:
            patterns = keys_of.get(queue, [])
            messages = [m for m in messages if any(matches(p, str(m[2] or "")) for p in patterns)]
            nth = taken[order, queue]
            taken[order, queue] += 1
            message = messages[nth] if nth < len(messages) else None
        else:
            before = [m for m in messages if m[0] <= time_s + CONFIRM_DELAY_S]
            message = before[-1] if before else None
        published_s, publisher, routing_key = message or (np.nan, None, None)
        rows.append((order, queue, service, publisher, routing_key, published_s, time_s))
    columns = ["order_id", "queue", "service", "publisher", "routing_key", "published_s"]
    table = pd.DataFrame(rows, columns=[*columns, "delivered_s"])
    table = table.astype({"published_s": float, "delivered_s": float})
    table["wait_s"] = (table["delivered_s"] - table["published_s"]).clip(lower=0)
    return table
