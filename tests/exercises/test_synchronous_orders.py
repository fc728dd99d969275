"""Notebook 01's exercises."""

from __future__ import annotations

import math
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from labkit.checks import Verdict
from labkit.exercises import synchronous_orders
from labkit.shop import DeclinedError
from labkit.shop.synchronous import CHAIN, place_order

NAMES = {
    "DEPARTMENTS": CHAIN,
    "DeclinedError": DeclinedError,
    "ThreadPoolExecutor": ThreadPoolExecutor,
}

IN_SEQUENCE = """
for department in DEPARTMENTS:
    if call(department, order) == "declined":
        raise DeclinedError
"""
WAITS_INSIDE_THE_LOOP = """
with ThreadPoolExecutor(max_workers=4) as pool:
    answers = [pool.submit(call, department, order).result() for department in DEPARTMENTS]
if "declined" in answers:
    raise DeclinedError
"""
CALLS_AT_ONCE = """
import threading
threads = [threading.Thread(target=call(department, order)) for department in DEPARTMENTS]
"""
TWO_THREADS = """
with ThreadPoolExecutor(max_workers=2) as pool:
    answers = list(pool.map(lambda department: call(department, order), DEPARTMENTS))
if "declined" in answers:
    raise DeclinedError
"""
PAYMENT_FIRST = """
if call("payment", order) == "declined":
    raise DeclinedError
with ThreadPoolExecutor(max_workers=3) as pool:
    list(pool.map(lambda department: call(department, order), DEPARTMENTS[1:]))
"""
FORGETS_ONE = """
with ThreadPoolExecutor(max_workers=4) as pool:
    calls = [pool.submit(call, department, order) for department in DEPARTMENTS[:3]]
answers = [each.result() for each in calls]
if "declined" in answers:
    raise DeclinedError
"""
CALLS_ONE_TWICE = """
with ThreadPoolExecutor(max_workers=5) as pool:
    calls = [pool.submit(call, name, order) for name in ("payment", *DEPARTMENTS)]
answers = [each.result() for each in calls]
"""
DOES_NOT_WAIT = """
import threading
for department in DEPARTMENTS:
    threading.Thread(target=call, args=(department, order)).start()
"""
LEAVES_RESULTS_ALONE = """
with ThreadPoolExecutor(max_workers=4) as pool:
    calls = [pool.submit(call, department, order) for department in DEPARTMENTS]
"""
SWALLOWS = """
def quiet(department):
    try:
        return call(department, order)
    except Exception:
        return "failed"
with ThreadPoolExecutor(max_workers=4) as pool:
    answers = list(pool.map(quiet, DEPARTMENTS))
if "declined" in answers:
    raise DeclinedError
"""
LOOKS_AT_PAYMENT_ALONE = """
with ThreadPoolExecutor(max_workers=4) as pool:
    calls = [pool.submit(call, department, order) for department in DEPARTMENTS]
if calls[0].result() == "declined":
    raise DeclinedError
"""
FORGETS_THE_DECLINED = """
with ThreadPoolExecutor(max_workers=4) as pool:
    list(pool.map(lambda department: call(department, order), DEPARTMENTS))
"""


def test_parallel_calls_tells_right_from_wrong(prove):
    prove(
        synchronous_orders.parallel_calls,
        source="01",
        answer="place_order",
        names=NAMES,
        wrong=[
            (IN_SEQUENCE, "only after the one before"),
            (WAITS_INSIDE_THE_LOOP, r"inside the loop"),
            (CALLS_AT_ONCE, "with brackets"),
            (TWO_THREADS, "At most 2 departments"),
            (PAYMENT_FIRST, "payment was over before"),
            (FORGETS_ONE, "Never called: shipping"),
            (CALLS_ONE_TWICE, "payment 2 times"),
            (DOES_NOT_WAIT, "nobody waits for them"),
            (LEAVES_RESULTS_ALONE, "payment was down.*as if all"),
            (SWALLOWS, "an except hides it"),
            (LOOKS_AT_PAYMENT_ALONE, "inventory was down"),
            (FORGETS_THE_DECLINED, "raises DeclinedError"),
        ],
    )


def test_the_courses_own_parallel_version_is_correct_and_the_chain_is_not():
    check = synchronous_orders.parallel_calls
    assert check.judge(synchronous_orders.in_parallel).verdict is Verdict.CORRECT
    assert check.judge(place_order).verdict is Verdict.NOT_YET


def test_workers_needed_tells_right_from_wrong(prove):
    prove(
        synchronous_orders.workers_needed,
        source="01",
        answer="workers_needed",
        names={"math": math},
        wrong=[
            ("return customers_per_s * order_s", "workers come whole"),
            ("return int(customers_per_s * order_s)", "10 workers serve 1.94 customers"),
            ("return round(customers_per_s * order_s)", "the queue at the door grows"),
            ("return int(customers_per_s * order_s) + 1", "one too many"),
            ("return math.ceil(order_s / customers_per_s)", "the queue at the door grows"),
            ("math.ceil(customers_per_s * order_s)", "does not return"),
        ],
    )


def ask(database, query):
    with closing(sqlite3.connect(database)) as connection:
        return [value for (value,) in connection.execute(query)]


FAILED = """
failed = ask(folder / "order_service.db", "SELECT order_id FROM orders WHERE told = 'failed'")
"""


def test_told_failed_tells_right_from_wrong(prove):
    prove(
        synchronous_orders.told_failed,
        source="01",
        answer="told_failed_yet_charged",
        names={"ask": ask},
        wrong=[
            (FAILED + "return failed", "order-903 is in your list"),
            ('return ask(folder / "gateway.db", "SELECT order_id FROM charges")', "order-901"),
            (
                FAILED + 'noted = ask(folder / "payment.db", "SELECT order_id FROM payments")\n'
                "return [order_id for order_id in failed if order_id in noted]",
                "gateway.db is the one that knows",
            ),
            (
                FAILED + 'charged = ask(folder / "gateway.db", "SELECT order_id FROM charges")\n'
                'labels = ask(folder / "shipping.db", "SELECT order_id FROM labels")\n'
                "return [o for o in failed if o in charged and o not in labels]",
                "order-907 is missing",
            ),
            ('ask(folder / "gateway.db", "SELECT order_id FROM charges")', "None"),
        ],
    )
