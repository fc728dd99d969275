"""Work longer than a heartbeat, on a real broker: in the callback, and beside the connection."""

from __future__ import annotations

import threading
import time

import pika.exceptions
import pytest

from labkit import amqp
from labkit.errors import MessageError, ServiceError
from labkit.events import Recorder
from labkit.long_work import LongWork
from tests.broker.fakes import eventually

QUEUE, DEAD = "long", "dead"


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare(DEAD, durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)
    channel.confirm_delivery()
    yield channel
    connection.close()


def put(channel, *bodies):
    for body in bodies:
        amqp.publish(channel, "", QUEUE, body, correlation_id=body)


def take(channel, queue):
    def got():
        message = channel.basic_get(queue, auto_ack=True)
        return message if message[0] else None

    return eventually(got)


def test_work_in_the_callback_longer_than_the_heartbeat_comes_back(vhost, channel):
    """What the module is for: without it the broker hangs up, and delivers again."""
    put(channel, "report")
    inside, hung_up, lost = threading.Event(), threading.Event(), threading.Event()

    def on_message(its_channel, method, properties, body):
        inside.set()
        hung_up.wait(20)  # the work: as long as it takes the broker to lose patience
        its_channel.basic_ack(method.delivery_tag)

    def consume():
        connection = amqp.connect(vhost.url, "in the callback", heartbeat_wall_s=1)
        its_channel = connection.channel()
        its_channel.basic_consume(QUEUE, on_message)
        try:
            its_channel.start_consuming()
        except pika.exceptions.AMQPError:
            lost.set()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        assert inside.wait(10)
        method, _, _ = take(channel, QUEUE)
    finally:
        hung_up.set()
        thread.join(10)
    assert method.redelivered
    assert lost.is_set()


def test_work_beside_the_connection_may_take_longer_than_the_heartbeat(vhost, channel):
    put(channel, "report")
    recorder, workers = Recorder(), []

    def work(body):
        workers.append(threading.current_thread().name)
        time.sleep(7)  # the broker hangs up after 4 to 6 s without a sign of life

    with LongWork(work, QUEUE, vhost.url, heartbeat_wall_s=2, recorder=recorder):
        eventually(lambda: recorder.count("acked"))
    assert [e.kind for e in recorder] == ["delivered", "acked"]
    assert workers == ["long-worker-1"]
    assert channel.basic_get(QUEUE)[0] is None


def test_two_workers_work_at_the_same_time_and_hold_no_more_than_two(vhost, channel):
    put(channel, "one", "two", "three")
    both, go_on = threading.Barrier(3), threading.Event()

    def work(body):
        if body != b"three":
            both.wait(10)
            go_on.wait(10)

    recorder = Recorder()
    with LongWork(work, QUEUE, vhost.url, workers=2, recorder=recorder):
        both.wait(10)
        assert recorder.count("delivered") == 2
        go_on.set()
        eventually(lambda: recorder.count("acked") == 3)


def test_stop_lets_the_work_end_and_acknowledges_it(vhost, channel):
    put(channel, "one", "two")
    inside, done = threading.Event(), []

    def work(body):
        inside.set()
        service._owner.stopping.wait(20)
        time.sleep(0.5)
        done.append(body)

    service = LongWork(work, QUEUE, vhost.url)
    service.start()
    assert inside.wait(10)
    service.stop()
    service.stop()
    assert done == [b"one"]
    assert take(channel, QUEUE)[2] == b"two"
    assert channel.basic_get(QUEUE)[0] is None


def test_a_message_that_can_t_be_used_is_rejected_and_the_next_one_is_done(vhost, channel):
    put(channel, "bad", "good")
    done = []

    def work(body):
        if body == b"bad":
            raise MessageError("This is no report.")
        done.append(body)

    with LongWork(work, QUEUE, vhost.url):
        eventually(lambda: done)
    assert take(channel, DEAD)[2] == b"bad"


def test_a_failure_of_the_work_ends_it_and_the_message_is_back(vhost, channel):
    put(channel, "report")

    def work(body):
        raise ValueError("out of paper")

    service = LongWork(work, QUEUE, vhost.url).start()
    eventually(lambda: not service.running)
    with pytest.raises(ServiceError, match="out of paper"):
        service.raise_if_failed()
    with pytest.raises(ServiceError, match="out of paper"):
        service.stop()
    assert take(channel, QUEUE)[0].redelivered


def test_a_connection_lost_during_the_work_has_the_message_delivered_again(vhost, channel):
    put(channel, "report")
    inside, times = threading.Event(), []

    def work(body):
        times.append(body)
        inside.set()
        if len(times) == 1:
            eventually(lambda: len(recorder_kinds()) > 1)

    recorder = Recorder()

    def recorder_kinds():
        return [e.kind for e in recorder]

    with LongWork(work, QUEUE, vhost.url, recorder=recorder) as service:
        assert inside.wait(10)
        amqp.drop_socket(service._connection)
        eventually(lambda: recorder.count("acked"))
    assert recorder_kinds() == ["delivered", "reconnecting", "redelivered", "acked"]
    assert len(times) == 2
    assert channel.basic_get(QUEUE)[0] is None


def test_without_its_queue_it_does_not_start(vhost):
    with pytest.raises(ServiceError, match="nowhere"):
        LongWork(lambda body: None, "nowhere", vhost.url).start()
