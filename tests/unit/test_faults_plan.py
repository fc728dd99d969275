"""The plan of a storm: what a seed decides."""

from collections import Counter

import pytest

from labkit import faults
from labkit.errors import InputError
from labkit.faults.actions import ACTIONS
from labkit.faults.plan import BROKER, BROKER_KINDS, MOMENTARY

DEPARTMENTS = ("payment", "email", "shipping", "order_service")


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    def make(seed):
        return faults.plan(seed, 50, 100.0, DEPARTMENTS)

    assert make(1) == make(1)
    assert make(1) != make(2)


def test_a_plan_stays_the_same_from_one_version_to_the_next():
    """So that a seed found months ago still shows what it showed."""
    first, second = faults.plan(7, 2, 10.0, ["payment"], ["refuse", "kill broker"])
    assert first == faults.Fault(1.9741174821158674, "kill broker", "broker", 2.579490293340342)
    assert second == faults.Fault(7.679410021533446, "refuse", "payment", 6.662304047226841)


def test_the_faults_are_in_order_and_spread_over_the_time():
    plan = faults.plan(3, 40, 200.0, DEPARTMENTS)
    times = [fault.at_s for fault in plan]
    assert times == sorted(times)
    assert all(5 * n <= time < 5 * (n + 1) for n, time in enumerate(times))


def test_each_kind_comes_equally_often_give_or_take_one():
    counted = Counter(fault.kind for fault in faults.plan(4, 300, 1000.0, DEPARTMENTS))
    assert set(counted) == set(faults.KINDS) - set(faults.OUTBOX_KINDS)
    assert set(counted.values()) == {25}


def test_a_kind_that_is_named_twice_comes_twice_as_often():
    kinds = ["kill broker", "kill broker", "stop broker"]
    counted = Counter(fault.kind for fault in faults.plan(4, 30, 1000.0, DEPARTMENTS, kinds))
    assert counted == {"kill broker": 20, "stop broker": 10}


def test_relays_and_the_order_service_crash_where_they_are():
    plan = faults.plan(6, 40, 100.0, DEPARTMENTS, faults.OUTBOX_KINDS)
    relays = {fault.target for fault in plan if fault.kind == "crash relay"}
    assert relays == {"payment", "shipping", "order_service"}
    assert {f.target for f in plan if f.kind == "crash order service"} == {"order_service"}


def test_every_kind_has_a_meaning_and_an_action():
    assert set(faults.KINDS) == set(ACTIONS)


def test_each_fault_hits_whom_it_can_and_only_what_lasts_has_a_duration():
    plan = faults.plan(5, 400, 1000.0, DEPARTMENTS, lasts_s=(1.0, 3.0))
    for fault in plan:
        assert (fault.target == BROKER) == (fault.kind in BROKER_KINDS)
        if fault.kind in ("refuse", "slow"):
            assert fault.target != "order_service"
        if fault.kind in MOMENTARY:
            assert fault.lasts_s == 0
        else:
            assert 1 <= fault.lasts_s <= 3
    assert {fault.target for fault in plan} == {*DEPARTMENTS, BROKER}


def test_no_faults_is_a_plan_too():
    assert faults.plan(1, 0, 10.0, ["payment"]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ["meteorite"]},
        {"kinds": []},
        {"number": -1},
        {"over_s": 0},
        {"lasts_s": (3, 1)},
        {"targets": []},
        {"targets": ["order_service"], "kinds": ["refuse"]},
    ],
    ids=str,
)
def test_a_plan_that_makes_no_sense_is_refused(wrong):
    arguments = {"seed": 1, "number": 3, "over_s": 10.0, "targets": ["payment"]} | wrong
    with pytest.raises(InputError):
        faults.plan(**arguments)
