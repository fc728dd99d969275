"""Crashes at chosen points, and each kind of fault, on a real broker and a real shop."""

import contextlib
import itertools
import sqlite3
import threading
import time
from collections import Counter

import pytest
import requests

from labkit import amqp, faults
from labkit.background import Background
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import BrokerError, InputError, MessageError, ServiceError
from labkit.events import Recorder
from labkit.faults.plan import USUAL_KINDS
from labkit.faults.wire import Wire
from labkit.load import basket
from labkit.shop import DecoupledShop, ReliableShop, audit, topology, violations
from tests.broker.fakes import eventually

pytestmark = pytest.mark.usefixtures("what_crashes_leave")


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("work", durable=True)
    yield channel
    connection.close()


def put(channel, *bodies):
    for body in bodies:
        amqp.publish(channel, "", "work", body, correlation_id=body)


def ready(channel, queue="work"):
    return channel.queue_declare(queue, passive=True).method.message_count


class Worker:
    """Notes the work that it has done, then acknowledges."""

    def __init__(self):
        self.done = []

    def __call__(self, channel, method, properties, body):
        self.done.append(body.decode())
        channel.basic_ack(method.delivery_tag)


LEFT = {"before work": ([], 1), "after work": (["one"], 1), "after ack": (["one"], 0)}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("point", LEFT)
def test_a_crash_at_a_point_leaves_the_work_and_the_message_as_they_are_there(
    vhost, channel, point, recorded
):
    done, messages_left = LEFT[point]
    worker = Worker()
    recorder = Recorder() if recorded else None
    with Consumer(worker, "work", vhost.url, recorder=recorder) as consumer:
        crashed = consumer.crash_at(point)
        assert not crashed.is_set()
        put(channel, "one")
        assert crashed.wait(20)
        assert not consumer.running or not consumer._workers
        eventually(lambda: ready(channel) == messages_left)
        assert worker.done == done
        consumer.restart()
        eventually(lambda: worker.done == (["one"] if not messages_left else [*done, "one"]))
        eventually(lambda: ready(channel) == 0)
    if recorder:
        kinds = Counter(event.kind for event in recorder)
        assert kinds["crashed"] == 1
        assert kinds["redelivered"] == messages_left
        assert kinds["acked"] == 1


def test_a_crash_takes_the_whole_consumer_along_and_only_the_next_delivery(vhost, channel):
    inside, go_on = threading.Semaphore(0), threading.Event()
    done = []

    def slow(channel, method, properties, body):
        inside.release()
        Pace(1).wait(20, until=go_on)
        done.append(body.decode())
        channel.basic_ack(method.delivery_tag)

    with Consumer(slow, "work", vhost.url, threads=3) as consumer:
        put(channel, "one", "two")
        assert inside.acquire(timeout=20)
        assert inside.acquire(timeout=20)
        crashed = consumer.crash_at("before work")
        put(channel, "three")
        assert crashed.wait(20)
        go_on.set()
        eventually(lambda: ready(channel) == 3)
        assert done == []  # what the other two had begun goes no further
        consumer.restart()
        eventually(lambda: sorted(done) == ["one", "three", "two"])


@pytest.mark.parametrize("point", ["after work", "after ack"])
def test_a_delivery_that_does_not_reach_the_point_leaves_it_to_the_next(vhost, channel, point):
    worker = Worker()
    seen = []

    def handler(channel, method, properties, body):
        seen.append(body)
        if body == b"unreadable":
            raise MessageError("The test's own.")
        if body == b"not now" and not method.redelivered:
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        worker(channel, method, properties, body)

    with Consumer(handler, "work", vhost.url) as consumer:
        crashed = consumer.crash_at(point)
        put(channel, "unreadable")
        eventually(lambda: seen)
        assert consumer.running
        assert not crashed.is_set()
        put(channel, "not now")
        assert crashed.wait(20)
        assert seen == [b"unreadable", b"not now", b"not now"]


def test_a_crash_that_is_not_wanted_any_more_does_not_come(vhost, channel):
    worker = Worker()
    with Consumer(worker, "work", vhost.url) as consumer:
        crashed = consumer.crash_at("before work")
        assert consumer.disarm()
        assert not consumer.disarm()
        put(channel, "one")
        eventually(lambda: worker.done == ["one"])
        assert consumer.running
        assert not crashed.is_set()


