"""What labkit's consumer and publish cost, against bare pika doing the same."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import pika

from benchmarks.figures import MANY_ROUNDS, Figure, in_turn, spread
from labkit import amqp
from labkit.consumer import Consumer
from labkit.events import Recorder

BODY = b"x" * 200
MESSAGES = 10_000
PUBLISHES = 300


def _fill(url: str, queue: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True)
    for _ in range(MESSAGES):
        channel.basic_publish("", queue, BODY, pika.BasicProperties(correlation_id="order-1"))
    while channel.queue_declare(queue, passive=True).method.message_count < MESSAGES:
        time.sleep(0.01)
    connection.close()


def _bare_consumer(url: str, queue: str) -> float:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    seen, start = 0, 0.0

    def callback(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        nonlocal seen, start
        start = start or time.perf_counter()  # the first delivery: both sides are connected
        channel.basic_ack(method.delivery_tag)
        seen += 1
        if seen == MESSAGES:
            channel.stop_consuming()

    channel.basic_consume(queue, callback)
    channel.start_consuming()
    rate = MESSAGES / (time.perf_counter() - start)
    connection.close()
    return rate


def _labkit_consumer(url: str, queue: str) -> float:
    seen, start = 0, 0.0
    done = threading.Event()

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        nonlocal seen, start
        start = start or time.perf_counter()
        channel.basic_ack(method.delivery_tag)
        seen += 1
        if seen == MESSAGES:
            done.set()

    with Consumer(handler, queue, url, prefetch=100, recorder=Recorder()):
        done.wait(120)
        return MESSAGES / (time.perf_counter() - start)


def consumer(url: str) -> Figure:
    """Consume and acknowledge, messages a second, at prefetch 100."""
    ratios = []
    for n, sides in enumerate(in_turn(_bare_consumer, _labkit_consumer, rounds=MANY_ROUNDS)):
        rates = {}
        for measure in sides:
            _fill(url, f"bench-{n}-{measure.__name__}")
            rates[measure] = measure(url, f"bench-{n}-{measure.__name__}")
        ratios.append(rates[_labkit_consumer] / rates[_bare_consumer])
    ratios = ratios[1:]  # the first warms up
    name = "Consumer, handler that does nothing, prefetch 100, recorder on / bare pika loop"
    return Figure(name, statistics.median(ratios), 0.90, at_least=True, note=spread(ratios))


def publish(url: str) -> Figure:
    """Confirmed, persistent, mandatory publishes a second."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare("bench-publish", durable=True)
    channel.confirm_delivery()

    def bare() -> None:
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/octet-stream")
        channel.basic_publish("", "bench-publish", BODY, properties, mandatory=True)

    def ours() -> None:
        amqp.publish(channel, "", "bench-publish", BODY)

    def rate(send: Any) -> float:
        start = time.perf_counter()
        for _ in range(PUBLISHES):
            send()
        return PUBLISHES / (time.perf_counter() - start)

    ratios = []
    # Short rounds, so that both sides of each see the same pace of the broker's disk.
    for sides in in_turn(ours, bare, rounds=5 * MANY_ROUNDS):
        rates = {send: rate(send) for send in sides}
        channel.queue_purge("bench-publish")
        ratios.append(rates[ours] / rates[bare])
    ratios = ratios[1:]  # the first warms up
    channel.queue_delete("bench-publish")
    connection.close()
    name = "confirmed publish through labkit / bare pika"
    return Figure(name, statistics.median(ratios), 0.95, at_least=True, note=spread(ratios))
