"""Exercises of notebook 01: parallel calls, a capacity calculation, an audit of one's own."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from labkit.checks import Exercise, NotYet
from labkit.shop import CallError, DeclinedError, Order
from labkit.shop.synchronous import CHAIN, Call

PlaceOrder = Callable[[Order, Call], object]

#: How long a call waits at most for the other departments to be called too, in real seconds.
MEET_WALL_S = 2.0
#: How much longer each call takes once all have met, so that whoever does not wait for it is found
#: out. Where they have not met, that is the finding, and nobody need wait longer.
LINGER_WALL_S = 1.0


def in_parallel(order: Order, call: Call) -> None:
    """Has all departments do their work at the same time: the course's own answer.

    Raises:
        DeclinedError: the payment was declined; the others have done their work all the same.
        CallError: a department could not be reached, or not in time.
    """
    with ThreadPoolExecutor(max_workers=len(CHAIN)) as pool:
        calls = [pool.submit(call, department, order) for department in CHAIN]
    answers = [each.result() for each in calls]
    if "declined" in answers:
        raise DeclinedError


class _Departments:
    """Departments that note who was called while whom else was at work.

    Args:
        meet: whether each call waits until all four have been called, or gives up.
        failing: the department that is down, if one is.
        declines: whether payment declines.
    """

    def __init__(self, meet: bool = False, failing: str = "", declines: bool = False) -> None:
        self.called: list[str] = []
        self.ended: list[str] = []
        self.together: set[str] = set()
        self._at_work: set[str] = set()
        self._meet = meet
        self._failing = failing
        self._declines = declines
        self._changed = threading.Condition()

    def call(self, department: str, order: Order) -> str:
        """Stands in for the shop's `call`."""
        with self._changed:
            self.called.append(department)
            self._at_work.add(department)
            if len(self._at_work) > len(self.together):
                self.together = set(self._at_work)
            self._changed.notify_all()
            met = self._meet and self._changed.wait_for(
                lambda: set(self.called) == set(CHAIN), MEET_WALL_S
            )
        if met:
            time.sleep(LINGER_WALL_S)
        with self._changed:
            self._at_work.discard(department)
            self.ended.append(department)
        if department == self._failing:
            raise CallError(f"{department} can't be reached")
        return "declined" if department == "payment" and self._declines else "done"

    def still_at_work(self) -> list[str]:
        """Who was called and has not answered."""
        with self._changed:
            return sorted(self._at_work)


