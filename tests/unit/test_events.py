"""The recorder."""

import sys
import threading
import timeit

from labkit.clock import Pace
from labkit.events import KINDS, Recorder


def test_events_become_a_table_in_shop_time():
    recorder = Recorder(Pace(10))
    recorder.record("started", "payment", "order-1")
    recorder.record("done", "payment", "order-1", "charged")
    frame = recorder.frame()
    assert list(frame.columns) == ["time_s", "kind", "service", "order_id", "detail"]
    assert list(frame.kind) == ["started", "done"]
    assert list(frame.detail) == [None, "charged"]
    assert (frame.time_s >= 0).all()
    assert frame.time_s.is_monotonic_increasing


def test_an_empty_recorder_gives_an_empty_table_with_the_same_columns():
    frame = Recorder().frame()
    assert len(frame) == 0
    assert set(frame.kind.cat.categories) == set(KINDS)


def test_no_event_is_lost_when_many_threads_record():
    recorder = Recorder()

    def work():
        for _ in range(2000):
            recorder.record("done", "payment")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder) == recorder.count("done", "payment") == 16_000


def test_a_time_may_be_given_for_what_was_due_earlier():
    recorder = Recorder(Pace(1))
    recorder.record("intended", "customer", "order-1", 1, wall=1000.0)
    assert next(iter(recorder)).wall == 1000.0


def test_recording_stays_within_200_bytes_an_event():
    event = (1.0, "delivered", "payment", "order-1", "payment_processing")
    assert sys.getsizeof(event) + sys.getsizeof(event[0]) + 8 <= 200


def test_recording_takes_microseconds():
    recorder = Recorder()
    best = min(timeit.repeat(lambda: recorder.record("done", "payment"), number=1000, repeat=20))
    assert best / 1000 < 20e-6  # the figure itself is measured by `make bench`


def test_clear_forgets_everything():
    recorder = Recorder()
    recorder.record("done", "payment")
    recorder.clear()
    assert len(recorder) == 0
