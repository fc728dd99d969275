"""Consumers in the background, and what they survive, on a real broker."""

import threading
import time

import pytest

from labkit import amqp
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import MessageError, ServiceError
from labkit.events import Recorder
from labkit.start_consuming import in_background
from tests.broker.fakes import eventually

#: Before RabbitMQ 4.2 a durable queue that was declared a second before a SIGKILL is gone once in
#: some ten times (seen on 3.10.8 and 4.0.5 in full runs of this suite). What is older survives.
SETTLED_WALL_S = 3.0


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("work", durable=True)
    channel.confirm_delivery()
    yield channel
    connection.close()


def put(channel, number, queue="work"):
    for n in range(number):
        amqp.publish(channel, "", queue, str(n), correlation_id=f"order-{n}")


def ready(channel, queue="work"):
    return channel.queue_declare(queue, passive=True).method.message_count


class Taker:
    """Takes messages, one after the other, and remembers them."""

    def __init__(self):
        self.bodies = []

    def __call__(self, channel, method, properties, body):
        self.bodies.append(body.decode())
        channel.basic_ack(method.delivery_tag)


def test_messages_come_in_order_and_are_gone_when_acknowledged(vhost, channel):
    put(channel, 20)
    taker, recorder = Taker(), Recorder()
    with Consumer(taker, "work", vhost.url, recorder=recorder) as consumer:
        eventually(lambda: recorder.count("acked") == 20)
        assert consumer.in_hand == 0
    assert taker.bodies == [str(n) for n in range(20)]
    assert ready(channel) == 0
    delivered = [e for e in recorder if e.kind == "delivered"]
    assert delivered[0].order_id == "order-0"
    assert delivered[0].detail == "work"


def test_a_queue_that_does_not_exist_fails_the_start_by_its_name(vhost):
    with pytest.raises(ServiceError, match="nowhere"):
        Consumer(Taker(), "nowhere", vhost.url).start()


@pytest.mark.parametrize("prefetch", [1, 100])
def test_stop_ends_within_a_bounded_time_with_a_backlog(vhost, channel, prefetch):
    put(channel, 200)
    first = threading.Event()

    def slow(channel, method, properties, body):
        first.set()
        time.sleep(0.05)
        channel.basic_ack(method.delivery_tag)

    recorder = Recorder()
    consumer = Consumer(slow, "work", vhost.url, prefetch=prefetch, recorder=recorder).start()
    assert first.wait(10)
    start = time.monotonic()
    consumer.stop()
    assert time.monotonic() - start < 5  # the backlog takes 10 s
    done = recorder.count("acked")
    assert done < 100
    eventually(lambda: ready(channel) == 200 - done)  # what was prefetched is back


def test_a_crash_in_the_middle_of_a_message_has_it_delivered_again(vhost, channel):
    put(channel, 1)
    inside, worked = threading.Event(), []

    def handler(channel, method, properties, body):
        inside.set()
        Pace(1).wait(0.01 if method.redelivered else 600)
        worked.append(method.redelivered)
        channel.basic_ack(method.delivery_tag)

    recorder = Recorder()
    consumer = Consumer(handler, "work", vhost.url, recorder=recorder).start()
    assert inside.wait(10)
    consumer.crash()
    eventually(lambda: ready(channel) == 1)
    consumer.restart()
    eventually(lambda: recorder.count("acked") == 1)
    consumer.stop()
    assert worked == [True]  # the first delivery's work went no further
    kinds = [e.kind for e in recorder if e.kind != "up"]
    assert kinds == ["delivered", "crashed", "redelivered", "acked", "stopped"]


def test_a_crash_lets_no_handler_answer_even_one_that_it_can_not_end(vhost, channel):
    put(channel, 1)
    inside, go_on, answered = threading.Event(), threading.Event(), []

    def handler(channel, method, properties, body):
        inside.set()
        if not method.redelivered:
            go_on.wait(20)
        channel.basic_ack(method.delivery_tag)
        answered.append(method.redelivered)

    recorder = Recorder()
    with Consumer(handler, "work", vhost.url, recorder=recorder) as consumer:
        assert inside.wait(10)
        consumer.crash()
        go_on.set()
        consumer.restart()
        eventually(lambda: recorder.count("acked") == 1)
    assert answered == [True]


def test_each_thread_has_a_connection_and_they_work_at_the_same_time(vhost, channel):
    put(channel, 4)
    together = threading.Barrier(4)

    def handler(channel, method, properties, body):
        together.wait(20)
        channel.basic_ack(method.delivery_tag)

    recorder = Recorder()
    with Consumer(handler, "work", vhost.url, threads=4, recorder=recorder):
        eventually(lambda: recorder.count("acked") == 4)


