"""What the recorder costs, and how long a million events take to become a picture."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import timeit
import tracemalloc

from benchmarks.figures import ROUNDS, Figure, median_of

EVENTS = 1_000_000


def one_event() -> list[Figure]:
    """Time and memory of one event."""
    from labkit.events import Recorder

    recorder = Recorder()
    number = 200_000

    def seconds() -> float:
        recorder.clear()
        run = lambda: recorder.record("delivered", "payment", "order-1", "queue")  # noqa: E731
        return timeit.timeit(run, number=number) / number * 1e6

    microseconds, note = median_of(seconds)
    ids = [f"order-{n:06d}" for n in range(number)]
    recorder.clear()
    tracemalloc.start()
    for order_id in ids:
        recorder.record("delivered", "payment", order_id, "queue")
    size = tracemalloc.get_traced_memory()[0] / number
    tracemalloc.stop()
    return [
        Figure("recording one event, time", microseconds, 2, unit="µs", note=note),
        Figure("recording one event, memory", size, 200, unit="bytes"),
    ]


def million_events() -> list[Figure]:
    """In a fresh process: events to frames to the backlog plot."""
    seconds, gibibytes = [], []
    for _ in range(ROUNDS):
        out = subprocess.run(
            [sys.executable, "-m", "benchmarks.recording"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        measured = json.loads(out)
        seconds.append(measured["seconds"])
        gibibytes.append(measured["gibibytes"])
    name = "a million events to three frames and the backlog plot"
    values = iter(sorted(seconds))
    median, note = median_of(lambda: next(values))
    return [
        Figure(f"{name}, time", median, 3, unit="s", note=note),
        Figure(f"{name}, memory at its peak", max(gibibytes), 1.5, unit="GiB"),
    ]


def _million() -> None:
    from labkit import measure, plots
    from labkit.clock import Pace
    from labkit.events import Recorder

    recorder = Recorder(Pace(10))
    orders = EVENTS // 10
    for n in range(orders):
        order_id, at = f"order-{n:06d}", n * 0.001
        for kind, service, detail, later in (
            ("intended", "customer", n, 0.0),
            ("sent", "customer", n, 0.001),
            ("answered", "customer", 202, 0.004),
            ("status", "order_service", "pending", 0.003),
            ("started", "payment", None, 0.1),
            ("done", "payment", "charged", 0.4),
            ("status", "order_service", "paid", 0.41),
            ("status", "order_service", "completed", 0.7),
        ):
            recorder.record(kind, service, order_id, detail, wall=at + later)
        for queue in ("payment_processing", "shipping_labels"):
            recorder.record("depth", queue, None, n % 50, wall=at)
    start = time.perf_counter()
    frame = recorder.frame()
    measure.response_times(frame)
    measure.completion_times(frame)
    measure.backlog(frame)
    ax = plots.backlog(frame)
    plots.png(ax)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss is in KiB on Linux, in bytes on macOS (getrusage(2)).
    gibibytes = peak / 2 ** (30 if sys.platform == "darwin" else 20)
    print(json.dumps({"seconds": seconds, "gibibytes": gibibytes}))


if __name__ == "__main__":
    _million()
