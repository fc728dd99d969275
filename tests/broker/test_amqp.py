"""Connections and confirmed publishes, on a real broker."""

import threading
import time

import pika.exceptions
import pytest

from labkit import amqp
from labkit.errors import BrokerError, InputError


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test")
    yield connection.channel()
    if connection.is_open:
        connection.close()


def test_a_published_message_is_persistent_and_json(channel):
    channel.queue_declare("letters", durable=True)
    amqp.publish(channel, "", "letters", {"greeting": "hello"}, correlation_id="order-1")
    _, properties, body = channel.basic_get("letters", auto_ack=True)
    assert body == b'{"greeting": "hello"}'
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.correlation_id == "order-1"


def test_a_message_that_nobody_would_get_is_reported(channel):
    with pytest.raises(pika.exceptions.UnroutableError):
        amqp.publish(channel, "", "nowhere", "hello")


def test_a_full_queue_refuses(channel):
    channel.queue_declare(
        "small", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    amqp.publish(channel, "", "small", "first")
    with pytest.raises(pika.exceptions.NackError):
        amqp.publish(channel, "", "small", "second")


def test_each_thread_publishes_on_a_connection_of_its_own(vhost, channel):
    channel.queue_declare("letters", durable=True)
    with amqp.Publisher(vhost.url) as publisher:
        threads = [
            threading.Thread(
                target=lambda: [publisher.publish("", "letters", "hello") for _ in range(50)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(publisher.channels.connections) == 4
    assert channel.queue_declare("letters", passive=True).method.message_count == 200


def test_a_publisher_whose_connection_was_lost_opens_another(vhost, channel):
    channel.queue_declare("letters", durable=True)
    with amqp.Publisher(vhost.url) as publisher:
        publisher.publish("", "letters", "one")
        amqp.drop_socket(publisher.channels.connections[0])
        publisher.publish("", "letters", "two")
    assert channel.queue_declare("letters", passive=True).method.message_count == 2


def test_a_virtual_host_that_is_not_there_is_named_and_the_password_is_not(broker):
    url = amqp.address.with_vhost(broker.url, "nowhere")
    with pytest.raises(BrokerError, match="virtual host") as caught:
        amqp.connect(url)
    assert "nowhere" in str(caught.value)
    assert amqp.address.parse(broker.url).password not in str(caught.value)


def test_a_wrong_password_is_told_apart(broker):
    password = amqp.address.parse(broker.url).password
    with pytest.raises(BrokerError, match="user or the password"):
        amqp.connect(broker.url.replace(password, "wrong"))


def test_a_host_where_nobody_listens_is_told():
    with pytest.raises(BrokerError, match="No broker answers"):
        amqp.connect("amqp://guest:guest@127.0.0.1:1/")


@pytest.mark.parametrize("url", ["http://127.0.0.1", "amqp//x", "", "rabbit"])
def test_what_is_no_amqp_url_is_refused(url):
    with pytest.raises((InputError, BrokerError)):
        amqp.connect(url)


def test_a_connection_is_ended_whose_thread_crashed_while_it_opened_a_channel(vhost):
    connection = amqp.connect(vhost.url, "test")
    connection._impl.channel(on_open_callback=lambda _: None)  # what such a thread leaves
    socket = amqp.socket_of(connection)
    amqp.end(connection)
    assert not connection.is_open
    assert socket.fileno() == -1
    amqp.end(connection)  # twice does no harm


def test_a_connection_is_ended_that_no_longer_reads_its_socket(vhost, monkeypatch):
    monkeypatch.setattr(amqp, "GOODBYE_WALL_S", 0.2)
    connection = amqp.connect(vhost.url, "test")
    connection.channel()
    socket = amqp.socket_of(connection)
    connection._impl.ioloop.remove_handler(socket.fileno())  # what a crash in pika's work leaves
    started = time.monotonic()
    amqp.end(connection)
    assert time.monotonic() - started < 5
    socket.close()
