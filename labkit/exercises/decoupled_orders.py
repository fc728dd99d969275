"""Exercises of notebook 03: a service beside the others, a backlog worked out, a status page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labkit.checks import Exercise, NotYet
from labkit.exercises._revenue import check_revenue

revenue_service = Exercise(
    "revenue-service",
    check_revenue,
    hints=[
        "start_consuming() needs four calls of self.channel: declare a queue, bind it, register "
        "the handler, and start. You have seen the first three with the loyalty points.",
        "One routing key stands for 'somebody has ordered'. Bind with that key alone, or each "
        "order is counted again when it is paid.",
        "The handler reads the body by json.loads(body), adds event['amount'] to "
        "self.revenue[event['product_id']], and acknowledges when that is done.",
        "self.channel.queue_declare('revenue', durable=True), then queue_bind('revenue', "
        "exchange='orders', routing_key='order.created'), basic_consume('revenue', "
        "self.on_message) and start_consuming().",
    ],
    solution="""
def start_consuming(self):
    self.channel.queue_declare("revenue", durable=True)
    self.channel.queue_bind("revenue", exchange="orders", routing_key="order.created")
    self.channel.basic_consume("revenue", self.on_message)
    self.channel.start_consuming()

def on_message(self, channel, method, properties, body):
    event = json.loads(body)
    product = event["product_id"]
    self.revenue[product] = self.revenue.get(product, 0) + event["amount"]
    channel.basic_ack(method.delivery_tag)
""",
    learned="A new service needs its own queue and one binding. Nobody else was asked or changed.",
)


def _check_rush(rush: Callable[[float, float, float, float], tuple[float, float]]) -> None:
    for given, left, drain_s in (
        ((40, 2, 4, 3), 40 / 3, 10.0),
        ((30, 1, 4, 3), 0.0, 0.0),
        ((1000, 10, 8, 4), 800.0, 400.0),
    ):
        call = f"rush({', '.join(map(str, given))})"
        seen: Any = rush(*given)
        if not isinstance(seen, tuple | list) or len(seen) != 2:
            raise NotYet(f"{call} gives {seen!r}", "two numbers: messages left, seconds to drain")
        if abs(seen[0] - left) > 0.01 * max(left, 1):
            raise NotYet(
                f"{call} says that {seen[0]:g} orders are left when the last customer has come",
                f"{left:g}",
                _cause_of_left(seen[0], given),
            )
        if abs(seen[1] - drain_s) > 0.01 * max(drain_s, 1):
            raise NotYet(
                f"{call} says that it takes {seen[1]:g} s to drain what is left",
                f"{drain_s:g} s",
                "what is left, divided by how many orders all workers together do in a second",
            )


def _cause_of_left(seen: float, given: tuple[float, float, float, float]) -> str:
    customers, per_s, _, takes_s = given
    coming_s = customers / per_s
    if seen < 0:
        return "payment is faster than they come: then nothing is left, not less than nothing"
    if abs(seen - max(0, customers - coming_s / takes_s)) < 0.01:
        return "that is what one worker leaves; the workers work side by side"
    if abs(seen - customers) < 0.01:
        return "payment works while they come, not only afterwards"
    return "orders that came, less those that payment could do in the same time"


rush = Exercise(
    "rush",
    _check_rush,
    hints=[
        "Two rates: customers come at per_s orders a second; how many orders a second can payment "
        "do, with all its workers?",
        "They come for customers / per_s seconds. In that time payment does rate * seconds orders.",
        "Where payment is faster than they come, nothing is left: max(0, ...).",
    ],
    solution="""
payments_per_s = workers / takes_s
coming_s = customers / per_s
left = max(0, customers - payments_per_s * coming_s)
return left, left / payments_per_s
""",
    learned="A queue moves work to a later time. How much later is a division, not a surprise.",
)


def _check_follow(follow: Callable[[Callable[[], str], Callable[[], None], int], str]) -> None:
    for story, most, expected, asks in (
        (("pending", "pending", "paid", "paid", "completed"), 50, "completed", 5),
        (("pending", "declined"), 50, "declined", 2),
        (("pending",), 7, "pending", 7),
        (("completed",), 50, "completed", 1),
    ):
        asked, paused = 0, 0

        def ask(story: tuple[str, ...] = story, most: int = most) -> str:
            nonlocal asked
            asked += 1
            if asked > 5 * most:
                raise NotYet(
                    f"An order that goes {_way(story)}, and most={most}: you have asked {asked} "
                    "times and still go on",
                    f"an answer after {most} asks at most",
                    "a loop that ends only where the order does",
                )
            return story[min(asked, len(story)) - 1]

        def pause() -> None:
            nonlocal paused
            paused += 1

        seen = follow(ask, pause, most)
        what = f"An order that goes {_way(story)}, and most={most}"
        if seen != expected:
            raise NotYet(f"{what}: you say {seen!r}", f"{expected!r}", _cause_of_end(seen, story))
        if asked != asks:
            raise NotYet(
                f"{what}: you asked {asked} times",
                f"{asks}",
                "declined is an end as well as completed: asking on changes nothing"
                if asked > asks and expected == "declined"
                else "ask until the order has ended, `most` times at most",
            )
        if paused < asks - 1:
            raise NotYet(
                f"{what}: {asked} asks with {paused} pauses",
                f"a pause between one ask and the next, {asks - 1} of them",
                "without pause() a page asks hundreds of times a second",
            )


def _way(story: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(story))


def _cause_of_end(seen: object, story: tuple[str, ...]) -> str:
    if seen is None:
        return "the function returns nothing"
    if seen == "paid":
        return "paid is on the way, not the end: no label has been printed yet"
    if seen == "pending" and len(story) > 1:
        return "received is not done: the first answer is only where it begins"
    return "return the last status that ask() gave"


follow = Exercise(
    "follow",
    _check_follow,
    hints=[
        "Two things end the loop: the order has ended, or you have asked `most` times.",
        "An order ends in one of two ways: completed, or declined.",
        "for _ in range(most): status = ask(); break where it has ended, else pause(). "
        "Return the status.",
    ],
    solution="""
for _ in range(most):
    status = ask()
    if status in ("completed", "declined"):
        break
    pause()
return status
""",
    learned="Whoever is told 'received' needs a way to learn the end: a page, a mail, or a call.",
)
