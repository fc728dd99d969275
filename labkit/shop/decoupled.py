"""The decoupled flow: the order service publishes, and each department takes from its own queue."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel

from labkit import amqp
from labkit.background import stop_all
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.consumer_thread import Handler
from labkit.errors import InputError, ServiceError
from labkit.events import Recorder
from labkit.shop import topology
from labkit.shop.departments import Department, DepartmentError
from labkit.shop.order_service import OrderService
from labkit.shop.orders import EventType, OrderEvent
from labkit.shop.premises import WEB_WORKERS, Premises
from labkit.web import HttpService

#: A department that can't work now puts the message back, after so many shop seconds.
PAUSE_S = 1.0

#: A message on its way from the broker to a consumer is neither ready nor in hand. So all is done
#: when so many looks in a row, at least 0.02 s apart, find nothing; fewer would not do on a busy
#: machine, where a consumer's thread may have to wait for its turn.
SAMPLES_AT_REST = 15

#: What a department's result tells the others, if anything.
FOLLOW_UPS: dict[tuple[str, str], EventType] = {
    ("payment", "charged"): "PAYMENT_COMPLETED",
    ("payment", "declined"): "PAYMENT_FAILED",
    ("shipping", "printed"): "LABEL_PRINTED",
}

EVERYONE = ("payment", "inventory", "email", "shipping", "analytics", "recommendations")


def message_handler(department: Department, pace: Pace, recorder: Recorder) -> Handler:
    """A department behind a queue: work, tell the others, then acknowledge.

    In this order, so that a crash at any point leaves the message with the broker. A body that is
    no event is rejected, into the dead letter queue (`Consumer` does it). A department that can't
    work now puts the message back and pauses.
    """

    def on_message(
        channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        event = OrderEvent.read(body)
        try:
            result = department.handle(event)
        except DepartmentError:
            pace.wait(PAUSE_S)
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        follow_up = FOLLOW_UPS.get((department.name, result))
        if follow_up is not None:
            news = OrderEvent.about(event, follow_up)
            recorder.record("published", department.name, event.order_id, news.routing_key)
            amqp.publish(
                channel,
                topology.EXCHANGE,
                news.routing_key,
                news.to_json(),
                correlation_id=event.order_id,
                message_id=news.event_id,
                content_type="application/json",
            )
        channel.basic_ack(method.delivery_tag)

    return on_message


class DecoupledShop(Premises):
    """The shop whose customers get an answer as soon as the order is safe.

    Its door is `POST /orders`, which answers 202 once the order is saved and published, and
    `GET /orders/<id>`.

    Args:
        folder: an empty folder for the databases.
        pace: shop time.
        recorder: where everything that happens is noted.
        url: the broker's AMQP URL; the virtual host gets the shop's exchanges and queues.
        departments: whose queues and consumers to start with; `add()` brings more.
        web_workers: how many customers the order service's web server serves at the same time.

    Attributes:
        consumers: each department's consumer, by name: `consumers["payment"].crash()`.
        door: the order service's HTTP service.

    A context manager.
    """

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        recorder: Recorder,
        url: str,
        *,
        departments: Iterable[str] = EVERYONE,
        web_workers: int = WEB_WORKERS,
    ) -> None:
        super().__init__(folder, pace, recorder)
        self._set_up(url, OrderService(self.orders, url, recorder), departments, web_workers)

    def _set_up(
        self, url: str, service: OrderService, departments: Iterable[str], web_workers: int
    ) -> None:
        """Puts the door and the consumers together; starts nothing."""
        self.amqp_url = url
        self.service = service
        self.door = HttpService(
            service.app(), "order_service", web_workers, self.recorder, service.prepare
        )
        self.consumers = {
            name: self._consumer(name, self._handler(name))
            for name in ("order_service", *departments)
        }

    @property
    def url(self) -> str:
        """The address of the door."""
        return self.door.url

    @property
    def queues(self) -> list[str]:
        """The queues of the departments that take part."""
        return [topology.queue_of(name) for name in self.consumers]

    def _department(self, name: str) -> Department:
        if name not in self.departments:
            raise InputError(
                f"There is no department {name!r}.",
                "",
                f"choose from {', '.join(self.departments)}",
            )
        return self.departments[name]

    def _handler(self, name: str) -> Handler:
        """What takes the messages of a department, or of the order service itself."""
        if name == "order_service":
            return self.service.on_update
        return message_handler(self._department(name), self.pace, self.recorder)

    def _consumer(self, name: str, handler: Handler, auto_ack: bool = False) -> Consumer:
        department = self.departments.get(name)
        return Consumer(
            handler,
            topology.queue_of(name),
            self.amqp_url,
            name=name,
            prefetch=department.prefetch if department else 1,
            threads=department.workers if department else 1,
            recorder=self.recorder,
            auto_ack=auto_ack,
        )

    def start(self) -> Self:
        """Declares what is needed, starts the departments, and opens the door.

        Raises:
            BrokerError: no broker answers.
        """
        try:
            self.open()
            connection = amqp.connect(self.amqp_url, "topology")
            channel = connection.channel()
            self._declare_shared(channel)
            for name in self.consumers:
                self._declare(channel, name)
            connection.close()
            for consumer in self.consumers.values():
                consumer.start()
            self.service.start()
            self.door.start()
        except BaseException:
            self.stop()
            raise
        return self

    def _declare_shared(self, channel: BlockingChannel) -> None:
        """Declares what all consumers need."""
        topology.declare_exchanges(channel)

    def _declare(self, channel: BlockingChannel, name: str) -> None:
        """Declares what one consumer needs."""
        topology.declare_queue(channel, topology.queue_of(name))

    def add(self, name: str) -> Consumer:
        """Adds a department while orders flow; nobody else has to know.

        Raises:
            InputError: there is no such department.
        """
        if name not in self.consumers:
            self.consumers[name] = self._consumer(name, self._handler(name))
            connection = amqp.connect(self.amqp_url, "topology")
            self._declare(connection.channel(), name)
            connection.close()
        return self.consumers[name].start()

    def wait_until_done(self, orders: int | None = None, timeout_wall_s: float = 120.0) -> None:
        """Returns when every order is completed or declined and every queue is empty.

        Args:
            orders: how many must have been accepted by then; those that are there if left out.
            timeout_wall_s: real seconds to wait at most.

        Raises:
            ServiceError: they are not done by then.
            LabError: a consumer failed meanwhile.
        """

        def ended() -> str | None:
            accepted = self.orders.count()
            done = self.orders.count("completed", "declined", "failed")
            return None if done == accepted >= (orders or 0) else f"{done} of {accepted} orders"

        self._wait(ended, timeout_wall_s)

    def _wait(self, unfinished: Callable[[], str | None], timeout_wall_s: float) -> None:
        """Returns when nothing is unfinished, nothing waits and nothing is in hand."""
        deadline = time.monotonic() + timeout_wall_s
        at_rest, channel = 0, None
        with contextlib.ExitStack() as at_the_end:
            while at_rest < SAMPLES_AT_REST:
                begun = time.monotonic()
                self._raise_if_failed()
                left, waiting = unfinished(), 0
                late = time.monotonic() > deadline
                if late or not (left or self._in_hand()):  # it is dear to ask for every queue
                    if channel is None:
                        connection = amqp.connect(self.amqp_url, "wait", heartbeat_wall_s=0)
                        at_the_end.enter_context(contextlib.closing(connection))
                        channel = connection.channel()
                    waiting = self._waiting(channel)
                busy = self._in_hand()  # after the queues, where it was before
                at_rest = 0 if left or waiting or busy else at_rest + 1
                if late:
                    raise ServiceError(
                        f"Not every order is done after {timeout_wall_s:g} s.",
                        f"{left or 'all orders'} ended; {waiting} messages wait, {busy} in hand",
                        "is a department stopped? shop.consumers[name].start() brings it back",
                    )
                # Whoever waits must not keep the broker from what is waited for.
                time.sleep(max(0.02, time.monotonic() - begun))

    def _raise_if_failed(self) -> None:
        for consumer in self.consumers.values():
            consumer.raise_if_failed()

    def _in_hand(self) -> int:
        """How many messages the departments work on."""
        return sum(consumer.in_hand for consumer in self.consumers.values())

    def _waiting(self, channel: BlockingChannel) -> int:
        """How many messages wait in the departments' queues; one at least where nobody consumes.

        A broker that has just started says of a quorum queue without a leader that it is empty.
        Its consumer is not back by then either.
        """
        consumed = {consumer.queue for consumer in self.consumers.values() if consumer.running}
        waiting = 0
        for queue in self.queues:
            found = channel.queue_declare(queue, passive=True).method
            away = queue in consumed and found.consumer_count == 0
            waiting += max(found.message_count, int(away))
        return waiting

    def stop(self) -> None:
        """Closes the door, lets each department finish what it has in hand; may be called twice.

        Raises:
            ServiceError: something did not stop, or had failed.
        """
        try:
            stop_all([self.door, *self.consumers.values()], timeout_wall_s=30.0)
        finally:
            self.service.stop()
            self.close()
