"""Notebook 02's exercises, on a real broker."""

from __future__ import annotations

import threading

import pika
import pika.exceptions

from labkit.exercises import _taking, first_queue

SOURCE = "02-first-queue"

DESKS = """
channel.exchange_declare("desks", exchange_type="{kind}", durable={lasts})
for queue, pattern in {{"eu_desk": "{eu}", "failed_payments": "{failed}", "archive": "{all}"}}.items():
    channel.queue_declare(queue, {queue})
    channel.queue_bind(queue, exchange="desks", routing_key=pattern)
"""


def desks(
    kind="topic",
    lasts=True,
    eu="order.*.eu",
    failed="payment.failed.#",
    all="#",
    queue="durable=True",
):
    return DESKS.format(kind=kind, lasts=lasts, eu=eu, failed=failed, all=all, queue=queue)


def test_connect_desks_tells_right_from_wrong(prove, vhost):
    prove(
        first_queue.connect_desks,
        source=SOURCE,
        answer="connect_desks",
        wrong=[
            ("pass", "no exchange 'desks'"),
            ('channel.exchange_declare("desks", "topic", durable=True)', "no queue 'eu_desk'"),
            (desks(kind="fanout"), "type fanout(.|\n)*fanout ignores the binding's key"),
            (desks(kind="direct"), "type direct"),
            (
                desks().replace("    channel.queue_bind", "    # channel.queue_bind"),
                "Nothing arrives in 'archive'(.|\n)*bound to 'desks' at all",
            ),
            (desks(failed="payments.failed.#"), "Nothing arrives in 'failed_payments'"),
            (desks(lasts=False), "exchange 'desks' does not last"),
            (desks(queue="durable=False, exclusive=True"), "'eu_desk' is exclusive"),
            (desks(queue="durable=True, auto_delete=True"), "'eu_desk' does not last"),
            (desks(eu="order.#.eu"), "'order.eu' reached 'eu_desk'(.|\n)*one word"),
            (desks(eu="order.*"), "'order.created.eu' did not reach 'eu_desk'"),
            (desks(eu="order.#"), "'order.created.us' reached 'eu_desk'"),
            (desks(failed="payment.failed.*"), "'payment.failed' did not reach"),
            (desks(failed="payment.failed"), "'payment.failed.card' did not reach"),
            (desks(failed="payment.#"), "'payment.completed' reached 'failed_payments'"),
            (desks(all="*"), "did not reach 'archive'(.|\n)*only # alone takes every key"),
            (desks(all="*.#.*"), "'refund' did not reach 'archive'"),
            (desks(eu="order.*.eu", kind="topics"), "Your code raised"),
        ],
        url=vhost.url,
    )


def test_connect_desks_refuses_a_transient_queue(prove, vhost):
    # RabbitMQ still makes these, with a warning in its log.
    prove(
        first_queue.connect_desks,
        source=SOURCE,
        answer="connect_desks",
        wrong=[
            (desks(queue="durable=False"), "('eu_desk' does not last|refuses)(.|\n)*durable=True"),
            (desks(queue=""), "('eu_desk' does not last|refuses)(.|\n)*durable=True"),
            # what a broker says that no longer makes them
            (
                "raise pika.exceptions.ConnectionClosedByBroker(541, 'INTERNAL_ERROR - Feature "
                "`transient_nonexcl_queues` is deprecated.')",
                "refuses one of your queues: 541(.|\n)*durable=True",
            ),
            # any other refusal names the line
            ("channel.queue_declare('desk', passive=True)", "404(.|\n)*line 3 of your cell"),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


TAKE = """
for _ in range(n):
    delivery, _, body = channel.basic_get(queue)
    if delivery is None:
        return
    try:
        handle(body)
    except Exception:
        {on_error}
    channel.basic_ack(delivery.delivery_tag)
"""


def test_take_tells_right_from_wrong(prove, vhost):
    prove(
        first_queue.take,
        source=SOURCE,
        answer="take",
        wrong=[
            # acknowledges on delivery
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue, auto_ack=True)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body)",
                "order 2 is lost(.|\n)*auto_ack=True",
            ),
            # never acknowledges
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body)",
                "left 6(.|\n)*4 of the messages were never acknowledged",
            ),
            # takes all that is there
            (
                "while True:\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body)\n"
                "    channel.basic_ack(delivery.delivery_tag)",
                "handled 6(.|\n)*loop doesn't count",
            ),
            # acknowledges first
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    channel.basic_ack(delivery.delivery_tag)\n"
                "    handle(body)",
                "order 2 is lost",
            ),
            # acknowledges all together at the end
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body)\n"
                "if n:\n"
                "    channel.basic_ack(delivery.delivery_tag, multiple=True)",
                "order 1 is in the queue again",
            ),
            # does not look whether there is a message
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    handle(body)\n"
                "    channel.basic_ack(delivery.delivery_tag)",
                "handle was called with None(.|\n)*queue was empty",
            ),
            # hands over something else
            (
                "for _ in range(n):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body.decode())\n"
                "    channel.basic_ack(delivery.delivery_tag)",
                "called with str: 'order 1'(.|\n)*as bytes",
            ),
            # swallows the failure, and goes on or ends
            (TAKE.format(on_error="continue"), "as if all were well(.|\n)*swallows it"),
            (TAKE.format(on_error="return"), "as if all were well(.|\n)*swallows it"),
            (TAKE.format(on_error="pass"), "order 2 is lost"),
            # keeps the rest to itself: a consumer without a limit, and never cancelled
            (
                "left = n\n"
                "for delivery, _, body in channel.consume(queue, inactivity_timeout=3):\n"
                "    if delivery is None:\n"
                "        return\n"
                "    handle(body)\n"
                "    channel.basic_ack(delivery.delivery_tag)\n"
                "    left -= 1\n"
                "    if not left:\n"
                "        return",
                "left 0 for others(.|\n)*not cancelled",
            ),
            # one too many
            (
                "for number in range(n + 1):\n"
                "    delivery, _, body = channel.basic_get(queue)\n"
                "    if delivery is None or number == n:\n"
                "        return\n"
                "    handle(body)\n"
                "    channel.basic_ack(delivery.delivery_tag)",
                "left 1 for others",
            ),
            # the last one first
            (
                "got = [channel.basic_get(queue) for _ in range(n)]\n"
                "for delivery, _, body in reversed(got):\n"
                "    handle(body)\n"
                "    channel.basic_ack(delivery.delivery_tag)",
                "handled order 4, order 3(.|\n)*order 1, order 2",
            ),
        ],
        url=vhost.url,
    )


