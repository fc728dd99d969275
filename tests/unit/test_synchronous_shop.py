"""The synchronous flow, and what the audit finds after it."""

import pytest
import requests

from labkit.clock import Pace
from labkit.errors import InputError
from labkit.events import Recorder
from labkit.load import basket
from labkit.shop import SynchronousShop, audit

#: Long enough, in shop seconds, for a department on a machine that is busy with other things.
PATIENT_S = 200


@pytest.fixture
def shop(tmp_path):
    pace = Pace(20)
    with SynchronousShop(tmp_path, pace, Recorder(pace), timeout_s=PATIENT_S) as shop:
        yield shop


def order(shop, number=1, **changes):
    return requests.post(f"{shop.url}/orders", json=basket(number) | changes, timeout=60)


def test_the_customer_waits_for_the_sum_of_the_parts(shop):
    start = shop.pace.now()
    answer = order(shop)
    waited = shop.pace.now() - start
    assert answer.status_code == 201
    assert answer.json()["status"] == "completed"
    assert waited >= 3 + 0.05 + 0.1 + 2


def test_a_completed_order_is_charged_shipped_reserved_and_confirmed_once(shop):
    order(shop)
    result = audit(shop.folder)
    row = result.orders.loc["order-001"]
    assert (row.charges, row.labels, row.stock, row.emails) == (1, 1, 1, 1)
    assert result.consistent
    assert result.charged_cents == 1200
    assert [m["To"] for m in shop.inbox.messages] == ["customer-001@example.com"]


def test_a_declined_payment_is_told_and_nothing_is_shipped(shop):
    shop.gateway.declines.add("customer-001@example.com")
    assert order(shop).status_code == 402
    row = audit(shop.folder).orders.loc["order-001"]
    assert (row.status, row.charges, row.labels) == ("declined", 0, 0)
    assert audit(shop.folder).consistent


def test_one_department_down_fails_the_order_and_what_was_done_stays_done(shop):
    shop.services["email"].crash()
    answer = order(shop)
    assert answer.status_code == 502
    assert "email" in answer.json()["error"]
    counts = audit(shop.folder).counts()
    assert counts["charged, not shipped"] == 1
    assert counts["told failed, yet charged"] == 1


def test_a_second_try_is_an_order_of_its_own_and_charges_again(shop):
    shop.services["email"].crash()
    order(shop)
    shop.services["email"].restart()
    assert order(shop).status_code == 201
    result = audit(shop.folder)
    assert list(result.orders.index) == ["order-001", "order-001-2"]
    assert result.counts()["charged twice"] == 2


def test_a_slow_carrier_makes_the_customer_give_up_on_a_parcel_that_goes_out(shop):
    shop.timeout_s = 60
    shop.carrier.takes_s = 120
    answer = order(shop)
    assert answer.status_code == 504
    shop.stop()  # the carrier's answer is still awaited by shipping
    assert audit(shop.folder).orders.loc["order-001"].labels == 1
    assert audit(shop.folder).counts()["told failed, yet charged"] == 1


@pytest.mark.parametrize(
    "changes", [{"quantity": -1}, {"quantity": 0}, {"product_id": "boat"}, {"customer_email": ""}]
)
def test_an_order_that_makes_no_sense_is_refused_and_leaves_nothing(shop, changes):
    answer = order(shop, **changes)
    assert answer.status_code == 422
    assert "Seen" in answer.json()["error"]
    assert audit(shop.folder).orders.empty


def test_the_status_of_an_order_can_be_asked_for(shop):
    order(shop)
    assert requests.get(f"{shop.url}/orders/order-001", timeout=10).json()["status"] == "completed"
    assert requests.get(f"{shop.url}/orders/nobody", timeout=10).status_code == 404


def test_another_way_to_place_an_order_may_be_tried(tmp_path):
    pace = Pace(20)
    asked = []

    def only_payment(order, call):
        asked.append(call("payment", order))

    with SynchronousShop(tmp_path, pace, Recorder(pace), place_order=only_payment) as shop:
        shop.timeout_s = PATIENT_S
        assert order(shop).status_code == 201
    assert asked == ["charged"]
    assert audit(tmp_path).counts()["charged, not shipped"] == 1


def test_an_audit_of_a_folder_without_a_shop_is_refused(tmp_path):
    with pytest.raises(InputError, match="no shop to audit"):
        audit(tmp_path)


def test_an_audit_finding_that_is_not_there_is_refused_with_those_that_are(shop):
    order(shop)
    with pytest.raises(InputError, match="charged twice"):
        audit(shop.folder).with_finding("stolen")
