"""What `make storm` prints of a storm's outcome."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from labkit.faults.outcome import Outcome
from labkit.shop.proof import Violation
from tools import storm

LATE = Violation(
    "order-007", "0 labels, and not 1", ("gateway: 1200", "1.000 s  payment: done"), "lost"
)
TWICE = Violation("order-009", "2 charges at the gateway, and not 1", ("gateway: 1200",), "doubled")


def outcome(violations=(), vanished=()):
    return Outcome(
        seed=41,
        answers=Counter({"202": 30}),
        accepted=30,
        vanished=list(vanished),
        violations=list(violations),
        faults=Counter({"kill broker": 2, "refuse": 3}),
        missed=Counter({"crash relay": 1}),
        put_back=4,
        malformed=1,
        copies=6,
        duplicate_mails=0,
        wall_s=12.0,
    )


def shown(outcome):
    text = io.StringIO()
    storm.show(outcome, "RabbitMQ", Console(file=text, width=120))
    return text.getvalue()


def row(text, name):
    """The value in a table's row."""
    (line,) = [line for line in text.splitlines() if re.match(rf"│ {name} +│", line)]
    return line.split("│")[2].strip()


def test_a_storm_that_the_shop_stood_says_so():
    text = shown(outcome())
    assert "seed 41" in text
    assert "Every accepted order was done once." in text
    assert (row(text, "lost"), row(text, "doubled")) == ("0", "0")
    assert (row(text, "faults"), row(text, "of them broker kills")) == ("5", "2")
    assert (row(text, "refuse"), row(text, "slow")) == ("3", "0")


def test_a_violation_is_printed_with_the_seed_the_order_and_its_history():
    text = shown(outcome([LATE, TWICE], ["order-050"]))
    assert "Every accepted order" not in text
    assert (row(text, "lost"), row(text, "doubled")) == ("2", "1")
    assert "seed 41: 2 orders went wrong" in text
    assert "order-007: 0 labels, and not 1\n    gateway: 1200\n    1.000 s  payment: done" in text
    assert "order-009: 2 charges" in text
    assert "order-050: the customer was told that it is accepted" in text


def test_of_many_orders_that_went_wrong_the_first_are_told_in_full_and_all_are_named():
    many = [LATE._replace(order_id=f"order-{n:03}") for n in range(1, storm.MOST_HISTORIES + 3)]
    text = shown(outcome(many))
    assert text.count("gateway: 1200") == storm.MOST_HISTORIES
    assert "and order-006, order-007" in text


@pytest.mark.parametrize(("found", "holds"), [([], True), ([LATE], False)])
def test_a_storm_holds_where_no_promise_was_broken(found, holds):
    assert outcome(found).holds is holds
    assert outcome(vanished=["order-050"]).holds is False
