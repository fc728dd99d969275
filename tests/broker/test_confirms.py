"""Publishing one by one, in batches and in a window of confirms, on a real broker."""

import contextlib
import threading
import time

import pika.exceptions
import pytest

from labkit import amqp
from labkit.confirms import (
    ConfirmWindow,
    publish_each,
    publish_in_batches,
    publish_in_window,
)
from labkit.errors import BrokerError, InputError, ServiceError
from tests.broker.fakes import eventually, server

#: Before RabbitMQ 4.2 a durable queue that was declared a second before a SIGKILL may be gone.
SETTLED_WALL_S = 3.0


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("letters", durable=True)
    yield channel
    connection.close()


def letters(number):
    return [("", "letters", str(n)) for n in range(number)]


def taken(channel, queue="letters"):
    """Every message that waits, taken out, as texts in the queue's order."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return bodies
        bodies.append(body.decode())


def expected(number):
    return [str(n) for n in range(number)]


def test_published_one_by_one_all_are_there_in_order(channel):
    assert publish_each(channel, letters(20)) == 20
    assert taken(channel) == expected(20)


def test_published_one_by_one_the_first_that_nobody_would_get_is_the_last(channel):
    with pytest.raises(pika.exceptions.UnroutableError):
        publish_each(channel, [("", "letters", "a"), ("", "nowhere", "b"), ("", "letters", "c")])
    assert taken(channel) == ["a"]


def test_a_window_publishes_all_in_order_and_flush_waits_for_the_last(vhost, channel):
    with ConfirmWindow(vhost.url, size=50) as window:
        assert publish_in_window(window, letters(500)) == []
        assert window.confirmed == 500
        assert window.unconfirmed == 0
    assert taken(channel) == expected(500)


def test_batches_wait_for_all_of_a_batch_before_the_next(vhost, channel):
    with ConfirmWindow(vhost.url, size=10) as window:
        behind = []

        def watched():
            for n, letter in enumerate(letters(35)):
                if n % 10 == 0:
                    behind.append(window.unconfirmed)
                yield letter

        # a batch is fetched as a whole, so its first letter is fetched when the last is confirmed
        assert publish_in_batches(window, watched(), size=10) == []
        assert behind == [0, 0, 0, 0]
        assert window.confirmed == 35
    assert taken(channel) == expected(35)


def test_a_batch_larger_than_the_window_is_refused(vhost):
    with ConfirmWindow(vhost.url, size=10) as window, pytest.raises(InputError, match="size=11"):
        publish_in_batches(window, letters(1), size=11)


def test_a_window_is_never_fuller_than_its_size(vhost, channel):
    most = 0
    with ConfirmWindow(vhost.url, size=7) as window:
        for exchange, key, body in letters(200):
            window.publish(exchange, key, body)
            most = max(most, window.unconfirmed)
        window.flush()
    assert 1 < most <= 7


def test_a_window_of_one_is_one_by_one(vhost, channel):
    with ConfirmWindow(vhost.url, size=1) as window:
        previous = window.publish("", "letters", "0")
        for n in range(1, 20):
            publication = window.publish("", "letters", str(n))
            assert previous.outcome == "confirmed"
            previous = publication
    assert taken(channel) == expected(20)


def test_what_is_published_is_persistent_and_keeps_its_properties(vhost, channel):
    with ConfirmWindow(vhost.url) as window:
        window.publish("", "letters", {"greeting": "hello"}, message_id="m-1", type="greeting")
    _, properties, body = channel.basic_get("letters", auto_ack=True)
    assert body == b'{"greeting": "hello"}'
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert (properties.message_id, properties.type) == ("m-1", "greeting")


def test_leaving_the_window_waits_for_the_confirms(vhost, channel):
    with ConfirmWindow(vhost.url) as window:
        publications = [window.publish(*letter) for letter in letters(90)]
    assert {p.outcome for p in publications} == {"confirmed"}
    assert len(taken(channel)) == 90


def test_many_threads_share_a_window(vhost, channel):
    with ConfirmWindow(vhost.url, size=20) as window:

        def publish(thread):
            for n in range(100):
                window.publish("", "letters", f"{thread}-{n:03d}")

        threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert window.flush() == []
    found = taken(channel)
    assert len(found) == 400
    for thread in range(4):
        of_thread = [body for body in found if body.startswith(f"{thread}-")]
        assert of_thread == sorted(of_thread)


def test_those_that_nobody_would_get_are_told_apart(vhost, channel):
    with ConfirmWindow(vhost.url) as window:
        publications = [
            window.publish("", "letters" if n % 3 else "nowhere", "same", message_id=str(n))
            for n in range(30)
        ]
        failed = window.flush()
        assert [p.properties.message_id for p in failed] == [str(n) for n in range(0, 30, 3)]
        assert {p.outcome for p in failed} == {"returned"}
        assert "NO_ROUTE" in failed[0].reason
        assert window.confirmed == 20
        assert window.flush() == []  # they are reported once
    assert [p.outcome for p in publications[:3]] == ["returned", "confirmed", "confirmed"]


def test_a_full_queue_nacks_and_the_rest_is_confirmed(vhost, channel):
    limit = {"x-max-length": 3, "x-overflow": "reject-publish"}
    channel.queue_declare("small", durable=True, arguments=limit)
    with ConfirmWindow(vhost.url, size=1) as window:
        for n in range(5):
            window.publish("", "small", str(n))
        failed = window.flush()
    assert {p.outcome for p in failed} == {"nacked"}
    assert taken(channel, "small") == ["0", "1", "2"]
    assert [p.body for p in failed] == [b"3", b"4"]


@pytest.mark.parametrize("again", [True, False])
def test_a_message_for_an_exchange_that_is_not_there_is_reported(vhost, channel, again):
    with ConfirmWindow(vhost.url, again=again) as window:
        publications = [
            window.publish("absent" if n == 10 else "", "letters", str(n)) for n in range(20)
        ]
        failed = window.flush()
        window.publish("", "letters", "after")
        assert window.flush() == []
    found = taken(channel)
    assert found[-1] == "after"
    if again:  # that one alone: the others were published again
        assert failed == [publications[10]]
        assert failed[0].outcome == "refused"
        assert "absent" in failed[0].reason
        assert {str(n) for n in range(20) if n != 10} <= set(found)
    else:  # the broker closed the channel, so all that it had not answered are in doubt
        assert publications[10] in failed
        assert {p.outcome for p in failed} == {"unknown"}
        assert {p.body.decode() for p in publications if p.outcome == "confirmed"} <= set(found)


@pytest.mark.parametrize("again", [True, False])
def test_a_message_over_which_the_broker_closes_the_connection_is_reported(vhost, channel, again):
    """A frame with headers may not be larger than was agreed, and pika does not look."""
    too_large = {"headers": {"note": "x" * 200_000}}
    with ConfirmWindow(vhost.url, again=again) as window:
        publications = [
            window.publish("", "letters", str(n), **(too_large if n == 10 else {}))
            for n in range(20)
        ]
        failed = window.flush()
        window.publish("", "letters", "after")
        assert window.flush() == []
    found = taken(channel)
    assert found[-1] == "after"
    if again:
        assert failed == [publications[10]]
        assert failed[0].outcome == "refused"
        assert "frame_too_large" in failed[0].reason
        assert {str(n) for n in range(20) if n != 10} <= set(found)
    else:
        assert publications[10] in failed
        assert {p.outcome for p in failed} == {"unknown"}


@pytest.mark.parametrize(
    ("routing_key", "properties"),
    [("x" * 300, {}), ("letters", {"headers": {"price": 9.99}})],
    ids=["long routing key", "float in a header"],
)
def test_what_pika_can_not_send_is_raised_to_the_caller(vhost, channel, routing_key, properties):
    with ConfirmWindow(vhost.url) as window:
        with pytest.raises(pika.exceptions.AMQPError):
            window.publish("", routing_key, "bad", **properties)
        window.publish("", "letters", "good")
    assert taken(channel) == ["good"]


def test_failures_that_nobody_asked_for_are_raised_at_the_end(vhost):
    with (
        pytest.raises(ServiceError, match=r"1 messages .*\n.*'nowhere'.*returned"),
        ConfirmWindow(vhost.url) as window,
    ):
        window.publish("", "nowhere", "lost")


def broken_again_and_again(window, times):
    """Cuts the window's connection, and again whenever it has a new one."""
    for n in range(1, times + 1):
        eventually(lambda n=n: window.connections >= n and window.connected)
        with contextlib.suppress(AttributeError):  # it may be lost at this very moment
            window._session.drop()