def test_a_crash_that_waits_survives_a_crash_and_a_restart(vhost, channel):
    with Consumer(Worker(), "work", vhost.url) as consumer:
        crashed = consumer.crash_at("after work")
        consumer.crash()
        consumer.restart()
        put(channel, "one")
        assert crashed.wait(20)


def test_a_point_that_there_is_not_is_refused_by_its_name(vhost):
    with pytest.raises(InputError, match="during lunch"):
        Consumer(Worker(), "work", vhost.url).crash_at("during lunch")


def test_without_acknowledgements_a_crash_before_the_work_loses_the_message(vhost, channel):
    done = []

    def handler(channel, method, properties, body):
        done.append(body.decode())

    recorder = Recorder()
    with Consumer(handler, "work", vhost.url, auto_ack=True, recorder=recorder) as consumer:
        crashed = consumer.crash_at("before work")
        put(channel, "one")
        assert crashed.wait(20)
        consumer.restart()
        put(channel, "two")
        eventually(lambda: done == ["two"])
        assert consumer.in_hand == 0
        crashed = consumer.crash_at("after work")
        put(channel, "three")
        assert crashed.wait(20)
        assert done == ["two", "three"]
    assert ready(channel) == 0


def test_a_dropped_connection_is_opened_again_and_nothing_is_lost(vhost, channel):
    worker, recorder = Worker(), Recorder()
    with Consumer(worker, "work", vhost.url, threads=2, recorder=recorder) as consumer:
        assert consumer.drop_connections() == 2
        eventually(lambda: recorder.count("reconnecting") == 2)
        put(channel, "one", "two")
        eventually(lambda: sorted(set(worker.done)) == ["one", "two"])
        assert consumer.running


def test_a_message_that_a_full_queue_does_not_take_is_tried_again(vhost, channel):
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("small", durable=True, arguments=full)
    amqp.publish(channel, "", "small", "in the way")

    def pass_on(channel, method, properties, body):
        amqp.publish(channel, "", "small", body)
        channel.basic_ack(method.delivery_tag)

    recorder = Recorder()
    with Consumer(pass_on, "work", vhost.url, recorder=recorder) as consumer:
        put(channel, "one")
        eventually(lambda: any("Nack" in str(why) for why in kinds(recorder, "reconnecting")))
        assert consumer.running
        channel.queue_purge("small")
        eventually(lambda: recorder.count("acked") == 1)
    assert channel.basic_get("small", auto_ack=True)[2] == b"one"


@pytest.fixture
def failures_come_late(monkeypatch):
    """What a thread has failed with is kept some time after all else that its end does."""

    def keep(background, failure):
        if failure is not None:
            time.sleep(0.3)
        vars(background)["_failure"] = failure

    late = property(lambda background: vars(background)["_failure"], keep)
    monkeypatch.setattr(Background, "_failure", late, raising=False)


@pytest.mark.usefixtures("failures_come_late")
def test_a_start_that_fails_says_so_however_late_the_failure_is_known(vhost):
    consumer = Consumer(Worker(), "nowhere", vhost.url)
    with pytest.raises(ServiceError, match="nowhere"):
        consumer.start()
    assert not consumer.running
    with Wire(vhost.url) as wire:
        other = Wire(vhost.url)
        # As where another program has taken its port since the last start.
        other._port.number = wire._port.number
        with pytest.raises(ServiceError, match="Address already in use"):
            other.start()


def test_a_thread_that_hangs_in_a_failed_start_is_not_in_the_way_of_the_next(
    vhost, channel, monkeypatch
):
    connect, first, go_on = amqp.connect, {"work-1", "work-2"}, threading.Event()

    def connect_badly(url, name):
        if name in first:
            first.remove(name)
            if name == "work-1":
                raise BrokerError("The test's own.")
            go_on.wait(60)
        return connect(url, name)

    monkeypatch.setattr(amqp, "connect", connect_badly)
    monkeypatch.setattr("labkit.consumer.STOP_TIMEOUT_WALL_S", 0.1)
    worker = Worker()
    consumer = Consumer(worker, "work", vhost.url, threads=2)
    try:
        with pytest.raises(BrokerError, match="own"):
            consumer.start()
        consumer.restart()
        go_on.set()
        put(channel, "one")
        eventually(lambda: worker.done == ["one"])
        assert consumer.running
    finally:
        go_on.set()
        consumer.stop()


