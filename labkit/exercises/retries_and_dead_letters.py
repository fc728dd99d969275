"""Exercises of notebook 07: try later, replace a queue, put letters back, work beside heartbeats."""

from __future__ import annotations

from labkit.checks import Exercise
from labkit.exercises._beside import check_on_report
from labkit.exercises._later import check_not_now
from labkit.exercises._moving import check_put_back, check_replace_queue

not_now = Exercise(
    "not-now",
    check_not_now,
    hints=[
        "properties.headers may be None, so (properties.headers or {}).get('x-retries', 0) says how "
        "often the message was tried again.",
        "Two ways: at 2, basic_reject with requeue=False. Below that, publish a copy to the waiting "
        "queue by the default exchange, then basic_ack.",
        "pika.BasicProperties(delivery_mode=2, correlation_id=..., headers={'x-retries': tried + 1}) "
        "and mandatory=True, which raises an error where the queue is not there.",
    ],
    solution="""
tried = (properties.headers or {}).get("x-retries", 0)
if tried == 2:
    channel.basic_reject(method.delivery_tag, requeue=False)
    return
copy = pika.BasicProperties(
    delivery_mode=2,
    correlation_id=properties.correlation_id,
    headers={"x-retries": tried + 1},
)
waiting = f"exercise.work.retry.{tried + 1}"
channel.basic_publish("", waiting, body, copy, mandatory=True)
channel.basic_ack(method.delivery_tag)
""",
    learned="The message is tried again when something may have changed, a counted number of times, "
    "and at no moment is it nowhere.",
)

replace_queue = Exercise(
    "replace-queue",
    check_replace_queue,
    hints=[
        "A queue can't be given an argument after its declaration. So: a new queue, its binding, "
        "the old binding away, the orders over, the old queue away. Which order loses nothing?",
        "Bind the new queue before you unbind the old one, and move the orders after that.",
        "To move: basic_get until it gives None; for each publish to the new queue by the default "
        "exchange with the same properties, then basic_ack. At the end queue_delete(..., "
        "if_empty=True).",
    ],
    solution="""
arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "exercise.dead"}
channel.queue_declare("exercise.labels.v2", durable=True, arguments=arguments)
channel.queue_bind("exercise.labels.v2", "exercise.orders", routing_key="label")
channel.queue_unbind("exercise.labels", "exercise.orders", routing_key="label")
while True:
    method, properties, body = channel.basic_get("exercise.labels")
    if method is None:
        break
    channel.basic_publish("", "exercise.labels.v2", body, properties, mandatory=True)
    channel.basic_ack(method.delivery_tag)
channel.queue_delete("exercise.labels", if_empty=True)
""",
    learned="A queue's arguments are for good. Other arguments are another queue, and the orders "
    "move house one by one.",
)

put_back = Exercise(
    "put-back",
    check_put_back,
    hints=[
        "A loop of basic_get until it gives None. For each letter: is it wanted? Then publish it, "
        "and acknowledge it.",
        "x-death[0]['queue'] among the headers names the queue. Publish to it by the default "
        "exchange, with mandatory=True.",
        "What is not wanted stays unanswered while the loop runs, or basic_get gives it to you "
        "again. After the loop, basic_nack(multiple=True, requeue=True) gives all of it back.",
    ],
    solution="""
while True:
    method, properties, body = channel.basic_get("exercise.dead")
    if method is None:
        break
    if properties.correlation_id not in wanted:
        continue  # unanswered for now
    queue = properties.headers["x-death"][0]["queue"]
    copy = pika.BasicProperties(delivery_mode=2, correlation_id=properties.correlation_id)
    channel.basic_publish("", queue, body, copy, mandatory=True)
    channel.basic_ack(method.delivery_tag)
channel.basic_nack(multiple=True, requeue=True)  # all that is unanswered
""",
    learned="Published, confirmed, acknowledged: a letter may be there twice for a moment, and is "
    "never nowhere.",
)


on_report = Exercise(
    "long-report",
    check_on_report,
    hints=[
        "on_report starts a thread and returns. The thread calls work(body), and then says that it "
        "is done.",
        "The thread must not call basic_ack itself. It hands a function to the connection: "
        "channel.connection.add_callback_threadsafe(done).",
        "Two functions inside on_report: do_it() works and then hands over done; done() calls "
        "channel.basic_ack(method.delivery_tag).",
    ],
    solution="""
def do_it():
    work(body)
    channel.connection.add_callback_threadsafe(done)

def done():
    channel.basic_ack(method.delivery_tag)

threading.Thread(target=do_it).start()
""",
    learned="The connection's thread is free all the time, and is the only one that touches the "
    "channel.",
)