def _some_order() -> Order:
    return Order(
        order_id="order-777",
        basket="order-777",
        customer_email="customer-777@example.com",
        product_id="mug",
        quantity=1,
        amount=1200,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nobody"


def _check_calls(departments: _Departments) -> None:
    """Each once, all at the same time, and the answer only after the last."""
    working = departments.still_at_work()
    called = Counter(departments.called)
    missing = [name for name in CHAIN if name not in called]
    if missing and not working:
        raise NotYet(
            f"Called: {_listed(called)}. Never called: {_listed(missing)}",
            "each of the four departments is called",
            "the list of departments that you go through is short of some",
        )
    if working:
        raise NotYet(
            f"place_order had returned while {_listed(working)} "
            f"{'was' if len(working) == 1 else 'were'} still at work",
            "it returns when all four have answered, since the customer is told `completed` then",
            "the threads are started, and nobody waits for them: join() or result() does",
        )
    if several := [f"{name} {times} times" for name, times in called.items() if times > 1]:
        raise NotYet(
            f"Called: {_listed(several)}",
            "each department is called exactly once",
            "a second call does the work a second time: another charge, another label",
        )
    together = departments.together
    if together != set(CHAIN):
        seen, cause = f"At most {len(together)} departments were at work at the same time", ""
        if len(together) == 1:
            seen = "Each department was called only after the one before had answered"
            cause = (
                "result() or join() stands inside the loop that starts the calls; or `call(...)` "
                "with brackets, which calls at once, is handed over in place of `call`"
            )
        elif together == set(CHAIN) - {"payment"}:
            cause = (
                "payment was over before the others began: a sensible design, and the wait is then "
                "payment's part and the longest of the rest. The exercise asks for all at once"
            )
        else:
            cause = "the pool has fewer threads than there are departments"
        raise NotYet(seen, "all four are at work at the same time", cause)


def _check_parallel_calls(place_order: PlaceOrder) -> None:
    order = _some_order()
    departments = _Departments(meet=True)
    place_order(order, departments.call)
    _check_calls(departments)
    for failing in CHAIN:
        try:
            place_order(order, _Departments(failing=failing).call)
        except CallError:
            continue
        raise NotYet(
            f"{failing} was down, its call raised CallError, and place_order returned as if all "
            "were well",
            "the CallError comes out of place_order, so that the customer is not told `completed`",
            "a thread's exception stays with its future until result() is called, on each of "
            "them; or an except hides it",
        )
    try:
        place_order(order, _Departments(declines=True).call)
    except DeclinedError:
        return
    raise NotYet(
        'payment answered "declined", and place_order returned as if it had been charged',
        "it raises DeclinedError",
        "nobody looks at what payment answered",
    )


parallel_calls = Exercise(
    "parallel-calls",
    _check_parallel_calls,
    hints=[
        "A call waits until the department has answered. For four calls to wait at the same time, "
        "each needs a thread of its own.",
        "ThreadPoolExecutor(max_workers=4) holds four threads. pool.submit(call, department, "
        "order) hands one of them a call and comes back at once, with a future. Start all four "
        "before you ask the first for its result.",
        "future.result() waits for the answer and returns it, or raises what the call has raised. "
        'Ask each of the four. If "declined" is among the answers, raise DeclinedError.',
    ],
    solution="""
with ThreadPoolExecutor(max_workers=len(DEPARTMENTS)) as pool:
    calls = [pool.submit(call, department, order) for department in DEPARTMENTS]
answers = [each.result() for each in calls]
if "declined" in answers:
    raise DeclinedError
""",
    learned="All four work at the same time, each is called once, and a failure still comes out.",
)

_LOADS = [(2.0, 5.15, 11), (1.0, 5.15, 6), (2.0, 13.15, 27), (0.5, 5.15, 3), (4.0, 0.5, 2)]


def _check_workers_needed(workers_needed: Callable[[float, float], float]) -> None:
    for rate, order_s, expected in _LOADS:
        case = f"workers_needed(customers_per_s={rate:g}, order_s={order_s:g})"
        seen = workers_needed(rate, order_s)
        if seen is None:
            raise NotYet(
                f"{case} gives None",
                str(expected),
                "the function computes it and does not return it",
            )
        if seen == expected:
            continue
        if abs(seen - rate * order_s) < 1e-9:
            cause = "so many are at work on average, but workers come whole"
        elif seen == expected + 1 and rate * order_s == expected:
            cause = f"{expected} serve exactly {rate:g} a second: one more is one too many"
        elif 0 < seen < expected:
            cause = (
                f"{seen:g} workers serve {seen / order_s:.2f} customers a second, and "
                f"{rate:g} come: the queue at the door grows"
            )
        else:
            cause = "one worker serves 1 / order_s customers a second"
        raise NotYet(f"{case} gives {seen:g}", str(expected), cause)


workers_needed = Exercise(
    "workers-needed",
    _check_workers_needed,
    hints=[
        "One worker is busy for order_s seconds with each customer. How many customers does it "
        "serve in a second?",
        "In every second, customers_per_s customers bring order_s seconds of work each. One "
        "worker does one second of work in a second.",
        "Multiply, and round up: math.ceil.",
    ],
    solution="return math.ceil(customers_per_s * order_s)",
    learned="Two customers a second need 11 workers, and 27 while the carrier is slow: nearly all "
    "of them wait, and each costs memory and a connection.",
)

#: Order id, what the customer was told, charged by the gateway, noted by payment, label printed.
_ORDERS = [
    ("order-901", "completed", True, "charged", True),
    ("order-902", "failed", True, "charged", False),
    ("order-903", "failed", False, None, False),
    ("order-904", "declined", False, "declined", False),
    ("order-905", "failed", True, None, False),  # payment crashed before it could note the answer
    ("order-906", None, True, "charged", False),  # still under way
    ("order-907", "failed", True, "charged", True),  # the carrier was slow
]
_TRUE = {"order-902", "order-905", "order-907"}


def _make_shop(folder: Path) -> None:
    """Databases as a shop leaves them, with the orders above."""
    tables: dict[str, tuple[str, list[tuple[str | int | None, ...]]]] = {
        "order_service": (
            "orders (order_id TEXT, status TEXT, told TEXT)",
            [(id, told or "pending", told) for id, told, *_ in _ORDERS],
        ),
        "gateway": (
            "charges (order_id TEXT, amount INTEGER)",
            [(id, 1200) for id, _, charged, *_ in _ORDERS if charged],
        ),
        "payment": (
            "payments (order_id TEXT, amount INTEGER, result TEXT)",
            [(id, 1200, noted) for id, _, _, noted, _ in _ORDERS if noted],
        ),
        "shipping": ("labels (order_id TEXT)", [(id,) for id, *_, label in _ORDERS if label]),
    }
    for name, (table, rows) in tables.items():
        with closing(sqlite3.connect(folder / f"{name}.db")) as connection, connection:
            connection.execute(f"CREATE TABLE {table}")
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table.split()[0]} VALUES ({marks})", rows)


