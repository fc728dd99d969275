"""Exercises of notebook 05: answers that learners give, right and wrong."""

import contextlib
import math
import threading

import pika

from labkit.exercises import outage_and_recovery

SOURCE = "05-outage-and-recovery"


def test_recovery_tells_right_from_wrong(prove):
    backlog = "backlog = outage_s * per_s\n"
    prove(
        outage_and_recovery.recovery,
        source=SOURCE,
        answer="recovery",
        wrong=[
            (backlog + "return backlog, backlog / (workers / takes_s)", "go on coming"),
            (
                backlog + "return backlog, backlog / (1 / takes_s - per_s)",
                "side by side|one worker",
            ),
            (backlog + "return backlog, backlog / (workers / takes_s - per_s)", "never shrinks"),
            (
                backlog + "return backlog, backlog / abs(workers / takes_s - per_s)",
                "never shrinks",
            ),
            (
                backlog + "return backlog, max(0, backlog / (workers / takes_s - per_s))",
                "never shrinks",
            ),
            (
                "backlog = outage_s * (per_s - workers / takes_s)\nreturn backlog, 0.0",
                "nobody works",
            ),
            ("return outage_s * per_s", "two numbers"),
        ],
    )


def test_recovery_takes_two_numbers_in_a_list_as_well():
    def recovery(outage_s, per_s, workers, takes_s):
        backlog, spare = outage_s * per_s, workers / takes_s - per_s
        return [backlog, backlog / spare if spare > 0 else math.inf]

    assert outage_and_recovery.recovery.judge(recovery).verdict == "correct"


LOOP = """
for method, _properties, body in channel.consume(queue{consume}):
    {first}
    if method is not None:
        handle(body)
        {ack}
    {last}
{end}
"""
ACK = "channel.basic_ack(method.delivery_tag)"
LEAVE = "if stop.is_set(): break"


def loop(**changes):
    """The solution with something changed."""
    parts = {
        "consume": ", inactivity_timeout=0.1",
        "first": "pass",
        "ack": ACK,
        "last": LEAVE,
        "end": "channel.cancel()",
    }
    return LOOP.format(**parts | changes)


THREADSAFE = """
def on_message(channel, method, properties, body):
    handle(body)
    channel.basic_ack(method.delivery_tag)

def tell():
    stop.wait()
    with contextlib.suppress(pika.exceptions.AMQPError):  # the check may have closed it
        channel.connection.add_callback_threadsafe(channel.stop_consuming)

threading.Thread(target=tell, daemon=True).start()
channel.basic_consume(queue, on_message)
channel.start_consuming()
"""


def test_work_until_tells_right_from_wrong(prove, vhost):
    prove(
        outage_and_recovery.work_until,
        source=SOURCE,
        answer="work_until",
        wrong=[
            (loop(last="pass", consume=""), "handled all 40"),
            (THREADSAFE, "handled all 40(.|\n)*add_callback_threadsafe"),
            (
                loop(last="if method is None: break", consume=", inactivity_timeout=2"),
                "handled all 40",
            ),
            (loop(consume=""), "Nothing waits in the queue, stop is set"),
            (
                loop(first="if method is None: break", consume=", inactivity_timeout=0.5"),
                "no reason to leave",
            ),
            (loop(consume=", auto_ack=True, inactivity_timeout=0.1", ack="pass"), "lost"),
            (loop(ack="pass"), "are in the queue again(.|\n)*no basic_ack"),
            (loop(end=""), "still in the hands of its consumer"),
            (loop(first=LEAVE, last="pass"), "still in the hands(.|\n)*basic_nack"),
            ("handle(channel.basic_get(queue, auto_ack=True)[2])", "came back after 1 parcel"),
        ],
        names={"contextlib": contextlib, "pika": pika, "threading": threading},
        url=vhost.url,
    )


PUBLISH = """
{confirm}
channel.exchange_declare("exercise.safe"{exchange})
channel.queue_declare("{name}"{queue})
channel.queue_bind("{name}", "exercise.safe", routing_key="{key}")
channel.basic_publish({to}, body, pika.BasicProperties({mode}))
{last}
"""


def publish(**changes):
    """The solution with something changed."""
    parts = {
        "confirm": "channel.confirm_delivery()",
        "exchange": ", durable=True",
        "name": "exercise.safe.orders",
        "queue": ", durable=True",
        "key": "order.created",
        "to": '"exercise.safe", "order.created"',
        "mode": "delivery_mode=2",
        "last": "pass",
    }
    return PUBLISH.format(**parts | changes)


def test_hand_over_tells_right_from_wrong(prove, vhost):
    prove(
        outage_and_recovery.hand_over,
        source=SOURCE,
        answer="hand_over",
        wrong=[
            (publish(exchange=""), "exchange 'exercise.safe' does not last"),
            (publish(exchange=", exchange_type='topic'"), "exchange 'exercise.safe' does not last"),
            (publish(queue=", durable=True, auto_delete=True"), "queue .* does not last"),
            (publish(queue=", durable=True, exclusive=True"), "is exclusive"),
            (publish(name="orders"), "no queue 'exercise.safe.orders'"),
            (publish(mode=""), "delivery mode None(.|\n)*persistent"),
            (publish(mode="delivery_mode=1"), "delivery mode 1"),
            (publish(confirm=""), "not in confirm mode"),
            (publish(confirm="", last="channel.confirm_delivery()"), "comes after the publish"),
            (publish(key="orders.created"), "'order 1' is not in the queue"),
            (publish(to='"", "exercise.safe.orders"'), "came by the exchange '\\(default\\)'"),
            (
                'channel.queue_declare("exercise.safe.orders", durable=True)',
                "no exchange 'exercise.safe'",
            ),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


def test_hand_over_refuses_a_transient_queue(prove, vhost):
    # RabbitMQ still makes these, with a warning in its log; one day it will refuse them.
    prove(
        outage_and_recovery.hand_over,
        source=SOURCE,
        answer="hand_over",
        wrong=[
            (publish(queue=""), "queue .* does not last|transient_nonexcl_queues"),
            (publish(queue=", durable=False"), "does not last|transient_nonexcl_queues"),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


def test_reading_tells_right_from_wrong(prove):
    right = {"down at": 40, "back at": 100, "orders a second": 1.5, "could do": 2.5}

    def answer(**changes):
        named = {key.replace("_", " "): value for key, value in changes.items()}
        return f"reading = {right | named}"

    prove(
        outage_and_recovery.reading,
        source=SOURCE,
        answer="reading",
        wrong=[
            (answer(could_do=1.0), "how fast the line falls"),
            (answer(could_do=1.5), "never drains"),
            (answer(back_at=190), "has drained"),
            (answer(down_at=100), "at its highest"),
            (answer(orders_a_second=1.0), "while nobody takes anything"),
            (answer(down_at=None), "no answer yet"),
            (answer(could_do="2.5 a second"), "a number"),
        ],
    )


def test_near_enough_is_correct():
    near = {"down at": 42, "back at": 98.0, "orders a second": 1.4, "could do": 2.4}
    assert outage_and_recovery.reading.judge(near).verdict == "correct"


def test_the_picture_shows_what_is_to_be_read():
    frame = outage_and_recovery.another_day()
    shipping = frame[frame["service"] == "shipping_labels"]["detail"].to_list()
    assert shipping[40] == 0 < shipping[42]
    assert max(shipping) == shipping[100] == 90
    assert shipping[189] > 0 == shipping[190]
