"""Retries on a real broker: when a message comes back, as what, and where it ends."""

from __future__ import annotations

import contextlib
import time
from decimal import Decimal

import pika
import pika.exceptions
import pytest

from labkit import amqp, retries
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import InputError, ServiceError
from labkit.retries import BECAUSE_HEADER, RETRIES_HEADER, Retries, declare_retries, retries_of
from tests.broker.fakes import eventually

#: Before RabbitMQ 4.2 a durable queue that was declared a moment before a SIGKILL may be gone.
SETTLED_WALL_S = 5.0
PACE = Pace(10)
WORK, DEAD = "work", "dead"


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare(DEAD, durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    channel.queue_declare(WORK, durable=True, arguments=arguments)
    channel.confirm_delivery()
    yield channel
    if connection.is_open:
        connection.close()


def take(channel, queue, seconds=20.0):
    """The next message of a queue, unanswered."""

    def got():
        message = channel.basic_get(queue)
        return message if message[0] else None

    return eventually(got, seconds)


def test_each_delay_is_kept_and_after_the_last_the_message_is_dead(channel):
    plan = declare_retries(channel, WORK, [1, 2, 4], PACE)
    amqp.publish(channel, "", WORK, "hello", correlation_id="order-1")
    put_away, came, counts, answers = [], [], [], []
    for _ in range(4):
        message = take(channel, WORK)
        came.append(time.monotonic())
        counts.append(retries_of(message[1]))
        put_away.append(time.monotonic())
        answers.append(plan.retry_later(channel, *message, because="no\n luck"))
    assert answers == [1, 2, 4, None]
    assert counts == [0, 1, 2, 3]
    for begun, ended, delay_s in zip(put_away, came[1:], [1, 2, 4], strict=False):
        waited_s = PACE.to_shop(ended - begun)
        assert waited_s >= delay_s - PACE.to_shop(0.002)  # the broker counts in milliseconds
    _, properties, body = take(channel, DEAD)
    assert (body, properties.correlation_id) == (b"hello", "order-1")
    assert properties.headers[RETRIES_HEADER] == 3
    assert properties.headers[BECAUSE_HEADER] == "no luck"
    assert properties.headers["x-death"][0]["reason"] == "rejected"
    assert channel.basic_get(WORK) == (None, None, None)


def test_a_message_that_waits_holds_nobody_up(channel):
    plan = declare_retries(channel, WORK, [1e5], PACE)
    amqp.publish(channel, "", WORK, "slow")
    plan.retry_later(channel, *take(channel, WORK))
    amqp.publish(channel, "", WORK, "quick")
    assert take(channel, WORK)[2] == b"quick"


def test_a_copy_keeps_what_the_message_carries_and_drops_what_is_not_its_own(vhost, channel):
    plan = declare_retries(channel, WORK, [0.1], PACE)
    amqp.publish(
        channel,
        "",
        WORK,
        b"\xff",
        content_type="text/odd",
        message_id="m-1",
        priority=3,
        expiration="60000",
        user_id=pika.URLParameters(vhost.url).credentials.username,
        headers={"kept": [Decimal("1.5"), {"deep": "yes"}], "CC": [DEAD], "x-retries": "many"},
    )
    channel.basic_ack(take(channel, DEAD)[0].delivery_tag)  # the one that CC asked for
    plan.retry_later(channel, *take(channel, WORK))
    _, properties, body = take(channel, WORK)
    assert body == b"\xff"
    assert (properties.content_type, properties.message_id) == ("text/odd", "m-1")
    assert (properties.priority, properties.delivery_mode) == (3, 2)
    assert (properties.expiration, properties.user_id) == (None, None)
    assert properties.headers["kept"] == [Decimal("1.5"), {"deep": "yes"}]
    assert properties.headers[RETRIES_HEADER] == 1  # "many" counts as none
    assert channel.basic_get(DEAD) == (None, None, None)


@pytest.mark.parametrize("header", ["many", -3, None, True, [1], 1.5])
def test_a_header_that_makes_no_sense_counts_as_no_retry(header):
    assert retries_of(pika.BasicProperties(headers={RETRIES_HEADER: header})) == 0
    assert retries_of(pika.BasicProperties()) == 0


def test_without_its_waiting_queue_a_message_stays_where_it_is(channel):
    plan = declare_retries(channel, WORK, [1], PACE)
    channel.queue_delete(plan.waiting_queue(1))
    amqp.publish(channel, "", WORK, "hello")
    message = take(channel, WORK)
    with pytest.raises(ServiceError, match=r"retry\.100ms"):
        plan.retry_later(channel, *message)
    channel.basic_nack(message[0].delivery_tag, requeue=True)
    message = take(channel, WORK)
    channel.exchange_delete(plan.waiting_queue(1))
    with pytest.raises(ServiceError, match=r"retry\.100ms"):
        plan.retry_later(channel, *message)
    assert take(channel.connection.channel(), WORK)[2] == b"hello"


def test_a_channel_closed_over_something_else_is_not_told_as_a_missing_queue(channel):
    plan = declare_retries(channel, WORK, [1], PACE)
    amqp.publish(channel, "", WORK, "hello")
    message = take(channel, WORK)
    channel.basic_ack(message[0].delivery_tag + 1)  # there is none: 406
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="unknown delivery tag"):
        plan.retry_later(channel, *message)


