"""Shop time."""

import threading
import time

import pytest

from labkit.clock import Pace, default_speed
from labkit.errors import InputError


def test_ten_shop_seconds_pass_in_one_real_second_at_speed_10():
    pace = Pace(10)
    assert pace.to_wall(10) == 1
    assert pace.to_shop(1) == 10


def test_waiting_takes_the_shop_seconds_asked_for():
    pace = Pace(600)
    before = pace.now()
    pace.wait(60)
    assert 60 <= pace.now() - before < 18_000


def test_an_event_ends_a_wait_early():
    event = threading.Event()
    event.set()
    start = time.monotonic()
    assert Pace(1).wait(60, until=event)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
def test_a_speed_that_makes_no_sense_is_refused(speed):
    with pytest.raises(InputError, match="above 0"):
        Pace(speed)


def test_the_environment_sets_the_speed(monkeypatch):
    monkeypatch.setenv("LABKIT_SPEED", "17")
    assert Pace().speed == 17
    monkeypatch.delenv("LABKIT_SPEED")
    assert default_speed() == 10


@pytest.mark.parametrize("text", ["fast", "0", "-3"])
def test_a_speed_in_the_environment_that_makes_no_sense_is_refused(monkeypatch, text):
    monkeypatch.setenv("LABKIT_SPEED", text)
    with pytest.raises(InputError, match="speed"):
        Pace()
