"""Notebook 04's exercises."""

from __future__ import annotations

import threading

import pika

import labkit
from labkit.exercises import obvious_version
from labkit.shop import OrderEvent

RIGHT = """
channel.exchange_declare("exercise.orders", exchange_type="topic", durable=True)
channel.queue_declare("exercise.payment", durable=True)
channel.queue_bind("exercise.payment", "exercise.orders", routing_key="order.created")
channel.queue_declare("exercise.email", durable=True)
for key in ("order.created", "payment.*"):
    channel.queue_bind("exercise.email", "exercise.orders", routing_key=key)
"""


def instead(old: str, new: str) -> str:
    """The right answer with one thing wrong."""
    assert old in RIGHT
    return RIGHT.replace(old, new)


def test_declare_orders_tells_right_from_wrong(prove, vhost):
    prove(
        obvious_version.declare_orders,
        source="04-obvious-version",
        answer="declare_orders",
        wrong=[
            (instead('"topic"', '"fanout"'), "its own news back"),
            (instead(', exchange_type="topic"', ""), "of type direct"),
            (instead('exchange_type="topic", durable=True', '"topic"'), "orders is not durable"),
            (
                instead(
                    'queue_declare("exercise.email", durable=True', 'queue_declare("exercise.email"'
                ),
                "email is not durable",
            ),
            (
                instead('.payment", durable=True', '.payment", exclusive=True'),
                "belongs to your connection alone",
            ),
            (instead('routing_key="order.created"', 'routing_key="#"'), "get its own news back"),
            (instead('routing_key="order.created"', 'routing_key="*.*"'), "get its own news back"),
            (instead('"payment.*")', '"#")'), "takes too much, such as #"),
            (
                instead('"payment.*")', '"payment.completed")'),
                "takes the routing key\\s+payment.fail",
            ),
            (
                instead('routing_key="order.created"', 'routing_key="ORDER_CREATED"'),
                "no binding of",
            ),
            (RIGHT.replace("exercise.", "my."), "There is no exchange exercise.orders"),
            (RIGHT.replace("exercise.payment", "payment"), "There is no queue exercise.payment"),
            ("pass", "There is no exchange"),
        ],
        url=vhost.url,
    )


CAREFUL = """
try:
    send(OrderEvent.read(body))
except {error}:
    channel.{bad}
else:
    channel.{good}
"""
ACK = "basic_ack(method.delivery_tag)"
REJECT = "basic_reject(method.delivery_tag, requeue=False)"


def careful(error="labkit.LabError", bad=REJECT, good=ACK) -> str:
    return CAREFUL.format(error=error, bad=bad, good=good)


def test_on_email_tells_right_from_wrong(prove, vhost):
    prove(
        obvious_version.on_email,
        source="04-obvious-version",
        answer="on_email",
        wrong=[
            (
                careful(bad="basic_reject(method.delivery_tag, requeue=True)"),
                "still one\\s+to come",
            ),
            (careful(bad="basic_nack(method.delivery_tag)"), "requeue=False"),
            (careful(bad=ACK), "the rest is\\s+lost, silently"),
            (careful(bad="basic_cancel('')"), "2 of 5 messages are back"),
            (careful(good="is_open"), "3 of 5 messages are back"),
            (careful(good=REJECT), "5 messages are in the dead letter queue"),
            (careful(error="labkit.MessageError"), "DepartmentError escape"),
            (f"send(OrderEvent.read(body))\nchannel.{ACK}", "MessageError escape"),
            (f"channel.{ACK}\n" + careful(), "closed the channel|answered twice"),
            (f"OrderEvent.read(body)\nchannel.{ACK}", "MessageError escape"),
            (f"if body.startswith(b'{{'):\n    channel.{REJECT}", "sent are for: nobody"),
            ("send(body)", "AttributeError"),
        ],
        names={"labkit": labkit, "OrderEvent": OrderEvent},
        url=vhost.url,
    )


OWN = "pika.BlockingConnection(pika.URLParameters(url))"
LOCKED = """
with globals().setdefault("lock", threading.Lock()):
    return service.channel()
"""
KEPT = f"""
if "kept" not in globals():
    globals()["kept"] = {OWN}
return kept.channel()
"""
FIRST_COME = f"""
if not hasattr(service, "taken"):
    service.taken = True
    return service.channel()
return {OWN}.channel()
"""


def test_channel_for_thread_tells_right_from_wrong(prove, vhost, broker):
    with broker.virtual_host("elsewhere") as elsewhere:
        prove(
            obvious_version.channel_for_thread,
            source="04-obvious-version",
            answer="channel_for_thread",
            wrong=[
                ("return service.channel()", r"(?s)4 channels on 1 connection, service\n.*no help"),
                (LOCKED, r"4 channels on 1 connection, service\n"),
                (
                    "service.one = getattr(service, 'one', None) or service.channel()\n"
                    "return service.one",
                    r"(?s)1 channel on 1 connection, service\n.*kept for all",
                ),
                (KEPT, r"4 channels on 1 connection\n"),
                (FIRST_COME, r"(?s)on 4 connections, service among them\n.*belongs to"),
                (f"return {OWN}", r"(?s)got a BlockingConnection\n.*its method channel\(\)"),
                ("service.channel()", r"(?s)got None\n.*return is missing"),
                (f"with {OWN} as own:\n    return own.channel()", "channel that is closed"),
                (f"url = elsewhere\nreturn {OWN}.channel()", "0 of 100 are confirmed"),
                ("return service.new_channel()", "AttributeError"),
            ],
            names={"pika": pika, "threading": threading, "elsewhere": elsewhere.url},
            url=vhost.url,
        )


def test_diagnosis_tells_right_from_wrong(prove):
    prove(
        obvious_version.diagnosis,
        source="04-obvious-version",
        answer="diagnosis",
        wrong=[
            ('diagnosis = {"A": 4, "B": 6, "C": 3, "D": 5, "E": 1}', "after it are\\s+missing"),
            ('diagnosis = {"A": 2, "B": 8, "C": 3, "D": 5, "E": 1}', "none is,\\s+ever"),
            ('diagnosis = {"A": 2, "B": 6, "C": 3, "D": 7, "E": 1}', "Case D: you say 7"),
            ('diagnosis = {"A": 2, "B": 6, "C": 3, "D": 5}', "Case E has no answer"),
            ('diagnosis = {"A": "2", "B": 6, "C": 3, "D": 5, "E": 1}', "Case A: you say '2'"),
        ],
    )
