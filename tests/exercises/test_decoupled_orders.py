"""Exercises of notebook 03: answers that learners give, right and wrong."""

import json

import pika

from labkit.exercises import decoupled_orders

NAMES = {"pika": pika, "json": json}

SERVICE = """
def start_consuming(self):
    self.channel.queue_declare("{named}", durable={durable}{declare})
    self.channel.queue_bind("{named}", exchange="orders", routing_key="{key}")
    self.channel.basic_consume("{queue}", self.on_message{consume})
    {start}

def on_message(self, channel, method, properties, body):
    event = json.loads(body)
    {first}
    product = event["product_id"]
    self.revenue[product] = {value}
    {last}
"""
ACK = "channel.basic_ack(method.delivery_tag)"


def service(**changes):
    """The solution with something changed."""
    parts = {
        "named": "revenue",
        "durable": True,
        "declare": "",
        "key": "order.created",
        "queue": "revenue",
        "consume": "",
        "start": "self.channel.start_consuming()",
        "first": "pass",
        "value": 'self.revenue.get(product, 0) + event["amount"]',
        "last": ACK,
    }
    return SERVICE.format(**parts | changes)


def test_revenue_service_tells_right_from_wrong(prove, broker):
    prove(
        decoupled_orders.revenue_service,
        source="03-decoupled-orders",
        answer="RevenueService",
        wrong=[
            (service(queue="payment_processing"), "belongs to another department"),
            (service(consume=", auto_ack=True", last="pass"), "crashed with an order in hand"),
            (service(key="#"), "takes payment.completed"),
            (service(last="pass"), "no basic_ack"),
            (service(first=ACK, last="pass"), "before it had counted it"),
            (service(declare=", exclusive=True"), "was gone when your service stopped"),
            (service(durable=False), "is transient"),
            (service(named="turnover", queue="turnover"), "named 'turnover', and lasts"),
            (service(value='self.revenue.get(product, 0) + event["quantity"]'), "pieces"),
            (service(value='event["amount"]'), "replaces the sum"),
            (service(key="orders.created"), "is the queue bound"),
            (service(start="pass"), "came back while orders were still to come"),
            (service(value='self.revenue[product] + event["amount"]'), "KeyError"),
        ],
        names=NAMES,
        broker=broker,
    )


def test_rush_tells_right_from_wrong(prove):
    prove(
        decoupled_orders.rush,
        source="03-decoupled-orders",
        answer="rush_of",
        wrong=[
            (
                "left = customers - workers / takes_s * customers / per_s\n"
                "return left, left / (workers / takes_s)",
                "not less than nothing",
            ),
            (
                "left = max(0, customers - customers / per_s / takes_s)\nreturn left, left * takes_s",
                "one worker leaves",
            ),
            ("return customers, customers * takes_s / workers", "not only afterwards"),
            (
                "left = max(0, customers - workers / takes_s * customers / per_s)\n"
                "return left, left * takes_s",
                "all workers together",
            ),
            ("return max(0, customers - workers / takes_s * customers / per_s)", "two numbers"),
        ],
    )


def test_follow_tells_right_from_wrong(prove):
    loop = "status = ask()\nwhile status {until}:\n    pause()\n    status = ask()\nreturn status"
    prove(
        decoupled_orders.follow,
        source="03-decoupled-orders",
        answer="follow",
        wrong=[
            ("return ask()", "only where it begins"),
            (loop.format(until="== 'pending'"), "paid is on the way"),
            (loop.format(until="not in ('completed', 'declined')"), "still go on"),
            (
                "for _ in range(most):\n    status = ask()\n    if status == 'completed':\n"
                "        break\n    pause()\nreturn status",
                "declined is an end",
            ),
            (
                "for _ in range(most):\n    status = ask()\n"
                "    if status in ('completed', 'declined'):\n        break\nreturn status",
                "without pause",
            ),
            (
                "for _ in range(most):\n    status = ask()\n"
                "    if status in ('completed', 'declined'):\n        return status\n    pause()",
                "returns nothing",
            ),
        ],
    )