@pytest.fixture
def shop(vhost, tmp_path):
    pace = Pace(20)
    with DecoupledShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        yield shop


def order(shop, number):
    answer = requests.post(f"{shop.url}/orders", json=basket(number), timeout=60)
    assert answer.status_code == 202


def storm(shop, broker, *plan):
    return faults.Storm(plan, shop, shop.pace, shop.recorder, broker)


def kinds(recorder, kind):
    return [event.detail for event in recorder if event.kind == kind]


#: What a fault leaves in the recorder besides its own events.
TRACES = {
    "crash before work": "crashed",
    "crash after work": "crashed",
    "crash after ack": "crashed",
    "drop connection": "reconnecting",
    "close connection": "reconnecting",
}


@pytest.mark.parametrize("kind", [kind for kind in USUAL_KINDS if kind not in faults.BROKER_KINDS])
def test_a_shop_stands_each_kind_of_fault_and_has_it_on_record(shop, broker, kind):
    with storm(shop, broker, faults.Fault(0.0, kind, "email", 4.0)) as weather:
        # A crash takes place at a message that comes once the storm has asked for it.
        for number in itertools.count(1):
            order(shop, number)
            time.sleep(0.2)
            if weather.done or weather.missed:
                break
        weather.wait(60)
        assert [fault.kind for fault in weather.done] == [kind]
        assert weather.missed == []
    shop.wait_until_done(number, timeout_wall_s=60)
    assert kinds(shop.recorder, "planned") == [f"{kind} after 0.0 s for 4.0 s"]
    assert kinds(shop.recorder, "fault") == kinds(shop.recorder, "mended") == [kind]
    if kind in TRACES:
        eventually(lambda: shop.recorder.count(TRACES[kind], "email"))
    assert audit(shop.folder).consistent
    assert shop.consumers["email"].running
    assert not shop.departments["email"].refuses
    assert shop.departments["email"].takes_s == 0.1


def test_a_locked_database_can_not_be_written_until_the_fault_is_mended(shop, broker):
    path = shop.departments["shipping"].database.path

    def write():
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")

    write()
    with storm(shop, broker, faults.Fault(0.0, "lock database", "shipping", 1e6)) as weather:
        eventually(lambda: weather.done)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            write()
    write()


@pytest.mark.parametrize(
    ("kind", "target"), [("crash relay", "payment"), ("crash order service", "order_service")]
)
def test_a_shop_with_outboxes_stands_crashes_beside_its_outboxes(
    vhost, broker, tmp_path, kind, target
):
    pace = Pace(20)
    with ReliableShop(tmp_path, pace, Recorder(pace), vhost.url) as shop:
        with storm(shop, broker, faults.Fault(0.0, kind, target, 4.0)) as weather:
            number = 0
            while not weather.done:  # the order service breaks off the call that it crashes in
                number += 1
                with contextlib.suppress(requests.ConnectionError):
                    order(shop, number)
            weather.wait(60)
        shop.wait_until_done(timeout_wall_s=60)
        assert [fault.kind for fault in weather.done] == [kind]
        assert shop.recorder.count("crashed") > 0
        assert violations(shop) == []


def test_a_department_that_refuses_is_asked_again_until_it_is_open(shop, broker):
    with storm(shop, broker, faults.Fault(0.0, "refuse", "payment", 1e6)) as weather:
        eventually(lambda: weather.done)
        order(shop, 1)
        eventually(lambda: shop.recorder.count("failed", "payment") >= 2)
    shop.wait_until_done(1)
    failed = [e for e in shop.recorder if e.kind == "failed" and e.service == "payment"]
    assert failed
    assert "closed" in failed[0].detail
    assert audit(shop.folder).orders.loc["order-001"].charges == 1


def test_a_malformed_message_ends_in_the_dead_letter_queue(shop, broker, vhost):
    with storm(shop, broker, faults.Fault(0.0, "malformed message", "shipping")) as weather:
        weather.wait(60)
    eventually(lambda: vhost.depths([topology.DEAD_LETTER_QUEUE]) == {"dead_letters": 1})