def test_queues_share_what_waits_and_each_gets_its_own_back(channel):
    queues = [WORK, "other", "third"]
    plans = [declare_retries(channel, queue, [1, 2], PACE) for queue in queues]
    assert len({tuple(plan.waiting_queues) for plan in plans}) == 1
    for queue, plan in zip(queues, plans, strict=True):
        channel.queue_declare(queue, passive=queue == WORK, durable=True)
        amqp.publish(channel, "", queue, f"of {queue}")
        plan.retry_later(channel, *take(channel, queue))
    for queue in queues:
        method, properties, body = take(channel, queue)
        assert body == f"of {queue}".encode()
        assert (method.routing_key, retries_of(properties)) == (queue, 1)
        assert channel.basic_get(queue) == (None, None, None)


def test_the_connection_lost_before_the_ack_leaves_two_and_never_none(vhost, channel):
    plan = declare_retries(channel, WORK, [1], PACE)
    amqp.publish(channel, "", WORK, "hello")
    doomed = amqp.connect(vhost.url, "doomed", heartbeat_wall_s=0)
    its_channel = doomed.channel()
    message = take(its_channel, WORK)
    its_channel.basic_ack = lambda *_: amqp.drop_socket(doomed)  # the copy is confirmed by then
    plan.retry_later(its_channel, *message)
    first, second = take(channel, WORK), take(channel, WORK)
    assert sorted(retries_of(m[1]) for m in (first, second)) == [0, 1]
    with pytest.raises(pika.exceptions.AMQPError):
        doomed.process_data_events(1)


def test_delays_may_change_without_a_refusal_and_may_be_equal(channel):
    declare_retries(channel, WORK, [1, 2], PACE)
    changed = declare_retries(channel, WORK, [1, 3, 3], PACE)
    assert changed.waiting_queues == ["retry.100ms", "retry.300ms"]
    amqp.publish(channel, "", WORK, "hello")
    for expected in (1, 3, 3, None):
        assert changed.retry_later(channel, *take(channel, WORK)) == expected


def test_delays_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="needs a delay"):
        Retries(WORK, [1, 0], PACE)
    with pytest.raises(InputError, match="can't grow"):
        retries.growing(0, times=3)
    assert retries.growing(1, times=4, factor=3) == (1, 3, 9, 27)


def test_a_consumer_s_handler_retries_until_the_work_can_be_done(vhost, channel):
    plan = declare_retries(channel, WORK, retries.growing(0.5, times=5), PACE)
    tries = []

    def handler(channel, method, properties, body):
        tries.append(retries_of(properties))
        if len(tries) < 4:
            plan.retry_later(channel, method, properties, body, because="closed")
        else:
            channel.basic_ack(method.delivery_tag)

    amqp.publish(channel, "", WORK, "hello")
    with Consumer(handler, WORK, vhost.url):
        eventually(lambda: len(tries) == 4)
    assert tries == [0, 1, 2, 3]
    assert channel.basic_get(WORK) == (None, None, None)
    assert channel.basic_get(DEAD) == (None, None, None)


def test_what_waits_survives_a_killed_broker(own_broker):
    """The broker dies while messages come back and others go in, the worst moment for it.

    A classic waiting queue lost nearly all that had come back by then (130 to 255, on 3.10.8), a
    quorum queue without at-least-once 57 to 758.
    """
    numbers = set()
    with own_broker.virtual_host("test") as room:
        connection = amqp.connect(room.url, "test", heartbeat_wall_s=0)
        channel = connection.channel()
        channel.queue_declare(WORK, durable=True)
        plan = declare_retries(channel, WORK, [20], PACE)
        time.sleep(SETTLED_WALL_S)
        while channel.queue_declare(WORK, passive=True).method.message_count < 100:
            for _ in range(10):
                number = str(len(numbers)).encode()
                amqp.publish(channel, plan.waiting_queue(20), WORK, number)
                numbers.add(number)
        own_broker.kill()
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()
        own_broker.start()
        connection = amqp.connect(room.url, "test", heartbeat_wall_s=0)
        channel = connection.channel()
        found = set()

        def all_are_back():
            while (message := channel.basic_get(WORK, auto_ack=True))[0]:
                found.add(message[2])
            return found == numbers

        eventually(all_are_back, 60)
        connection.close()
