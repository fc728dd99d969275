"""The proof: in random storms, no order that was accepted is lost, and nothing is done twice."""

import gc

import pytest

from labkit.faults.trial import Trial

ORDERS, FAULTS = 500, 20
#: Customers in a real second; more than a small machine serves at once.
RATE = 40.0

#: The collector may come at any time and in any thread, and says what a crash has left open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def what_crashes_leave():
    """A crash leaves sockets as they were; Python's collector closes them, here at the latest."""
    yield
    gc.collect()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_storm_every_accepted_order_is_done_once(own_broker, tmp_path, seed):
    with Trial(own_broker, tmp_path, ORDERS, FAULTS, seed, rate=RATE) as trial:
        outcome = trial.wait(timeout_wall_s=240)
    assert outcome.holds, "\n".join(map(str, [*outcome.vanished, *outcome.violations[:5]]))
    assert outcome.accepted >= ORDERS
    assert sum(outcome.faults.values()) + sum(outcome.missed.values()) == FAULTS
    assert sum(outcome.missed.values()) <= FAULTS // 4
    assert outcome.faults["kill broker"] == 1
    assert outcome.malformed >= outcome.faults["malformed message"]
