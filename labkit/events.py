"""What happened in the shop, as a list of events that any thread may add to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.clock import Pace

if TYPE_CHECKING:
    import pandas as pd

#: Every kind of event, and what its `service` and `detail` mean. Nothing else is recorded.
KINDS = {
    "intended": "a customer means to order now (load); service `customer`, detail: the arrival's number",
    "sent": "the request left the customer; service `customer`",
    "answered": "the customer has an answer; service `customer`, detail: HTTP status, or `timeout`",
    "published": "a message was handed to the broker; detail: its routing key",
    "returned": "the broker gave an unroutable message back; detail: its routing key",
    "delivered": "a consumer has a message; detail: the queue",
    "redelivered": "the same, and the broker says that it was delivered before",
    "acked": "a consumer acknowledged; detail: the queue",
    "rejected": "a consumer rejected without requeue; detail: the queue",
    "requeued": "a consumer rejected with requeue; detail: the queue",
    "started": "a department begins its work on an order",
    "done": "a department has done its work; detail: the result in a word",
    "skipped": "a department's message inbox knew the message: nothing was done again",
    "failed": "a department could not do it; detail: why",
    "status": "the order service knows a new status of an order; detail: the status",
    "depth": "a queue's ready messages, sampled; service: the queue, detail: the number",
    "up": "a service runs",
    "stopped": "a service was stopped in good order",
    "crashed": "a service was crashed on purpose",
    "reconnecting": "a service lost its connection and tries again; detail: why",
    "planned": "a storm has a fault in its plan; service: its target, detail: what, when, how long",
    "fault": "a fault was brought about on purpose; service: its target, detail: its kind",
    "mended": "the same fault is over",
    "missed": "a planned fault found nothing to break; service and detail as of `fault`",
    "mark": "something worth a line in a plot; detail: its label",
}


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        wall: when, as `time.monotonic()` in real seconds.
        kind: what, one of `KINDS`.
        service: where: a department's or a queue's name.
        order_id: for which order, if for one.
        detail: a word or a number more, by kind.
    """

    wall: float
    kind: str
    service: str
    order_id: str | None = None
    detail: str | int | None = None


_WIDTH = len(Event._fields)


class Recorder:
    """Collects events from every thread; costs about a microsecond an event.

    Args:
        pace: turns the time of an event into shop time; one of the default speed if left out.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        # The fields of one event after another: a tuple for each would set off the garbage
        # collector, which cost a consumer a tenth of its rate (measured).
        self._fields: list[Any] = []

    def record(
        self,
        kind: str,
        service: str,
        order_id: str | None = None,
        detail: str | int | None = None,
        wall: float | None = None,
    ) -> None:
        """Notes that it happened now, or at `wall`, a reading of `time.monotonic()`."""
        # list.extend by a tuple is atomic, so no lock is needed.
        self._fields.extend(
            (time.monotonic() if wall is None else wall, kind, service, order_id, detail)
        )

    def __len__(self) -> int:
        return len(self._fields) // _WIDTH

    def __iter__(self) -> Iterator[Event]:
        fields = self._fields[:]
        return (Event(*fields[n : n + _WIDTH]) for n in range(0, len(fields), _WIDTH))

    def count(self, kind: str, service: str | None = None) -> int:
        """How many events of a kind there are, of one service or of all."""
        fields = self._fields[:]
        kinds, services = fields[1::_WIDTH], fields[2::_WIDTH]
        if service is None:
            return kinds.count(kind)
        return sum(k == kind and s == service for k, s in zip(kinds, services, strict=True))

    def clear(self) -> None:
        """Forgets everything, for the next experiment."""
        self._fields = []

    def frame(self) -> pd.DataFrame:
        """The events as a table, in the order in which they were recorded.

        Returns:
            A row an event, with the columns `time_s` (float, shop seconds since the recorder's
            pace began), `kind` and `service` (categories), `order_id` (str or None) and `detail`
            (str, int or None).
        """
        import numpy as np
        import pandas as pd

        fields = self._fields[:]
        number = len(fields) // _WIDTH

        def column(field: int) -> list[Any]:
            return fields[field::_WIDTH]

        def texts(field: int) -> pd.Series[Any]:
            values = np.empty(number, dtype=object)  # no guess at the type, row by row
            values[:] = column(field)
            return pd.Series(values, dtype=object)

        codes_of = {kind: code for code, kind in enumerate(KINDS)}
        kinds = np.fromiter(map(codes_of.__getitem__, column(1)), np.int8, number)
        wall = np.fromiter(column(0), float, number)
        return pd.DataFrame(
            {
                "time_s": self.pace.at(wall),  # type: ignore[arg-type]  # works on arrays alike
                "kind": pd.Categorical.from_codes(kinds, categories=pd.Index(list(KINDS))),
                "service": pd.Categorical(column(2)),
                "order_id": texts(3),
                "detail": texts(4),
            }
        )
