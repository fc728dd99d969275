"""Telling the others at once, without an outbox: with a confirm, or fire and forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import pika

from labkit import amqp
from labkit.amqp import LOST, Publisher, ThreadChannels
from labkit.background import Managed, checkpoint
from labkit.events import Recorder
from labkit.shop.orders import OrderEvent
from labkit.shop.topology import EXCHANGE


class FireAndForget(Managed):
    """Publishes from any thread, and does not wait for an answer: nobody knows what arrives.

    A call returns when the bytes are handed to the operating system. What is lost on the way, or
    in a broker that dies, is lost without a word.

    Args:
        url: the broker's AMQP URL.
        name: the name that its connections, one for each thread, show to the broker.

    A context manager; connections are opened when first used.
    """

    def __init__(self, url: str, name: str = "fire-and-forget") -> None:
        self.channels = ThreadChannels(url, name, confirms=False)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str | Mapping[str, Any],
        **properties: Any,
    ) -> None:
        """Publishes one persistent message, not `mandatory`, in no confirm mode.

        Raises:
            BrokerError: no broker answers.
        """
        checkpoint()
        data, content_type = amqp.encode(body)
        given = {"delivery_mode": amqp.PERSISTENT, "content_type": content_type} | properties
        message = pika.BasicProperties(**given)
        try:
            self.channels.mine().basic_publish(exchange, routing_key, data, message)
        except LOST:
            # Lost since the last message; that much is noticed. What of that arrived, is not.
            self.channels.anew().basic_publish(exchange, routing_key, data, message)

    def start(self) -> Self:
        """Nothing to do: connections are opened when first used."""
        return self

    def stop(self) -> None:
        """Closes the connections; their threads must have finished publishing."""
        self.channels.close()


class Announcer:
    """Publishes events from any thread, as soon as they have happened.

    Args:
        url: the broker's AMQP URL.
        recorder: where each publish is noted.
        confirms: whether a call waits until the broker has taken charge.
    """

    def __init__(self, url: str, recorder: Recorder, confirms: bool) -> None:
        self.recorder = recorder
        self._way: Publisher | FireAndForget = (
            Publisher(url, "announcer") if confirms else FireAndForget(url, "announcer")
        )

    def open(self) -> None:
        """Opens the calling thread's connection, so that its first event need not wait for it.

        Raises:
            BrokerError: no broker answers.
        """
        self._way.channels.mine()

    def announce(self, service: str, event: OrderEvent) -> None:
        """Tells whoever is interested what has happened.

        Raises:
            BrokerError: no broker answers.
            pika.exceptions.AMQPError: with confirms, where the broker does not take charge.
        """
        self.recorder.record("published", service, event.order_id, event.routing_key)
        self._way.publish(
            EXCHANGE,
            event.routing_key,
            event.to_json(),
            correlation_id=event.order_id,
            message_id=event.event_id,
            content_type="application/json",
        )

    def close(self) -> None:
        """Closes its connections; whoever announces must have finished."""
        if isinstance(self._way, Publisher):
            self._way.close()
        else:
            self._way.stop()
