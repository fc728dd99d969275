"""How each kind of fault is brought about and mended.

Each is a context manager: entering it breaks something, leaving it mends that.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pika.exceptions

from labkit import amqp
from labkit.broker import address
from labkit.broker.admin import AbsentError
from labkit.errors import BrokerError, LabError
from labkit.faults.scene import MissedError, Scene, mend
from labkit.shop.outbox import RELAY_POINTS

#: A slow department takes so many times as long.
SLOWER = 5

#: What comes as a malformed message; the shop's departments can read none of these.
MALFORMED = (
    b"",
    b"hello",
    b"\xff\xfe\x00",
    b"[1, 2, 3]",
    b'{"order_id": "order-1"}',
    b'{"type": "ORDER_CREATED", "order_id": 7, "quantity": "many"}',
)


@contextlib.contextmanager
def crash(scene: Scene) -> Iterator[None]:
    """The consumer crashes at a point of its work, and is started again."""
    consumer = scene.consumer
    point = scene.fault.kind.removeprefix("crash ")
    with _crashed(scene, consumer.crash_at(point), consumer.disarm):
        try:
            yield
        finally:
            mend(scene, consumer.restart)


@contextlib.contextmanager
def _crashed(scene: Scene, crashed: threading.Event, disarm: Callable[[], bool]) -> Iterator[None]:
    """Waits for a crash that was asked for, and takes the wish back where it does not come."""
    try:
        scene.until(crashed.is_set)
    except MissedError:
        if disarm():
            raise
        crashed.wait()  # it crashes at this very moment
    yield


@contextlib.contextmanager
def drop_connection(scene: Scene) -> Iterator[None]:
    """Its sockets break."""
    scene.until(scene.consumer.drop_connections)
    yield


@contextlib.contextmanager
def close_connection(scene: Scene) -> Iterator[None]:
    """The broker's management closes its connections."""
    scene.until(lambda: _close_connections(scene))
    yield


def _close_connections(scene: Scene) -> int:
    """Closes those of the consumer that the management page knows; how many it closed."""
    consumer, closed = scene.consumer, 0
    names = {f"{consumer.name}-{number}" for number in range(1, consumer.threads + 1)}
    with contextlib.suppress(BrokerError):  # the broker is away, too
        admin = scene.the_broker.admin
        for connection in admin.connections(address.parse(scene.shop.amqp_url).vhost):
            properties: Any = connection.get("client_properties") or {}
            if isinstance(properties, dict) and properties.get("connection_name") in names:
                with contextlib.suppress(AbsentError):
                    admin.close_connection(connection["name"], "a fault on purpose")
                    closed += 1
    return closed


@contextlib.contextmanager
def refuse(scene: Scene) -> Iterator[None]:
    """The department can't work."""
    scene.department.refuses = True
    try:
        yield
    finally:
        scene.department.refuses = False


@contextlib.contextmanager
def slow(scene: Scene) -> Iterator[None]:
    """The department takes longer: the company outside that it depends on, if it does on one."""
    department: Any = scene.department
    outside = getattr(department, "gateway", None) or getattr(department, "carrier", None)
    worker = outside or department
    takes_s = worker.takes_s
    worker.takes_s = SLOWER * takes_s
    try:
        yield
    finally:
        worker.takes_s = takes_s


@contextlib.contextmanager
def lock_database(scene: Scene) -> Iterator[None]:
    """Somebody has begun to write into its SQLite file, and does not come to an end."""
    owner: Any = scene.shop.departments.get(scene.fault.target)
    database = (owner or scene.shop.orders).database  # type: ignore[attr-defined]
    # In autocommit mode, where a transaction is what `BEGIN` says it is.
    with contextlib.closing(
        sqlite3.connect(database.path, timeout=10, isolation_level=None)
    ) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            raise MissedError from None  # it is locked for this long by somebody else
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@contextlib.contextmanager
def malformed_message(scene: Scene) -> Iterator[None]:
    """A message that nobody can read comes in."""
    body = random.Random(f"{scene.fault}").choice(MALFORMED)  # the same for the same plan
    scene.until(lambda: _published(scene, body))
    yield


def _published(scene: Scene, body: bytes) -> bool:
    """Whether the broker has the message; twice, perhaps, where it breaks off."""
    try:
        connection = amqp.connect(scene.shop.amqp_url, "malformed")
        try:
            amqp.publish(connection.channel(), "", scene.consumer.queue, body)
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                connection.close()
    except (LabError, pika.exceptions.AMQPError, OSError):
        return False
    return True


@contextlib.contextmanager
def stop_broker(scene: Scene) -> Iterator[None]:
    """The broker is stopped in good order, then started."""
    scene.the_broker.stop()
    try:
        yield
    finally:
        mend(scene, scene.the_broker.start)


@contextlib.contextmanager
def kill_broker(scene: Scene) -> Iterator[None]:
    """The broker is killed, then started."""
    scene.the_broker.kill()
    try:
        yield
    finally:
        mend(scene, scene.the_broker.start)


@contextlib.contextmanager
def crash_relay(scene: Scene) -> Iterator[None]:
    """A relay crashes at a point of its work."""
    relay = scene.shop.relays[scene.fault.target]  # type: ignore[attr-defined]
    # The same for the same plan.
    point = random.Random(f"{scene.fault}").choice(list(RELAY_POINTS))
    with _crashed(scene, relay.crash_at(point), relay.disarm):
        try:
            yield
        finally:
            mend(scene, relay.restart)


@contextlib.contextmanager
def crash_order_service(scene: Scene) -> Iterator[None]:
    """The order service crashes with an order in its hands: door, consumer and relay."""
    shop: Any = scene.shop
    crashed = shop.crash_order_service_at("after save")
    with _crashed(scene, crashed, shop.service.points.disarm):
        try:
            yield
        finally:
            # Its door opens without a broker; its consumer can't start before there is one.
            mend(scene, shop.door.restart)
            if "order_service" in shop.relays:
                mend(scene, shop.relays["order_service"].restart)
            mend(scene, shop.consumers["order_service"].restart)


ACTIONS: dict[str, Callable[[Scene], AbstractContextManager[None]]] = {
    "crash before work": crash,
    "crash after work": crash,
    "crash after ack": crash,
    "drop connection": drop_connection,
    "close connection": close_connection,
    "refuse": refuse,
    "slow": slow,
    "lock database": lock_database,
    "malformed message": malformed_message,
    "stop broker": stop_broker,
    "restart broker": stop_broker,
    "kill broker": kill_broker,
    "crash relay": crash_relay,
    "crash order service": crash_order_service,
}