def test_a_message_error_rejects_the_message_and_the_next_is_served(vhost, channel):
    channel.exchange_declare("dead", "fanout", durable=True)
    channel.queue_declare("dead", durable=True)
    channel.queue_bind("dead", "dead")
    channel.queue_declare("strict", durable=True, arguments={"x-dead-letter-exchange": "dead"})
    amqp.publish(channel, "", "strict", "bad")
    amqp.publish(channel, "", "strict", "good")
    taker = Taker()

    def strict(channel, method, properties, body):
        if body == b"bad":
            raise MessageError("Bad.")
        taker(channel, method, properties, body)

    recorder = Recorder()
    with Consumer(strict, "strict", vhost.url, recorder=recorder):
        eventually(lambda: taker.bodies == ["good"])
    assert recorder.count("rejected") == 1
    eventually(lambda: ready(channel, "dead") == 1)


def test_a_handler_that_fails_ends_the_consumer_and_the_message_is_back(vhost, channel):
    put(channel, 1)

    def broken(*_):
        raise ValueError("the test's own")

    consumer = Consumer(broken, "work", vhost.url).start()
    eventually(lambda: not consumer.running)
    with pytest.raises(ServiceError, match="the test's own"):
        consumer.raise_if_failed()
    with pytest.raises(ServiceError):
        consumer.stop()
    eventually(lambda: ready(channel) == 1)


def test_a_handler_that_fails_at_once_is_no_failed_start(vhost, channel, monkeypatch):
    """Here it has failed by the time that the start looks."""
    put(channel, 1)

    def broken(*_):
        raise ValueError("the test's own")

    consumer = Consumer(broken, "work", vhost.url)
    make = consumer._worker

    def seen_late(number):
        worker = make(number)
        wait = worker.ready.wait
        worker.ready.wait = lambda wall_s: wait(wall_s) and worker.background.join(wall_s)
        return worker

    monkeypatch.setattr(consumer, "_worker", seen_late)
    consumer.start()
    with pytest.raises(ServiceError, match="the test's own"):
        consumer.stop()


def test_acknowledging_twice_is_reported_as_what_it_is(vhost, channel):
    put(channel, 1)

    def twice(channel, method, properties, body):
        channel.basic_ack(method.delivery_tag)
        channel.basic_ack(method.delivery_tag)

    consumer = Consumer(twice, "work", vhost.url).start()
    eventually(lambda: not consumer.running)
    with pytest.raises(ServiceError):
        consumer.stop()


def test_a_queue_that_is_deleted_under_it_ends_the_consumer_with_the_reason(vhost, channel):
    consumer = Consumer(Taker(), "work", vhost.url).start()
    channel.queue_delete("work")
    eventually(lambda: not consumer.running)
    with pytest.raises(ServiceError, match="no longer gets messages"):
        consumer.stop()


def test_it_reconnects_when_the_broker_was_killed_and_is_back(own_broker):
    connection = amqp.connect(own_broker.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("work", durable=True)
    put(channel, 100)
    connection.close()
    time.sleep(SETTLED_WALL_S)
    taker, recorder = Taker(), Recorder()

    def steady(channel, method, properties, body):
        time.sleep(0.01)
        taker(channel, method, properties, body)

    with Consumer(steady, "work", own_broker.url, prefetch=10, recorder=recorder):
        eventually(lambda: len(taker.bodies) > 10)
        own_broker.kill()
        eventually(lambda: recorder.count("reconnecting") > 0)
        own_broker.start()
        eventually(lambda: len(set(taker.bodies)) == 100, within_wall_s=60)
    assert set(taker.bodies) == {str(n) for n in range(100)}


def test_a_queue_that_is_back_later_than_the_connection_is_consumed_again(
    vhost, channel, monkeypatch
):
    gone, connect = threading.Event(), amqp.connect
    taker, recorder = Taker(), Recorder()
    with Consumer(taker, "work", vhost.url, recorder=recorder) as consumer:
        (worker,) = consumer._workers
        monkeypatch.setattr(amqp, "connect", lambda *a, **k: gone.wait(20) and connect(*a, **k))
        amqp.drop_socket(worker._connection)
        channel.queue_delete("work")
        gone.set()
        eventually(lambda: any("NOT_FOUND" in str(e.detail) for e in recorder))
        channel.queue_declare("work", durable=True)
        put(channel, 1)
        eventually(lambda: taker.bodies == ["0"])


def test_a_class_of_your_own_runs_in_the_background_until_it_is_stopped(vhost, channel):
    put(channel, 3)

    class MyService:
        def __init__(self, url):
            self.connection = amqp.connect(url, "mine")
            self.channel = self.connection.channel()
            self.taker = Taker()
            self.channel.basic_consume("work", self.taker)

        def start_consuming(self):
            self.channel.start_consuming()

    service = MyService(vhost.url)
    background = in_background(service)
    eventually(lambda: len(service.taker.bodies) == 3)
    background.stop()
    assert not background.running
    assert not service.connection.is_open


def test_a_class_that_nothing_could_stop_is_refused():
    class Endless:
        def start_consuming(self):
            raise AssertionError

    with pytest.raises(ServiceError, match="connection"):
        in_background(Endless())
