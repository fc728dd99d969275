"""Customers who come whether or not the last one was served."""

import threading

import pytest

from labkit.clock import Pace
from labkit.errors import InputError
from labkit.events import Recorder
from labkit.load import Customers, basket, constant, poisson


def test_constant_arrivals_have_equal_distances():
    assert constant(2, 4) == [0, 0.5, 1.0, 1.5]


def test_poisson_arrivals_ascend_repeat_by_seed_and_have_the_rate_asked_for():
    times = poisson(2, 5000, seed=7)
    assert times == sorted(times) == poisson(2, 5000, seed=7)
    assert times != poisson(2, 5000, seed=8)
    assert len(times) == 5000
    assert times[-1] == pytest.approx(2500, rel=0.1)


@pytest.mark.parametrize("arrivals", [constant, lambda r, n: poisson(r, n, seed=1)])
@pytest.mark.parametrize(("rate", "customers"), [(0, 5), (-1, 5), (float("nan"), 5), (1, 0)])
def test_a_rate_or_number_that_makes_no_sense_is_refused(arrivals, rate, customers):
    with pytest.raises(InputError, match="above 0"):
        arrivals(rate, customers)


def test_a_late_answer_does_not_delay_the_next_arrival():
    everyone_is_in = threading.Barrier(5)

    def send(_):
        everyone_is_in.wait(20)  # breaks unless all five are inside at the same time
        return 201

    recorder = Recorder(Pace(20))
    with Customers(send, constant(1, 5), recorder.pace, recorder) as customers:
        customers.wait()
    frame = recorder.frame()
    assert list(frame[frame.kind == "answered"].detail) == [201] * 5
    # Each customer's own thread records it, so two rows may come in the other order.
    intended = frame[frame.kind == "intended"].sort_values("time_s")
    assert list(intended.order_id) == [basket(n)["basket"] for n in range(1, 6)]
    assert list(intended.time_s.diff().dropna().round(6)) == [1.0] * 4


def test_a_shop_that_is_not_there_is_recorded_as_the_answer():
    import requests

    def send(_):
        raise requests.ConnectionError

    recorder = Recorder(Pace(20))
    with Customers(send, [0.0], recorder.pace, recorder) as customers:
        customers.wait()
    assert [e.detail for e in recorder if e.kind == "answered"] == ["unreachable"]


def test_stop_lets_no_more_customers_in():
    recorder = Recorder(Pace(1))
    with Customers(lambda _: 201, [0.0, 1000.0], recorder.pace, recorder):
        pass
    assert recorder.count("answered") <= 1


def test_what_a_customer_fails_with_is_raised():
    def send(_):
        raise RuntimeError("the test's own")

    recorder = Recorder(Pace(20))
    customers = Customers(send, [0.0], recorder.pace, recorder).start()
    with pytest.raises(Exception, match="customer-1 failed"):
        customers.wait()
