"""Customers: when they arrive, and an order from each, whether or not the last was answered."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from labkit.background import Background, Managed, stop_all
from labkit.clock import Pace
from labkit.errors import InputError
from labkit.events import Recorder


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(
            "Customers can't arrive like this.", f"{name}={value!r}", f"give a {name} above 0"
        )


def constant(rate: float, customers: int) -> list[float]:
    """Arrivals at equal distances.

    Args:
        rate: customers in a shop second.
        customers: how many.

    Returns:
        The time of each arrival, in shop seconds from the first.

    Raises:
        InputError: rate or number is not above 0.
    """
    _positive("rate", rate)
    _positive("customers", customers)
    return [n / rate for n in range(customers)]


def poisson(rate: float, customers: int, seed: int) -> list[float]:
    """Arrivals by chance, independent of each other, as many customers make them.

    The gaps are exponentially distributed with the mean 1/rate. The same seed gives the same
    arrivals.

    Args:
        rate: customers in a shop second, on average.
        customers: how many.
        seed: of the random numbers.

    Returns:
        The time of each arrival, in shop seconds; the first is 0.

    Raises:
        InputError: rate or number is not above 0.
    """
    _positive("rate", rate)
    _positive("customers", customers)
    chance = random.Random(seed)
    times = [0.0]
    while len(times) < customers:
        times.append(times[-1] + chance.expovariate(rate))
    return times


def basket(number: int) -> dict[str, Any]:
    """What customer `number` orders: the body of the request, without surprises."""
    return {
        "basket": f"order-{number:03d}",
        "customer_email": f"customer-{number:03d}@example.com",
        "product_id": "mug",
        "quantity": 1,
    }


class Customers(Managed):
    """Each sends one order at its arrival time, in a thread of its own: an open loop.

    A late answer does not delay the next arrival, as it would if one client sent one order after
    the other. Each customer's `intended`, `sent` and `answered` events carry the basket's name as
    the order id.

    Args:
        send: called with the customer's number and body; returns an HTTP status, or any word for
            what became of it. An exception of `requests` counts as `unreachable` or `timeout`.
        arrivals: shop seconds, ascending, as `constant` and `poisson` make them.
        pace: shop time.
        recorder: where the events go.
        body: makes the request's body from the customer's number, from 1.

    A context manager: `start()` lets them come, `wait()` returns when all have their answers,
    `stop()` sends no more.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], int | str],
        arrivals: Sequence[float],
        pace: Pace,
        recorder: Recorder,
        body: Callable[[int], dict[str, Any]] = basket,
    ) -> None:
        self.name = "customers"
        self._send = send
        self._arrivals = arrivals
        self._pace = pace
        self._recorder = recorder
        self._body = body
        self._asking: list[Background] = []
        self._door = Background("customers", self._arrive)

    def _arrive(self, stop: threading.Event) -> None:
        start = time.monotonic()
        for number, arrival in enumerate(self._arrivals, start=1):
            due = start + self._pace.to_wall(arrival)
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            customer = Background(f"customer-{number}", partial(self._ask, number, due))
            self._asking.append(customer.start())

    def _ask(self, number: int, due: float, _: threading.Event) -> None:
        import requests

        body = self._body(number)
        order_id = str(body.get("basket", number))
        record = self._recorder.record
        # When the customer meant to come, even if this machine was too busy to let them in.
        record("intended", "customer", order_id, number, wall=due)
        record("sent", "customer", order_id, number)
        try:
            outcome = self._send(body)
        except requests.Timeout:
            outcome = "timeout"
        except requests.ConnectionError:
            outcome = "unreachable"
        record("answered", "customer", order_id, outcome)

    def start(self) -> Self:
        """Opens the door: from now on they arrive."""
        self._door.start()
        return self

    def wait(self, timeout_wall_s: float = 300.0) -> Self:
        """Returns when every customer has come and has an answer.

        Raises:
            InputError: they have not after `timeout_wall_s` real seconds.
            LabError: what a customer's thread failed with.
        """
        if not self.join(timeout_wall_s):
            raise InputError(
                "Customers are still waiting.",
                f"{sum(c.running for c in self._asking)} without an answer after "
                f"{timeout_wall_s:g} s",
                "a higher speed or a longer timeout_wall_s gives them time",
            )
        self.raise_if_failed()
        return self

    def signal(self) -> None:
        """Lets no more customers in."""
        self._door.signal()

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for those who are in; True where all have their answers."""
        deadline = time.monotonic() + timeout_wall_s
        if not self._door.join(timeout_wall_s):
            return False
        return all(c.join(deadline - time.monotonic()) for c in self._asking)

    def raise_if_failed(self) -> None:
        """Raises what a customer's thread failed with, if one did."""
        for background in [self._door, *self._asking]:
            background.raise_if_failed()

    def stop(self, timeout_wall_s: float = 30.0) -> None:
        """Lets no more in, and waits for those who are."""
        stop_all([self], timeout_wall_s)


def http_door(url: str, timeout_wall_s: float | None = None) -> Callable[[dict[str, Any]], int]:
    """A `send` for `Customers`: posts the order to a shop's door, and returns the status.

    Args:
        url: the order service's address, without a path.
        timeout_wall_s: how long a customer waits at most, in real seconds; without end if None.
    """

    def send(body: dict[str, Any]) -> int:
        import requests

        return requests.post(f"{url}/orders", json=body, timeout=timeout_wall_s).status_code

    return send
