"""The line that goes dead before it breaks."""

from __future__ import annotations

import threading

import pika.exceptions
import pytest

from labkit import amqp
from labkit.errors import InputError
from labkit.faults.wire import Wire
from tests.broker.fakes import eventually


@pytest.fixture
def wire(vhost):
    with Wire(vhost.url) as made:
        yield made


@pytest.fixture
def queue(vhost):
    connection = amqp.connect(vhost.url)
    channel = connection.channel()
    channel.queue_declare("orders", durable=True)
    yield channel
    connection.close()


def taken(channel):
    """The bodies of all that waits, taken out."""
    bodies = []
    while (found := channel.basic_get("orders", auto_ack=True))[0] is not None:
        bodies.append(found[2].decode())
    return bodies


def test_a_sound_line_carries_what_is_published_and_confirmed(wire, queue):
    connection = amqp.connect(wire.url)
    amqp.publish(connection.channel(), "", "orders", "an order")
    connection.close()
    assert taken(queue) == ["an order"]
    assert wire.lost_bytes == 0


def test_a_publish_into_a_dead_line_raises_nothing_and_arrives_nowhere(wire, queue):
    connection = amqp.connect(wire.url)
    channel = connection.channel()
    wire.go_dead("to broker")
    channel.basic_publish("", "orders", b"lost")
    eventually(lambda: wire.lost_bytes > 0)
    wire.mend()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(30)
    assert taken(queue) == []


def test_a_confirm_that_is_lost_leaves_the_message_with_the_broker(wire, queue):
    connection = amqp.connect(wire.url)
    channel = connection.channel()
    channel.confirm_delivery()
    wire.go_dead("from broker")

    def mend_once_it_is_lost():
        eventually(lambda: wire.lost_bytes > 0, 30)
        wire.mend()

    mending = threading.Thread(target=mend_once_it_is_lost)
    mending.start()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        channel.basic_publish("", "orders", b"there")
    mending.join()
    eventually(lambda: queue.queue_declare("orders", passive=True).method.message_count == 1)
    assert taken(queue) == ["there"]


def test_a_mended_line_carries_new_connections(wire, queue):
    wire.go_dead("to broker")
    wire.mend()
    connection = amqp.connect(wire.url)
    amqp.publish(connection.channel(), "", "orders", "after")
    connection.close()
    assert taken(queue) == ["after"]


def test_it_can_be_stopped_twice_and_with_connections_open(wire, queue):
    connection = amqp.connect(wire.url)
    wire.stop()
    wire.stop()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(30)


def test_what_makes_no_sense_is_refused(wire):
    with pytest.raises(InputError, match="no such way"):
        wire.go_dead("sideways")
    with pytest.raises(InputError, match="encrypted"):
        Wire("amqps://host")
