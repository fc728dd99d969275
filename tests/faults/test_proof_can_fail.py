"""The proof finds what goes wrong: with one gap left open, and one fault at the right point."""

import gc
import re
from dataclasses import replace

import pytest

from labkit.faults import Fault
from labkit.faults.trial import Trial
from labkit.shop.guarantees import EFFECTIVELY_ONCE
from tests.broker.fakes import eventually

ORDERS = 40

#: The collector may come at any time and in any thread, and says what a crash has left open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def what_crashes_leave():
    """A crash leaves sockets as they were; Python's collector closes them, here at the latest."""
    yield
    gc.collect()


def outcome_of(broker, folder, guarantees, *plan):
    with Trial(broker, folder, ORDERS, 0, 1, guarantees=guarantees, plan=plan) as trial:
        outcome = trial.wait(timeout_wall_s=120)
        assert [fault.kind for fault in trial.storm.done] == [fault.kind for fault in plan]
    return outcome


@pytest.mark.parametrize("inbox", [True, False], ids=["inbox on", "inbox off"])
def test_without_the_inbox_a_crash_after_the_work_charges_twice(
    broker, tmp_path, monkeypatch, inbox
):
    # Whoever is in hand at the crash has a good card: an order that is declined is never charged.
    monkeypatch.setattr("labkit.faults.trial.DECLINED", ORDERS + 1)
    guarantees = replace(EFFECTIVELY_ONCE, inbox=inbox)
    crash = Fault(5.0, "crash after work", "payment", 2.0)
    outcome = outcome_of(broker, tmp_path, guarantees, crash)
    assert outcome.lost == 0
    assert (outcome.doubled > 0) == (not inbox)
    assert outcome.holds == inbox
    if not inbox:
        # Twice, or more often: the relay, too, may have sent a copy meanwhile.
        charged = [found for found in outcome.violations if re.match(r"[2-9] charges", found.what)]
        told = "\n".join(map(str, outcome.violations))
        assert any("redelivered" in line for found in charged for line in found.history), told


@pytest.mark.parametrize("outbox", [True, False], ids=["outbox on", "outbox off"])
def test_without_the_outbox_a_crash_after_the_save_loses_the_order(broker, tmp_path, outbox):
    guarantees = replace(EFFECTIVELY_ONCE, outbox=outbox)
    crash = Fault(5.0, "crash order service", "order_service", 2.0)
    outcome = outcome_of(broker, tmp_path, guarantees, crash)
    assert outcome.doubled == 0
    assert (outcome.lost > 0) == (not outbox)
    assert outcome.holds == outbox
    if not outbox:
        assert any("status is pending" in violation.what for violation in outcome.violations)


@pytest.mark.parametrize("confirms", [True, False], ids=["confirms on", "confirms off"])
def test_without_confirms_a_line_that_goes_dead_loses_what_it_swallows(broker, tmp_path, confirms):
    guarantees = replace(EFFECTIVELY_ONCE, confirms=confirms)
    with Trial(
        broker, tmp_path, ORDERS, 0, 1, rate=5.0, guarantees=guarantees, plan=(), on_a_line=True
    ) as trial:
        outbox = trial.shop.outboxes["order_service"]
        # A line that is dead before the relay has connected holds it up, and swallows nothing.
        eventually(lambda: trial.accepted >= 5 and trial.accepted > outbox.unsent)
        trial.line.go_dead("to broker")
        accepted = trial.accepted
        eventually(lambda: trial.accepted >= accepted + 3)
        if not confirms:  # what was written into the dead line is marked as sent
            eventually(lambda: outbox.unsent == 0)
        trial.line.mend()
        outcome = trial.wait(timeout_wall_s=120)
    assert (outcome.lost > 0) == (not confirms)
    assert outcome.doubled == 0
    assert outcome.holds == confirms