def test_take_that_waits_for_messages_without_end_is_told_so(prove, vhost, monkeypatch):
    monkeypatch.setattr(_taking, "PATIENCE_WALL_S", 3.0)
    consume = (
        "for delivery, _, body in channel.consume(queue):\n"
        "    handle(body)\n"
        "    channel.basic_ack(delivery.delivery_tag)\n"
        "    n -= 1\n"
        "    if not n:\n"
        "        break\n"
        "channel.cancel()"
    )
    ask = (
        "while n:\n"
        "    delivery, _, body = channel.basic_get(queue)\n"
        "    if delivery:\n"
        "        handle(body)\n"
        "        channel.basic_ack(delivery.delivery_tag)\n"
        "        n -= 1"
    )
    reason = "still running after 3 s(.|\n)*held fewer than n messages(.|\n)*inactivity_timeout"
    prove(
        first_queue.take,
        source=SOURCE,
        answer="take",
        wrong=[(consume, reason), (ask, reason)],
        url=vhost.url,
    )
    assert not [t for t in threading.enumerate() if t.name == "check-take-what-is-there"]


def test_take_accepts_a_consumer_that_is_cancelled(vhost):
    def take(channel, queue, n, handle):
        channel.basic_qos(prefetch_count=1)
        for delivery, _, body in channel.consume(queue, inactivity_timeout=3):
            if delivery is None:
                break
            handle(body)
            channel.basic_ack(delivery.delivery_tag)
            n -= 1
            if n == 0:
                break
        channel.cancel()

    assert first_queue.take.judge(take, url=vhost.url).verdict == "correct"


def publishing(confirm="channel.confirm_delivery()\n", mandatory="True", caught="return False"):
    return (
        f"{confirm}try:\n"
        f"    channel.basic_publish(exchange, key, body, mandatory={mandatory})\n"
        f"except pika.exceptions.UnroutableError:\n    {caught}\nreturn True"
    )


def test_publish_safely_tells_right_from_wrong(prove, vhost):
    prove(
        first_queue.publish_safely,
        source=SOURCE,
        answer="publish_safely",
        wrong=[
            ("return True", "queue got \\[\\]"),
            ("channel.basic_publish(exchange, key, body)\nreturn True", "not in confirm mode"),
            (publishing(mandatory="False"), "confirm alone"),
            (publishing(confirm=""), "not in confirm mode"),
            (publishing(caught="raise"), "raises UnroutableError"),
            (publishing(caught="pass"), "that no binding takes it gives True"),
            (
                "channel.confirm_delivery()\n"
                "channel.basic_publish(exchange, key, body, mandatory=True)\n"
                "return True",
                "raises UnroutableError",
            ),
            (
                "channel.confirm_delivery()\n"
                "try:\n"
                "    channel.basic_publish(exchange, key, body, mandatory=True)\n"
                "except pika.exceptions.UnroutableError:\n"
                "    return False",
                "it gives None(.|\n)*ends without a return",
            ),
            ("return False", "for its key it gives False|bound for its key it gives False"),
            (
                "channel.confirm_delivery()\n"
                "channel.basic_publish(exchange, key, body)\n" + publishing(confirm=""),
                "once",
            ),
        ],
        names={"pika": pika, "persistent": pika.BasicProperties(delivery_mode=2)},
        url=vhost.url,
    )
