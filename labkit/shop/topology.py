"""The decoupled flow's exchanges, queues and bindings: who gets to know what."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from pika.adapters.blocking_connection import BlockingChannel

EXCHANGE = "orders"
DEAD_LETTER_EXCHANGE = "orders.dead"
DEAD_LETTER_QUEUE = "dead_letters"

#: Queue, the service that owns it, and the routing keys that it is bound with.
QUEUES: dict[str, tuple[str, tuple[str, ...]]] = {
    "payment_processing": ("payment", ("order.created",)),
    "inventory_updates": ("inventory", ("payment.completed",)),
    "email_notifications": ("email", ("order.created", "payment.completed", "payment.failed")),
    "shipping_labels": ("shipping", ("payment.completed",)),
    "order_updates": ("order_service", ("payment.completed", "payment.failed", "label.printed")),
    "analytics_events": ("analytics", ("order.created", "payment.*", "label.printed")),
    "recommendation_updates": ("recommendations", ("order.created",)),
}


def queue_of(service: str) -> str:
    """The queue that a service owns."""
    return next(queue for queue, (owner, _) in QUEUES.items() if owner == service)


def concerns(queue: str, routing_key: str) -> bool:
    """Whether a queue is bound for messages with this routing key."""
    patterns = QUEUES[queue][1]
    return any(fnmatchcase(routing_key, pattern) for pattern in patterns)


def declare_exchanges(channel: BlockingChannel) -> None:
    """Declares the exchange for orders, and the one for messages that nobody can use."""
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.exchange_declare(DEAD_LETTER_EXCHANGE, "fanout", durable=True)
    channel.queue_declare(DEAD_LETTER_QUEUE, durable=True)
    channel.queue_bind(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE)


def declare_queue(
    channel: BlockingChannel, queue: str, more: Mapping[str, object] | None = None
) -> None:
    """Declares one department's queue and binds it to what the department needs to know.

    Args:
        channel: any open channel.
        queue: one of `QUEUES`.
        more: further arguments of the queue, such as `labkit.waiting.AT_LEAST_ONCE`.
    """
    arguments = {"x-dead-letter-exchange": DEAD_LETTER_EXCHANGE, **(more or {})}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    for routing_key in QUEUES[queue][1]:
        channel.queue_bind(queue, EXCHANGE, routing_key)
