"""Notebook 07's exercises."""

from __future__ import annotations

import threading

import pika
import pika.exceptions
import pytest

from labkit.exercises import retries_and_dead_letters

SOURCE = "07-retries-and-dead-letters"


def instead(right: str, *changes: tuple[str, str]) -> str:
    """The right answer with something wrong."""
    for old, new in changes:
        assert old in right, old
        right = right.replace(old, new)
    return right


def test_not_now_tells_right_from_wrong(prove, vhost):
    right = retries_and_dead_letters.not_now.solution_text
    publish = 'channel.basic_publish("", waiting, body, copy, mandatory=True)'
    ack = "channel.basic_ack(method.delivery_tag)"
    tried = '(properties.headers or {}).get("x-retries", 0)'
    prove(
        retries_and_dead_letters.not_now,
        source=SOURCE,
        answer="not_now",
        wrong=[
            ("channel.basic_reject(method.delivery_tag, requeue=True)", "is\\s+no retry"),
            ("channel.basic_nack(method.delivery_tag)", "is\\s+no retry"),
            ("channel.basic_reject(method.delivery_tag, requeue=False)", "rejected too early"),
            (ack, "the message is nowhere"),
            ("pass", "did not\\s+answer the delivery"),
            (instead(right, (f"{publish}\n{ack}", f"{ack}\n{publish}")), "before its copy"),
            (instead(right, (f"{publish}\n{ack}", publish)), "and also in"),
            (instead(right, (tried, 'properties.headers.get("x-retries", 0)')), "AttributeError"),
            (instead(right, (tried, 'properties.headers["x-retries"]')), "TypeError"),
            (instead(right, ("{tried + 1}", "{tried}")), "the\\s+message is lost|UnroutableError"),
            (instead(right, ('"x-retries": tried + 1', '"x-retries": 1')), "x-retries of the copy"),
            (instead(right, ('"x-retries": tried + 1', '"retries": tried + 1')), "is missing in"),
            (instead(right, ("tried == 2", "tried == 1")), "rejected too early"),
            (instead(right, ("tried == 2", "tried > 2")), "UnroutableError"),
            (
                instead(right, ("tried == 2", "tried > 2"), ("{tried + 1}", "{min(tried, 1) + 1}")),
                "for\\s+ever",
            ),
            (
                instead(right, ("channel.basic_reject(method.delivery_tag, requeue=False)", ack)),
                "dead\\s+letter,\\s+by\\s+basic_reject",
            ),
            (
                instead(right, ("channel.basic_reject(method.delivery_tag, requeue=False)", "")),
                "did not\\s+answer",
            ),
            (instead(right, ("    delivery_mode=2,\n", "")), "not persistent"),
            (
                instead(right, ("    correlation_id=properties.correlation_id,\n", "")),
                "correlation id of the copy is None",
            ),
            (instead(right, (", mandatory=True", "")), "throws it\\s+away"),
            (instead(right, ("waiting, body", "waiting, b'again'")), "body of the copy"),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


@pytest.mark.parametrize("looks_first", [True, False])
def test_not_now_may_fail_in_its_own_way_where_the_waiting_queue_is_missing(vhost, looks_first):
    def not_now(channel, method, properties, body):
        tried = (properties.headers or {}).get("x-retries", 0)
        if tried == 2:
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        waiting = f"exercise.work.retry.{tried + 1}"
        if looks_first:
            channel.queue_declare(waiting, passive=True)  # 404 closes the channel
        copy = pika.BasicProperties(
            delivery_mode=2,
            correlation_id=properties.correlation_id,
            headers={"x-retries": tried + 1},
        )
        try:
            channel.basic_publish("", waiting, body, copy, mandatory=True)
        except pika.exceptions.UnroutableError as exc:
            raise RuntimeError("There is no waiting queue.") from exc
        channel.basic_ack(method.delivery_tag)

    judgement = retries_and_dead_letters.not_now.judge(not_now, url=vhost.url)
    assert judgement.verdict == "correct", judgement.message


def test_replace_queue_tells_right_from_wrong(prove, vhost):
    right = retries_and_dead_letters.replace_queue.solution_text
    delete = 'channel.queue_delete("exercise.labels", if_empty=True)'
    publish = 'channel.basic_publish("", "exercise.labels.v2", body, properties, mandatory=True)'
    ack = "channel.basic_ack(method.delivery_tag)"
    loop = right[right.index("while True:") : right.index(delete)]
    bind = 'channel.queue_bind("exercise.labels.v2", "exercise.orders", routing_key="label")\n'
    prove(
        retries_and_dead_letters.replace_queue,
        source=SOURCE,
        answer="replace_queue",
        wrong=[
            (
                "arguments = {'x-dead-letter-exchange': '', "
                "'x-dead-letter-routing-key': 'exercise.dead'}\n"
                "channel.queue_declare('exercise.labels', durable=True, arguments=arguments)",
                "other arguments needs\\s+another name",
            ),
            (instead(right, (loop, ""), (", if_empty=True", "")), "takes the messages\\s+along"),
            (instead(right, (loop, ""), (delete, "")), "begins empty"),
            (instead(right, (delete, "")), "still there, with 0"),
            (instead(right, (ack, "pass"), (delete, "")), "still there|is there twice|3 messages"),
            (
                instead(right, (f"{publish}\n    {ack}", f"{ack}\n    {publish}")),
                "before its copy",
            ),
            (
                instead(
                    right, ('basic_get("exercise.labels")', 'basic_get("exercise.labels", True)')
                ),
                "only on its way",
            ),
            (instead(right, (bind, "")), "queue_bind is\\s+missing"),
            (instead(right, (bind, ""), ("while True:", f"{bind}while True:")), "was bound"),
            (instead(right, ('"label")', '"labels")')), "queue_bind is\\s+missing"),
            (instead(right, ("durable=True, arguments", "arguments")), "without durable=True"),
            (instead(right, (", arguments=arguments", "")), "do not go by the default"),
            (instead(right, ('"exercise.dead"}', '"dead"}')), "do not go by the default"),
            (
                instead(right, ("body, properties,", "body, pika.BasicProperties(),")),
                "correlation id\\s+None",
            ),
            (
                instead(
                    right,
                    (
                        "body, properties,",
                        "body, pika.BasicProperties(correlation_id=properties.correlation_id),",
                    ),
                ),
                "not persistent",
            ),
            (right.replace("labels.v2", "labels2"), "There is no queue exercise.labels.v2"),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


def test_put_back_tells_right_from_wrong(prove, vhost):
    right = retries_and_dead_letters.put_back.solution_text
    publish = 'channel.basic_publish("", queue, body, copy, mandatory=True)'
    ack = "channel.basic_ack(method.delivery_tag)"
    give_back = "channel.basic_nack(multiple=True, requeue=True)  # all that is unanswered"
    test = (
        "    if properties.correlation_id not in wanted:\n        continue  # unanswered for now\n"
    )
    prove(
        retries_and_dead_letters.put_back,
        source=SOURCE,
        answer="put_back",
        wrong=[
            (instead(right, (test, "")), "order-1, order-2, order-5"),
            (instead(right, ("not in wanted", "in wanted")), "With wanted"),
            (
                instead(
                    right, ("continue  #", "channel.basic_nack(method.delivery_tag); continue  #")
                ),
                "still goes on",
            ),
            (
                instead(
                    right, ("continue  #", "channel.basic_ack(method.delivery_tag); continue  #")
                ),
                "Not to be found",
            ),
            (
                instead(right, ("continue  #", "break  #")),
                "With wanted",
            ),
            (
                instead(right, (give_back, "channel.basic_nack(multiple=True, requeue=False)")),
                "Not to be",
            ),
            (
                instead(right, ('basic_get("exercise.dead")', 'basic_get("exercise.dead", True)')),
                "on its way",
            ),
            (instead(right, (f"{publish}\n    {ack}", f"{ack}\n    {publish}")), "before its copy"),
            (instead(right, (f"{publish}\n    {ack}", publish)), "stays a dead letter as\\s+well"),
            (instead(right, (f"{publish}\n", "pass\n")), "Not to be found"),
            (
                instead(right, ('properties.headers["x-death"][0]["queue"]', '"exercise.desk"')),
                "where it died",
            ),
            (instead(right, ("delivery_mode=2, ", "")), "not persistent"),
            (instead(right, ("correlation_id=properties.correlation_id", "")), "correlation\\s+id"),
            (instead(right, ("queue, body", "queue, b''")), "came back as"),
            (instead(right, (", mandatory=True", "")), "confirmed, and\\s+gone"),
        ],
        names={"pika": pika},
        url=vhost.url,
    )


def test_on_report_tells_right_from_wrong(prove, vhost):
    right = retries_and_dead_letters.on_report.solution_text
    start = "threading.Thread(target=do_it).start()"
    hand_over = "channel.connection.add_callback_threadsafe(done)"
    prove(
        retries_and_dead_letters.on_report,
        source=SOURCE,
        answer="on_report",
        wrong=[
            ("work(body)\nchannel.basic_ack(method.delivery_tag)", "connection's thread"),
            (instead(right, (start, "do_it()")), "connection's thread"),
            (instead(right, ("target=do_it)", "target=do_it())")), "connection's thread"),
            (
                instead(right, (start, f"t = {start[:-8]}\nt.start()\nt.join()")),
                "waits for the work|connection's thread",
            ),
            (instead(right, (hand_over, "done()")), "in the worker's\\s+thread"),
            (instead(right, (hand_over, "pass")), "is not\\s+acknowledged"),
            (instead(right, (hand_over, hand_over.replace("done", "done()"))), "in the worker's"),
            (
                instead(
                    right, (f"    work(body)\n    {hand_over}", f"    {hand_over}\n    work(body)")
                ),
                "still going\\s+on",
            ),
            (f"channel.basic_ack(method.delivery_tag)\n{right}", "still going\\s+on"),
            (instead(right, (".start()", "")), "not called|not attempted"),
            (
                instead(right, ("channel.basic_ack", "channel.basic_nack")),
                "answered with requeue",
            ),
        ],
        names={"threading": threading},
        url=vhost.url,
    )
