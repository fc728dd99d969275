"""Dead letters on a real broker: why they died, and how they come back."""

from __future__ import annotations

import contextlib

import pika
import pika.exceptions
import pytest

from labkit import amqp, dead_letters
from labkit.clock import Pace
from labkit.retries import RETRIES_HEADER, Retries, declare_retries
from tests.broker.fakes import eventually

WORK, SHORT, DEAD = "work", "short_lived", "dead"


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare(DEAD, durable=True)
    dying = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    channel.queue_declare(WORK, durable=True, arguments=dying)
    channel.queue_declare(SHORT, durable=True, arguments=dying | {"x-message-ttl": 1})
    channel.confirm_delivery()
    yield channel
    if connection.is_open:
        connection.close()


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def die(channel, *orders, queue=WORK, **properties):
    """Lets messages be rejected, one after the other, and waits until they are dead letters."""
    for order in orders:
        there = ready(channel, DEAD)
        amqp.publish(channel, "", queue, f"about {order}", correlation_id=order, **properties)
        if queue == WORK:
            channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
        eventually(lambda there=there: ready(channel, DEAD) == there + 1)


def bodies(channel, queue):
    found = []
    while (message := channel.basic_get(queue, auto_ack=True))[0]:
        found.append(message[2].decode())
    return found


def test_a_letter_tells_where_and_why_it_died_and_reading_leaves_it_there(channel):
    die(channel, "order-1")
    die(channel, "order-2", queue=SHORT)
    letters = dead_letters.look(channel, DEAD)
    seen = [(letter.order_id, letter.queue, letter.reason) for letter in letters]
    assert seen == [("order-1", WORK, "rejected"), ("order-2", SHORT, "expired")]
    assert letters[0].body == b"about order-1"
    assert [letter.order_id for letter in dead_letters.look(channel, DEAD, most=1)] == ["order-1"]
    assert bodies(channel, DEAD) == ["about order-1", "about order-2"]


def test_a_letter_that_was_tried_again_tells_how_often_and_why(channel):
    retries = declare_retries(channel, WORK, [0.01], Pace(10))
    amqp.publish(channel, "", WORK, "hello")
    for _ in range(2):
        message = eventually(lambda: (m := channel.basic_get(WORK))[0] and m)
        retries.retry_later(channel, *message, because="the carrier is closed")
    eventually(lambda: ready(channel, DEAD))
    (letter,) = dead_letters.look(channel, DEAD)
    assert (letter.queue, letter.reason) == (WORK, "rejected")  # not the waiting queue, `expired`
    assert (letter.retries, letter.because) == (1, "the carrier is closed")


def test_all_go_back_each_to_where_it_died_and_begin_anew(channel):
    die(channel, "order-1", headers={RETRIES_HEADER: 4, "kept": "yes"}, message_id="m-1")
    channel.queue_declare("other", durable=True, arguments=dying_into(DEAD))
    amqp.publish(channel, "", "other", "from elsewhere")
    channel.basic_reject(channel.basic_get("other")[0].delivery_tag, requeue=False)
    eventually(lambda: ready(channel, DEAD) == 2)
    result = dead_letters.put_back(channel, DEAD)
    assert (len(result.done), result.stuck, result.left) == (2, [], 0)
    assert bodies(channel, "other") == ["from elsewhere"]
    _, properties, body = channel.basic_get(WORK)
    assert body == b"about order-1"
    assert properties.headers == {"kept": "yes", dead_letters.PUT_BACK_HEADER: 1}
    assert (properties.message_id, properties.correlation_id) == ("m-1", "order-1")
    assert bodies(channel, DEAD) == []


def dying_into(queue):
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def test_some_go_back_and_the_others_stay_in_their_order(channel):
    die(channel, "order-1", "order-2", "order-3", "order-4")
    wanted = {"order-2", "order-3"}
    result = dead_letters.put_back(channel, DEAD, lambda letter: letter.order_id in wanted)
    assert [letter.order_id for letter in result.done] == ["order-2", "order-3"]
    assert result.left == 2
    assert bodies(channel, WORK) == ["about order-2", "about order-3"]
    assert bodies(channel, DEAD) == ["about order-1", "about order-4"]


def test_a_letter_that_dies_again_at_once_does_not_go_round(channel):
    die(channel, "order-1", "order-2", queue=SHORT)
    result = dead_letters.put_back(channel, DEAD)
    assert len(result.done) == 2
    eventually(lambda: ready(channel, DEAD) == 2)
    assert [letter.put_back for letter in dead_letters.look(channel, DEAD)] == [1, 1]


def test_what_has_no_queue_to_go_back_to_stays_and_is_told(channel):
    die(channel, "order-1", "order-2")
    amqp.publish(channel, "", DEAD, "sent straight here", headers={"x-death": "nonsense"})
    channel.queue_delete(WORK)
    result = dead_letters.put_back(channel, DEAD, lambda letter: letter.order_id != "order-2")
    assert [letter.order_id for letter in result.stuck] == ["order-1", None]
    assert (result.done, result.left) == ([], 1)
    channel.queue_declare("elsewhere", durable=True)
    assert len(dead_letters.put_back(channel, DEAD, to="elsewhere").done) == 3
    assert len(bodies(channel, "elsewhere")) == 3


def test_a_question_that_raises_leaves_every_letter_there(channel):
    die(channel, "order-1", "order-2")
    with pytest.raises(ZeroDivisionError):
        dead_letters.put_back(channel, DEAD, lambda letter: 1 / 0)
    assert ready(channel, DEAD) == 2


def test_the_connection_lost_before_the_ack_leaves_two_and_never_none(vhost, channel):
    die(channel, "order-1", "order-2")
    doomed = amqp.connect(vhost.url, "doomed", heartbeat_wall_s=0)

    def cut(letter):
        if letter.order_id == "order-2":  # order-1 is back by then, and its ack is on its way
            amqp.drop_socket(doomed)
        return True

    with pytest.raises(pika.exceptions.AMQPError):
        dead_letters.put_back(doomed.channel(), DEAD, cut)
    with contextlib.suppress(pika.exceptions.AMQPError):
        doomed.close()
    eventually(lambda: ready(channel, DEAD))
    everywhere = bodies(channel, WORK) + bodies(channel, DEAD)
    assert set(everywhere) == {"about order-1", "about order-2"}


def test_headers_that_make_no_sense_are_read_as_nothing(channel):
    letter = dead_letters.read(
        pika.BasicProperties(headers={"x-death": [17], RETRIES_HEADER: "x", "x-put-back": -1}), b""
    )
    assert (letter.queue, letter.reason, letter.retries, letter.put_back) == (None, None, 0, 0)
    assert dead_letters.read(pika.BasicProperties(), b"").queue is None


def test_the_order_of_retries_and_a_put_back_is_a_fresh_start(channel):
    retries = Retries(WORK, [0.01], Pace(10))
    retries.declare(channel)
    die(channel, "order-1", headers={RETRIES_HEADER: 1})
    dead_letters.put_back(channel, DEAD)
    message = eventually(lambda: (m := channel.basic_get(WORK))[0] and m)
    assert retries.retry_later(channel, *message) == 0.01  # not rejected at once