def test_a_lost_connection_loses_nothing(vhost, channel):
    with ConfirmWindow(vhost.url, size=50) as window:
        cutting = threading.Thread(target=broken_again_and_again, args=(window, 5))
        cutting.start()
        published = 0
        while cutting.is_alive() or published < 500:
            window.publish("", "letters", str(published))
            published += 1
        cutting.join()
        assert window.flush() == []
        eventually(lambda: window.connections == 6)
        assert window.confirmed == published
        again = window.published_again
    found = taken(channel)
    assert set(found) == set(expected(published))
    assert len(found) <= published + again


def test_where_the_caller_decides_a_lost_connection_is_reported(vhost, channel):
    with ConfirmWindow(vhost.url, size=50, again=False) as window:
        publications = []
        cutting = threading.Thread(target=broken_again_and_again, args=(window, 5))
        cutting.start()
        while cutting.is_alive():
            publications.append(window.publish("", "letters", str(len(publications))))
        cutting.join()
        failed = window.flush()
        assert window.published_again == 0
    assert {p.outcome for p in publications} <= {"confirmed", "unknown"}
    assert failed == [p for p in publications if p.outcome == "unknown"]
    found = taken(channel)
    assert len(found) == len(set(found))  # nothing was sent twice
    assert {p.body.decode() for p in publications if p.outcome == "confirmed"} <= set(found)