def test_a_crash_for_which_no_message_comes_is_missed_when_the_storm_ends(shop, broker):
    weather = storm(shop, broker, faults.Fault(0.0, "crash after work", "email", 1.0)).start()
    eventually(lambda: shop.consumers["email"]._crash_point.armed)
    weather.stop()
    assert weather.done == []
    assert [fault.kind for fault in weather.missed] == ["crash after work"]
    assert kinds(shop.recorder, "missed") == ["crash after work"]
    order(shop, 1)
    shop.wait_until_done(1)
    assert shop.recorder.count("crashed") == 0


def test_stopping_a_storm_mends_what_is_broken_and_leaves_out_the_rest(shop, broker):
    weather = storm(
        shop,
        broker,
        faults.Fault(0.0, "refuse", "email", 1e6),
        faults.Fault(0.0, "slow", "payment", 1e6),
        faults.Fault(1e6, "refuse", "payment", 1.0),
    ).start()
    eventually(lambda: len(weather.done) == 2)
    assert shop.departments["email"].refuses
    assert shop.gateway.takes_s == 15
    start = time.monotonic()
    weather.stop()
    weather.stop()
    assert time.monotonic() - start < 5
    assert not shop.departments["email"].refuses
    assert shop.gateway.takes_s == 3
    assert len(weather.done) == 2


def test_faults_of_the_same_consumer_wait_for_each_other(shop, broker):
    plan = [faults.Fault(0.1 * n, "crash before work", "payment", 2.0) for n in range(3)]
    orders = 0
    with storm(shop, broker, *plan) as weather:
        while len(weather.done) < 3:
            orders += 1
            order(shop, orders)
            time.sleep(0.05)
        weather.wait(60)
    shop.wait_until_done(orders)
    of_payment = [e.kind for e in shop.recorder if e.kind in ("fault", "mended")]
    assert of_payment == ["fault", "mended"] * 3


def test_a_storm_that_does_not_end_in_time_says_how_far_it_is(shop, broker):
    weather = storm(shop, broker, faults.Fault(1e6, "refuse", "payment", 1.0))
    with weather, pytest.raises(ServiceError, match="0 of 1 faults"):
        weather.wait(0.1)


def test_a_storm_that_can_not_do_what_is_planned_is_refused_before_it_begins(shop, broker):
    kill = faults.Fault(0.0, "kill broker", "broker", 1.0)
    with pytest.raises(InputError, match="own_broker"):
        storm(shop, None, kill)
    with pytest.raises(InputError, match="broker"):
        storm(shop, None, faults.Fault(0.0, "close connection", "email"))
    with pytest.raises(InputError, match="'nobody'"):
        storm(shop, broker, faults.Fault(0.0, "refuse", "nobody"))
    with pytest.raises(InputError, match="'meteorite'"):
        storm(shop, broker, faults.Fault(0.0, "meteorite", "email"))
    with pytest.raises(InputError, match="relays"):
        storm(shop, broker, faults.Fault(0.0, "crash relay", "payment"))


@pytest.mark.timeout(600)
def test_a_broker_stopped_restarted_and_killed_is_back_each_time(own_broker, tmp_path):
    pace = Pace(20)
    plan = [
        faults.Fault(0.0, "stop broker", "broker", 5.0),
        faults.Fault(0.1, "restart broker", "broker", 0.0),
        faults.Fault(0.2, "kill broker", "broker", 5.0),
        faults.Fault(0.3, "crash after work", "payment", 5.0),
    ]
    with DecoupledShop(tmp_path, pace, Recorder(pace), own_broker.url) as shop:
        time.sleep(5)  # a queue just declared may not survive a SIGKILL: see test_consumer.py
        for number in range(1, 4):
            order(shop, number)
        with storm(shop, own_broker, *plan) as weather:
            weather.wait(240)
            assert {fault.kind for fault in weather.done + weather.missed} == {
                fault.kind for fault in plan
            }
            # They are due at nearly the same moment: which of those that wait comes first is open.
            assert {f.kind for f in weather.done if f.target == "broker"} == {
                "stop broker",
                "restart broker",
                "kill broker",
            }
        assert own_broker.answers()
        shop.wait_until_done(3, timeout_wall_s=60)
        # Each of them has broken the connections: between its beginning and the next one's.
        happened = [e.detail if e.kind == "fault" else e.kind for e in shop.recorder]
        begun = [happened.index(fault.kind) for fault in weather.done if fault.target == "broker"]
        for start, end in itertools.pairwise([*begun, len(happened)]):
            assert "reconnecting" in happened[start:end]
    assert audit(tmp_path).consistent
