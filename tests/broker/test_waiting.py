"""Deliveries at a later time, on a real broker."""

import time

import pytest

from labkit import amqp
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import InputError
from labkit.events import Recorder
from labkit.waiting import deliver_later
from tests.broker.fakes import eventually

PACE = Pace(10)


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("reminders", durable=True)
    yield channel
    connection.close()


def test_each_message_arrives_and_never_before_its_time_is_up(vhost, channel):
    sent = {}
    for delay_s in (9, 3, 6, 3):
        name = f"after {delay_s} s, {len(sent)}"
        sent[name] = time.monotonic(), delay_s
        deliver_later(channel, "reminders", b"ring", delay_s, PACE, correlation_id=name)
    recorder = Recorder(PACE)

    def on_reminder(channel, method, properties, body):
        channel.basic_ack(method.delivery_tag)

    with Consumer(on_reminder, "reminders", vhost.url, recorder=recorder):
        eventually(lambda: recorder.count("acked") == 4)
    came = {e.order_id: e.wall for e in recorder if e.kind == "delivered"}
    assert came.keys() == sent.keys()
    for name, (wall, delay_s) in sent.items():
        # The broker counts in milliseconds.
        assert came[name] - wall >= PACE.to_wall(delay_s) - 0.002


def test_a_short_time_does_not_wait_behind_a_long_one(vhost, channel):
    deliver_later(channel, "reminders", b"long", 1e5, PACE)
    deliver_later(channel, "reminders", b"short", 1, PACE)
    eventually(lambda: vhost.depths(["reminders"]) == {"reminders": 1})
    assert channel.basic_get("reminders", auto_ack=True)[2] == b"short"
    assert vhost.depths(["reminders.later.10000000ms"]) == {"reminders.later.10000000ms": 1}


def test_it_returns_when_the_broker_has_the_message_which_is_persistent(vhost, channel):
    deliver_later(channel, "reminders", {"order_id": "order-1"}, 1e5, PACE, message_id="m-1")
    assert vhost.depths(["reminders.later.10000000ms"]) == {"reminders.later.10000000ms": 1}
    _, properties, body = channel.basic_get("reminders.later.10000000ms")
    assert (properties.delivery_mode, properties.message_id) == (2, "m-1")
    assert body == b'{"order_id": "order-1"}'


@pytest.mark.parametrize("delay_s", [0, -1, float("nan")])
def test_a_delay_that_makes_no_sense_is_refused_and_nothing_is_sent(vhost, channel, delay_s):
    with pytest.raises(InputError, match="before it is sent"):
        deliver_later(channel, "reminders", b"ring", delay_s, PACE)
    assert vhost.depths() == {"reminders": 0}