_WHY_NOT = {
    "order-901": "its customer was told that it is completed",
    "order-903": "its customer was told that it failed, and the gateway took no money",
    "order-904": "its payment was declined, and the gateway took no money",
    "order-906": "its customer has been told nothing yet",
}
_WHY = {
    "order-902": "its customer was told that it failed, and was charged",
    "order-905": "the gateway charged it, and payment crashed before it could note that: "
    "gateway.db is the one that knows",
    "order-907": "its customer was told that it failed, and was charged; that a label was printed "
    "as well does not change it",
}


def _check_told_failed(told_failed_yet_charged: Callable[[Path], Iterable[str]]) -> None:
    # The learner's connections may still be open, which Windows does not forgive.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        _make_shop(Path(name))
        found = told_failed_yet_charged(Path(name))
        if found is None:
            raise NotYet("The function gives None", "a list of order ids", "it returns nothing")
        listed = [row[0] if isinstance(row, tuple) and len(row) == 1 else row for row in found]
    for order_id in listed:
        if order_id not in _TRUE:
            cause = _WHY_NOT.get(str(order_id), "no order has this id")
            raise NotYet(f"In the check's own shop, {order_id} is in your list", "it is not", cause)
    for order_id in sorted(_TRUE):
        if listed.count(order_id) != 1:
            raise NotYet(
                f"In the check's own shop, {order_id} is "
                + ("twice in your list" if order_id in listed else "missing from your list"),
                "it is there once",
                _WHY[order_id],
            )


told_failed = Exercise(
    "told-failed-yet-charged",
    _check_told_failed,
    hints=[
        "No single department knows. What the customer was told is in order_service.db, what was "
        "really charged in gateway.db.",
        "Ask each database for a list of order ids, and keep those that are in both.",
        "orders has the columns order_id and told: SELECT order_id FROM orders WHERE "
        "told = 'failed'. charges has order_id: SELECT order_id FROM charges.",
    ],
    solution="""
failed = ask(folder / "order_service.db", "SELECT order_id FROM orders WHERE told = 'failed'")
charged = ask(folder / "gateway.db", "SELECT order_id FROM charges")
return [order_id for order_id in failed if order_id in charged]
""",
    learned="It took two databases to find out what no department knows by itself.",
)
