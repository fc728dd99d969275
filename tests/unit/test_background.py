"""Threads that can be stopped, and whose failures are seen."""

import threading

import pytest

from labkit.amqp import publish
from labkit.background import Background, Crashed, checkpoint, stop_all, works_for
from labkit.clock import Pace
from labkit.errors import InputError, LabError, ServiceError
from labkit.shop.database import Database
from labkit.shop.departments import _post


def test_stop_ends_a_thread_that_looks_at_its_event():
    with Background("waiter", lambda stop: stop.wait(60)) as background:
        assert background.running
    assert not background.running


def test_stop_may_be_called_twice_and_before_start():
    background = Background("idle", lambda stop: stop.wait(60))
    background.stop()
    background.start()
    background.stop()
    background.stop()
    assert not background.running


def test_a_failure_in_the_thread_is_raised_where_someone_looks():
    background = Background("broken", lambda _: 1 / 0).start()
    assert background.join(10)
    with pytest.raises(ServiceError, match="broken failed in the background") as caught:
        background.raise_if_failed()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(ServiceError):
        background.stop()


def test_an_error_made_for_the_reader_comes_through_as_it_is():
    def fail(_):
        raise InputError("Wrong.", "this", "that")

    background = Background("picky", fail).start()
    background.join(10)
    with pytest.raises(InputError, match="Wrong"):
        background.raise_if_failed()


def test_a_thread_that_does_not_stop_is_named():
    release = threading.Event()
    stubborn = Background("stubborn", lambda _: release.wait(60)).start()
    with pytest.raises(ServiceError, match="stubborn"):
        stubborn.stop(timeout_wall_s=0.05)
    with pytest.raises(ServiceError, match="still ending"):
        stubborn.start()
    release.set()
    stubborn.stop()


def test_all_are_signalled_before_any_is_joined():
    order = []

    def waits_for_the_other(mine, other):
        def run(stop):
            stop.wait(60)
            order.append(mine)
            other.wait(60)

        return run

    first, second = threading.Event(), threading.Event()
    a = Background("a", waits_for_the_other("a", second), wake=first.set).start()
    b = Background("b", waits_for_the_other("b", first), wake=second.set).start()
    stop_all([a, b], timeout_wall_s=10)
    assert sorted(order) == ["a", "b"]


def test_abandon_ends_a_loop_that_never_ends_without_a_failure():
    at_work, went_on = threading.Event(), []

    def work(_):
        at_work.set()
        for _ in range(2000):
            threading.Event().wait(0.01)
        went_on.append(True)

    background = Background("worker", work).start()
    assert at_work.wait(10)
    background.abandon()
    assert background.join(10)
    background.raise_if_failed()
    assert not went_on


def test_a_crash_is_no_exception_that_a_handler_would_catch():
    assert not issubclass(Crashed, Exception)


def test_an_error_says_what_failed_what_was_seen_and_what_to_do():
    error = LabError("No broker.", "nobody at 127.0.0.1", ["start one", "or name one"])
    assert str(error).splitlines() == [
        "No broker.",
        "  Seen:  nobody at 127.0.0.1",
        "  To do: start one",
        "  To do: or name one",
    ]
    assert error._render_traceback_() == [f"LabError: {error}"]


def test_a_crash_ends_a_wait_at_once_and_lets_no_commit_and_no_message_through(tmp_path):
    database = Database(tmp_path / "work.db", "CREATE TABLE done (what TEXT)")
    effects = {
        "wait": lambda: Pace(1).wait(600),
        "commit": lambda: database.write("INSERT INTO done VALUES ('it')"),
        "message": lambda: publish(None, "", "queue", b""),  # it does not come to the channel
        "request": lambda: _post("http://127.0.0.1:1", {}, {}, "nobody"),
    }
    for effect in effects.values():
        at_work, crashed, went_on = threading.Event(), threading.Event(), []

        def work(_, effect=effect, at_work=at_work, crashed=crashed, went_on=went_on):
            at_work.set()
            crashed.wait(10)
            effect()
            went_on.append(True)

        background = Background("worker", work).start()
        assert at_work.wait(10)
        background.crash()
        crashed.set()
        assert background.join(10)
        assert (background.failure, went_on) == (None, [])
    assert database.rows("SELECT * FROM done") == []
    database.close()


def test_a_crash_that_comes_during_a_wait_ends_it():
    background = Background("worker", lambda _: Pace(1).wait(600)).start()
    background.crash()
    assert background.join(10)
    assert background.failure is None


def test_a_thread_works_for_the_innermost_service_and_then_for_the_outer_one_again():
    outer, inner = threading.Event(), threading.Event()
    inner.set()
    with works_for(outer):
        with pytest.raises(Crashed), works_for(inner):
            checkpoint()
        checkpoint()
    checkpoint()  # a thread that works for no service
