"""What all departments share."""

import contextlib
import threading

import pytest

from labkit.background import Crashed, works_for
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.load import basket
from labkit.shop.departments import Inventory
from labkit.shop.orders import Order


@pytest.fixture
def inventory(tmp_path):
    pace = Pace(20)
    with contextlib.closing(Inventory(tmp_path, pace, Recorder(pace))) as made:
        yield made


def test_a_crash_between_commit_and_report_leaves_the_work_done_and_nobody_told(inventory):
    order = Order.read(basket(1) | {"order_id": "order-1", "amount": 1})
    crashed = threading.Event()

    def work(order):
        result = inventory.work(order)
        crashed.set()
        return result

    with works_for(crashed), pytest.raises(Crashed):
        inventory.handle(order, work)
    assert [event.kind for event in inventory.recorder] == ["started"]
    assert inventory.database.rows("SELECT count(*) FROM taken") == [(1,)]
