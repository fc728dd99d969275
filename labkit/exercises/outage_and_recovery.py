"""Exercises of notebook 05: a recovery worked out, a loop that stops, a safe order, a picture read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from labkit.checks import Exercise, NotAttempted, NotYet
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.exercises._safe_order import check_hand_over
from labkit.exercises._stopping import check_work_until

if TYPE_CHECKING:
    import pandas as pd

Recovery = Callable[[float, float, float, float], tuple[float, float]]


def _check_recovery(recovery: Recovery) -> None:
    for given in ((20, 2 / 3, 4, 3), (3600, 1.2, 4, 3), (60, 2, 4, 3), (60, 2, 6, 3)):
        outage_s, per_s, workers, takes_s = given
        backlog, rate = outage_s * per_s, workers / takes_s
        drain_s = backlog / (rate - per_s) if rate > per_s else math.inf
        call = f"recovery({', '.join(f'{number:.3g}' for number in given)})"
        seen: Any = recovery(*given)
        if not isinstance(seen, tuple | list) or len(seen) != 2:
            raise NotYet(f"{call} gives {seen!r}", "two numbers: orders that wait, seconds")
        if not _near(seen[0], backlog):
            raise NotYet(
                f"{call} says that {_shown(seen[0])} orders wait at the return",
                f"{backlog:g}",
                "during the outage nobody works: what comes in outage_s seconds waits, and "
                "workers and takes_s have no say in it",
            )
        if not _near(seen[1], drain_s):
            raise NotYet(
                f"{call} says that they have drained after {_shown(seen[1])} s",
                f"{drain_s:g} s",
                _cause_of_drain(seen[1], backlog, per_s, workers, takes_s),
            )


def _near(seen: Any, wanted: float) -> bool:
    if isinstance(seen, bool) or not isinstance(seen, int | float):
        return False
    return seen == wanted or (math.isfinite(wanted) and abs(seen - wanted) <= 0.01 * abs(wanted))


def _shown(seen: Any) -> str:
    return f"{seen:g}" if isinstance(seen, int | float) else repr(seen)


def _cause_of_drain(seen: Any, backlog: float, per_s: float, workers: float, takes_s: float) -> str:
    if workers / takes_s <= per_s:
        return (
            "as much comes as can be done, or more: then the backlog never shrinks, and a division "
            "gives a time below zero, or none. Compare the two rates first, and give math.inf"
        )
    if _near(seen, backlog * takes_s / workers):
        return "customers go on coming while the backlog drains: it shrinks by the difference"
    if 1 / takes_s != per_s and _near(seen, backlog / (1 / takes_s - per_s)):
        return "that is what one worker needs; all of them work side by side"
    return "backlog / (service rate - arrival rate), where all workers make the service rate"


recovery = Exercise(
    "recovery",
    _check_recovery,
    hints=[
        "What waits is what has come while nobody worked.",
        "Two rates, both in orders a second: how many come, and how many all workers can do.",
        "The backlog shrinks by the difference of the two rates each second. Where the difference "
        "is not above zero, it never drains: math.inf.",
    ],
    solution="""
backlog = outage_s * per_s
service_rate = workers / takes_s
if service_rate <= per_s:
    return backlog, math.inf
return backlog, backlog / (service_rate - per_s)
""",
    learned="How long a recovery takes is decided before the outage: by the spare capacity.",
)

work_until = Exercise(
    "work-until",
    check_work_until,
    hints=[
        "Two kinds of turns: with a message, and with None where nothing has come for a moment. "
        "Both are a moment at which you can look at stop.",
        "With a message: handle, then basic_ack(method.delivery_tag). With None: nothing to do.",
        "`if stop.is_set(): break` as the loop's last lines, after the ack, so that no message is "
        "taken and left unhandled. After the loop, channel.cancel().",
    ],
    solution="""
for method, _properties, body in channel.consume(queue, inactivity_timeout=0.1):
    if method is not None:
        handle(body)
        channel.basic_ack(method.delivery_tag)
    if stop.is_set():
        break
