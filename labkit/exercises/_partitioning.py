"""The check of notebook 08's routing key: whose orders stay together, and do they spread."""

from __future__ import annotations

import contextlib
import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from labkit import amqp, partitions
from labkit.checks import NotYet
from labkit.exercises._looking import connected, waiting

EXCHANGE = "exercise.parcels"
QUEUES = 4
CUSTOMERS = [f"customer-{n:03d}@example.com" for n in range(1, 25)]
PRODUCTS = ("mug", "teapot", "kettle")

RoutingKey = Callable[[dict[str, Any]], str]


def _events() -> list[dict[str, Any]]:
    """Three events of each customer: about two orders, and of three products."""
    found: list[dict[str, Any]] = []
    for n, customer in enumerate(CUSTOMERS):
        for k, kind in enumerate(("ORDER_CREATED", "PAYMENT_COMPLETED", "ORDER_CREATED")):
            number = len(found) + 1
            found.append(
                {
                    "event_id": f"{7919 * number:08x}",
                    "type": kind,
                    "order_id": f"order-{2 * n + k // 2 + 1:03d}",
                    "customer_email": customer,
                    "product_id": PRODUCTS[(n + k) % 3],
                    "quantity": 1 + k,
                    "amount": 1200 * (1 + k),
                    "time": 1_790_000_000.0 + number,
                }
            )
    return found


def _in_process(routing_key: RoutingKey, salt: str) -> RoutingKey:
    """The function as another process runs it, where `hash` of a text gives another number.

    What is not a plain function, or hides `hash` behind others, is left as it is.
    """
    if not isinstance(routing_key, types.FunctionType):
        return routing_key

    def salted(value: object) -> int:
        # Of one text: hashes of two tuples that differ in the salt alone may share their last bits.
        return hash(value) if isinstance(value, int | float) else hash(f"{salt} {value!r}")

    return types.FunctionType(
        routing_key.__code__,
        routing_key.__globals__ | {"hash": salted},
        routing_key.__name__,
        routing_key.__defaults__,
        routing_key.__closure__,
    )


def check_routing_key(routing_key: RoutingKey, url: str) -> None:
    """Returns where each customer's events get one key, and customers spread over the queues.

    Raises:
        NotYet: they don't.
    """
    events = _events()
    keys = [_key(routing_key, event) for event in events]
    if keys != [_key(routing_key, event) for event in events]:
        raise NotYet(
            "The same event, asked for twice, gets two different keys",
            "the same key each time",
            "a random number, a clock or a counter decides: then chance decides on the queue",
        )
    here, there = (_in_process(routing_key, salt) for salt in ("one", "another"))
    if [_key(here, event) for event in events] != [_key(there, event) for event in events]:
        raise NotYet(
            "The same event gets one key in one process and another in the next",
            "the same key, whichever program publishes it, and after a restart, too",
            "Python's hash() of a text: each process salts it with a number of its own",
        )
    _one_key_each(events, keys)
    if len(set(keys)) < len(CUSTOMERS) // 2:
        raise NotYet(
            f"{len(CUSTOMERS)} customers share {len(set(keys))} "
            f"{'key' if len(set(keys)) == 1 else 'keys'}",
            "customers spread over the queues",
            "in one queue everything is in order, and nothing is done side by side",
        )
    _on_the_broker(events, keys, url)


def _key(routing_key: RoutingKey, event: dict[str, Any]) -> str:
    key: Any = routing_key(dict(event))
    if not isinstance(key, str):
        raise NotYet(
            f"routing_key gives {key!r}, a {type(key).__name__}",
            "text, as AMQP wants for a routing key",
            "a number has to be made text, and what identifies a customer is text already",
        )
    return key


def _one_key_each(events: list[dict[str, Any]], keys: list[str]) -> None:
    of_customer: dict[str, list[str]] = defaultdict(list)
    for event, key in zip(events, keys, strict=True):
        of_customer[event["customer_email"]].append(key)
    for customer, theirs in of_customer.items():
        if len(set(theirs)) == 1:
            continue
        raise NotYet(
            f"The events of {customer} get {len(set(theirs))} keys: {', '.join(theirs)}",
            "one: all that happens to a customer goes through one queue",
            _cause(events, keys),
        )


def _cause(events: list[dict[str, Any]], keys: list[str]) -> str:
    """By which field the key varies."""
    for field, words in (
        ("order_id", "the order's id: the customer's next order may go to another queue"),
        ("product_id", "the product: a customer who buys two things has two keys"),
        ("event_id", "the event's id: no two events share it, so nothing stays together"),
        ("type", "the type of the event: an order and its payment then part"),
    ):
        if all(str(event[field]) in key for event, key in zip(events, keys, strict=True)):
            return words
    return "it depends on something that differs between two events of one customer"


def _on_the_broker(events: list[dict[str, Any]], keys: list[str], url: str) -> None:
    """Publishes them, and looks in which queue each has come."""
    with connected(url) as connection:
        channel = connection.channel()
        # What an attempt that was interrupted has left; gone is no error.
        _clear(channel)
        try:
            parted = partitions.declare(url, EXCHANGE, QUEUES)
            for event, key in zip(events, keys, strict=True):
                body = event["customer_email"]
                amqp.publish(channel, EXCHANGE, parted.routing_key(key), body)
            queues_of: dict[str, set[str]] = defaultdict(set)
            for queue in parted.queues:
                for customer in waiting(channel, queue):
                    queues_of[customer].add(queue)
        finally:
            _clear(channel)
    for customer, queues in queues_of.items():
        if len(queues) > 1:
            raise NotYet(f"The events of {customer} are in {len(queues)} queues", "in one")
    if len(set().union(*queues_of.values())) == 1:
        raise NotYet(
            f"All customers are in one of the {QUEUES} queues",
            "customers spread over the queues",
            "keys that are too much alike",
        )


def _clear(channel: Any) -> None:
    with contextlib.suppress(Exception):  # where the connection is lost there is nothing to clear
        for number in range(1, QUEUES + 1):
            channel.queue_delete(f"{EXCHANGE}.{number}")
        channel.exchange_delete(EXCHANGE)