def test_a_broker_that_is_killed_and_comes_back_gets_every_message(own_broker):
    connection = amqp.connect(own_broker.url, "test", heartbeat_wall_s=0)
    connection.channel().queue_declare("letters", durable=True)
    connection.close()
    time.sleep(SETTLED_WALL_S)
    with ConfirmWindow(own_broker.url, size=20) as window:
        publish_in_window(window, letters(100))
        own_broker.kill()
        back = threading.Thread(target=own_broker.start)
        for n in range(100, 110):
            window.publish("", "letters", str(n))
        with pytest.raises(ServiceError, match="without a confirm"):
            window.flush(timeout_wall_s=0.2)
        back.start()
        assert publish_in_window(window, letters(200)[110:]) == []
        back.join()
        assert window.confirmed == 200
    connection = amqp.connect(own_broker.url, "test")
    found = taken(connection.channel())
    connection.close()
    assert set(found) == set(expected(200))


def test_a_window_ends_soon_without_a_broker_and_says_what_is_missing(vhost):
    window = ConfirmWindow(vhost.url, size=20).start()
    vhost.stop()  # gone, with its connections; no new one is let in
    eventually(lambda: not window.connected)
    publications = [window.publish("", "letters", str(n)) for n in range(5)]
    start = time.monotonic()
    with pytest.raises(ServiceError, match="5 messages were not confirmed"):
        window.stop()
    assert time.monotonic() - start < 5
    assert {p.outcome for p in publications} == {"unknown"}
    window.stop()  # again does no harm


def test_a_publisher_that_waits_at_a_full_window_is_woken_by_its_end(vhost):
    window = ConfirmWindow(vhost.url, size=2).start()
    window._session.ready = False  # as while the broker is away: nothing goes out
    raised = []

    def publish():
        try:
            for n in range(3):
                window.publish("", "letters", str(n))
        except ServiceError as exc:
            raised.append(exc)

    thread = threading.Thread(target=publish)
    thread.start()
    eventually(lambda: window.unconfirmed == 2)
    with pytest.raises(ServiceError, match="2 messages were not confirmed"):
        window.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert "does not run" in str(raised[0])


def test_a_window_that_does_not_run_takes_nothing(vhost):
    with pytest.raises(ServiceError, match="does not run"):
        ConfirmWindow(vhost.url).publish("", "letters", "early")


def test_a_window_can_be_started_again(vhost, channel):
    window = ConfirmWindow(vhost.url)
    for round_ in range(3):
        with window:
            window.publish("", "letters", str(round_))
    assert taken(channel) == ["0", "1", "2"]


def test_a_window_without_a_place_is_refused(vhost):
    with pytest.raises(InputError, match="size=0"):
        ConfirmWindow(vhost.url, size=0)


def test_a_start_without_a_broker_says_why(broker):
    with pytest.raises(BrokerError, match="No broker answers"):
        ConfirmWindow("amqp://guest:guest@127.0.0.1:1/").start()
    password = amqp.address.parse(broker.url).password
    with pytest.raises(BrokerError, match="user or the password") as caught:
        ConfirmWindow(broker.url.replace(password, "wrong")).start()
    assert password not in str(caught.value)
    with pytest.raises(BrokerError, match="virtual host"):
        ConfirmWindow(amqp.address.with_vhost(broker.url, "nowhere")).start()


def test_a_window_that_is_ended_before_the_broker_has_said_a_word_ends_at_once():
    with server(None) as port:
        window = ConfirmWindow(f"amqp://guest:guest@127.0.0.1:{port}/")

        def end():
            eventually(lambda: (session := window._session) and session._socket())
            window._background.signal()

        ending = threading.Thread(target=end)
        ending.start()
        start = time.monotonic()
        with pytest.raises(ServiceError, match="did not get a connection"):
            window.start()
        ending.join()
        assert time.monotonic() - start < 4  # pika gives up after 5 s


def test_bodies_of_any_size_arrive_whole(vhost, channel):
    """A frame takes 131,072 bytes, eight of which are its own; a larger body needs several."""
    bodies = [b"x" * size for size in (0, 1, 131_063, 131_064, 131_065, 200_000, 300_000)]
    with ConfirmWindow(vhost.url, size=len(bodies)) as window:
        assert not publish_in_window(window, [("", "letters", body) for body in bodies])
    assert [channel.basic_get("letters", auto_ack=True)[2] for _ in bodies] == bodies