channel.cancel()
""",
    learned="It hears that it should stop between any two messages, and when there is none.",
)

hand_over = Exercise(
    "hand-over",
    check_hand_over,
    hints=[
        "Four things have a say: exchange, queue, message, confirm. Which call sets each?",
        "durable=True for the exchange and for the queue; a binding between them; "
        "pika.BasicProperties(delivery_mode=2) for the message.",
        "channel.confirm_delivery() comes before the publish. From then on basic_publish returns "
        "only when the broker has answered.",
    ],
    solution="""
channel.exchange_declare("exercise.safe", durable=True)
channel.queue_declare("exercise.safe.orders", durable=True)
channel.queue_bind("exercise.safe.orders", "exercise.safe", routing_key="order.created")
channel.confirm_delivery()
properties = pika.BasicProperties(delivery_mode=2)
channel.basic_publish("exercise.safe", "order.created", body, properties)
""",
    learned="All four, or it is luck.",
)

#: What happened on the other day, in shop seconds and orders a second.
DOWN_S, BACK_S, LAST_S = 40, 100, 220
COME_PER_S, DONE_PER_S = 1.5, 2.5


def another_day() -> pd.DataFrame:
    """Samples of two queues on a day on which shipping was down for a while; events, as a frame.

    Nobody has noted the crash or the return: they are to be read off the backlog.
    """
    recorder = Recorder(Pace(1.0))
    peak = COME_PER_S * (BACK_S - DOWN_S)
    for second in range(LAST_S + 1):
        grown = COME_PER_S * (min(second, BACK_S) - DOWN_S)
        left = peak - (DONE_PER_S - COME_PER_S) * (second - BACK_S)
        ready = max(0.0, min(grown, left))
        recorder.record("depth", "shipping_labels", None, int(ready), wall=float(second))
        mails = 1 if second % 7 == 3 else 0
        recorder.record("depth", "email_notifications", None, mails, wall=float(second))
    return recorder.frame()


#: What is to be read: the value, how near to it is near enough, where it is seen.
READINGS = {
    "down at": (DOWN_S, 5, "where the line leaves zero: from then on nobody takes anything"),
    "back at": (BACK_S, 5, "where the line turns: from then on somebody works on it"),
    "orders a second": (COME_PER_S, 0.15, "how fast the line rises while nobody takes anything"),
    "could do": (
        DONE_PER_S,
        0.2,
        "the line falls by what shipping does less what still comes; so how much does it do?",
    ),
}


def _misread(what: str, seen: float) -> str:
    drained_s = BACK_S + COME_PER_S * (BACK_S - DOWN_S) / (DONE_PER_S - COME_PER_S)
    slips = {
        (
            "back at",
            drained_s,
        ): "that is when the backlog has drained; shipping was back long before",
        ("down at", BACK_S): "that is where the line is at its highest",
        ("could do", DONE_PER_S - COME_PER_S): "that is how fast the line falls. Orders go on "
        "coming, and shipping does those as well",
        ("could do", COME_PER_S): "that is what comes; a shop that does no more never drains",
    }
    for (name, value), cause in slips.items():
        if name == what and abs(seen - value) <= 0.1 * value:
            return cause
    return READINGS[what][2]


def _check_reading(reading: Mapping[str, Any]) -> None:
    if all(value is None or value is ... for value in reading.values()):
        raise NotAttempted("Put a number in place of each None: shop seconds, or orders a second.")
    for what, (value, room, _) in READINGS.items():
        seen = reading.get(what)
        if seen is None or seen is ...:
            raise NotYet(f"{what!r} has no answer yet", "a number")
        if isinstance(seen, bool) or not isinstance(seen, int | float):
            raise NotYet(f"{what!r} is {seen!r}", "a number")
        if abs(seen - value) > room:
            raise NotYet(f"{what!r}: you say {seen:g}", "another number", _misread(what, seen))


reading = Exercise(
    "reading",
    _check_reading,
    hints=[
        "The line has three bends: where it leaves zero, where it turns, where it is at zero again.",
        "How fast it rises: the height of the peak divided by the seconds from the first bend to "
        "the second. While it rises, nobody takes anything, so that is what comes.",
        "How fast it falls, read in the same way, is not what shipping does. Orders go on coming "
        "meanwhile: what it does is the fall and what comes, together.",
    ],
    solution='reading = {"down at": 40, "back at": 100, "orders a second": 1.5, "could do": 2.5}',
    learned="A backlog's slope is a difference of two rates; where one of them is zero, you see "
    "the other.",
)
