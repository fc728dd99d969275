"""From the recorder's events to measures: response and completion times, spans, backlog, rates.

Every function takes the frame that `Recorder.frame()` makes, leaves it as it is, and gives a new
one. All times and durations are shop seconds.

Two conventions hold everywhere. What has not happened (an order without an answer, a span without
an end) is NaN and stays in the table. Where something happens to the same order more than once,
the first beginning belongs to the first end, the second to the second: first in, first out.
"""

from labkit.measure.order import overtaken, sequence
from labkit.measure.queues import backlog, in_flight, peak, waits
from labkit.measure.times import (
    TERMINAL,
    completion_times,
    ecdf,
    percentiles,
    response_times,
    spans,
    throughput,
)

__all__ = [
    "TERMINAL",
    "backlog",
    "completion_times",
    "ecdf",
    "in_flight",
    "overtaken",
    "peak",
    "percentiles",
    "response_times",
    "sequence",
    "spans",
    "throughput",
    "waits",
]
