"""What it costs to lose and double nothing, and how soon the shop works again after a failure."""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika

import labkit
from benchmarks.figures import MANY_ROUNDS, ROUNDS, Figure, in_turn, spread
from labkit.clock import Pace
from labkit.confirms import ConfirmWindow, publish_each, publish_in_window
from labkit.events import Recorder
from labkit.load import basket
from labkit.shop import OrderEvent, ReliableShop, Request
from labkit.shop.orders import Order
from labkit.shop.topology import DEAD_LETTER_EXCHANGE, EXCHANGE, declare_exchanges

BODY = b"x" * 200
#: So many that each style is at work for a second or more.
ONE_BY_ONE, IN_A_WINDOW = 2_000, 20_000
#: So many confirms are outstanding: enough that the broker is never without work.
WINDOW = 1_000
#: Orders in one round of the shop and of what it is compared with.
ORDERS = 1_500
#: Of its work nothing but the database and the broker takes time here.
DEPARTMENT = "analytics"
#: How many messages a consumer holds: the department's own, for both sides.
PREFETCH = 10
#: Before RabbitMQ 4.2 a queue that was declared a second before a SIGKILL may be gone.
SETTLED_WALL_S = 3.0
TIMEOUT_WALL_S = 120.0


def confirms(url: str) -> Figure:
    """Persistent messages a second: a window of outstanding confirms, against waiting for each."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    queue = "bench-confirms"
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()

    def each() -> float:
        start = time.perf_counter()
        publish_each(channel, [("", queue, BODY)] * ONE_BY_ONE)
        return ONE_BY_ONE / (time.perf_counter() - start)

    rates: dict[Callable[[], float], list[float]] = {each: []}
    with ConfirmWindow(url, size=WINDOW) as window:

        def in_a_window() -> float:
            start = time.perf_counter()
            failed = publish_in_window(window, [("", queue, BODY)] * IN_A_WINDOW)
            assert not failed
            return IN_A_WINDOW / (time.perf_counter() - start)

        rates[in_a_window] = []
        for styles in in_turn(each, in_a_window, rounds=MANY_ROUNDS):
            for style in styles:
                rates[style].append(style())
                channel.queue_purge(queue)  # both publish to an empty queue
    channel.queue_delete(queue)
    connection.close()
    name = f"persistent publishes, {WINDOW} confirms outstanding / a confirm each"
    ratios = [a / b for a, b in zip(rates[in_a_window], rates[each], strict=True)][1:]
    note = (
        f"{spread(ratios)}; window {statistics.median(rates[in_a_window][1:]):.0f}/s, "
        f"each {statistics.median(rates[each][1:]):.0f}/s"
    )
    return Figure(name, statistics.median(ratios), 8, at_least=True, note=note)


def effectively_once(url: str) -> Figure:
    """Orders a second through outbox, window of confirms and message inbox, against bare pika.

    Bare means: a commit, a confirmed publish, and at the other end a commit and an
    acknowledgement. Both sides save the same order, send the same bytes, note the same fact, and
    have one thread that takes orders in and one that consumes.
    """
    ours: list[float] = []
    bare: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        _shop(url, Path(folder) / "shop") as shop,
        _Bare(url, Path(folder)) as other,
    ):
        for number, sides in enumerate(in_turn((other.rate, bare), (_Reliable(shop).rate, ours))):
            for rate, rates in sides:
                rates.append(rate(number))
    ratios = [a / b for a, b in zip(ours, bare, strict=True)][1:]
    note = (
        f"{spread(ratios)}; labkit {statistics.median(ours[1:]):.0f}/s, "
        f"bare {statistics.median(bare[1:]):.0f}/s"
    )
    name = "orders/s with outbox, confirms and inbox / bare confirmed publish, consume, two commits"
    return Figure(name, statistics.median(ratios), 0.8, at_least=True, note=note)


def broker_back() -> Figure:
    """After a broker was killed: first order processed / the broker accepts connections.

    The order is taken in while the broker is away. So it has to get out of the outbox and through
    the queue, on connections that were lost.
    """
    ratios, accepted, processed = [], [], []
    with (
        labkit.own_broker() as broker,
        tempfile.TemporaryDirectory() as folder,
        _shop(broker.url, Path(folder)) as shop,
    ):
        time.sleep(SETTLED_WALL_S)
        for number in range(ROUNDS):
            broker.kill()
            order = shop.service.create_order(Request.read(basket(number)))
            start = time.monotonic()
            broker.start()
            accepted.append(time.monotonic() - start)
            processed.append(_acked(shop.recorder, order) - start)
            ratios.append(processed[-1] / accepted[-1])
    note = (
        f"{spread(ratios)}; order {statistics.median(processed):.2f} s, "
        f"broker {statistics.median(accepted):.2f} s"
    )
    name = "broker killed and started: first order processed / broker accepts connections"
    return Figure(name, statistics.median(ratios), 1.3, note=note)


def consumer_back(url: str) -> Figure:
    """From the restart of a crashed consumer to its acknowledgement of the order that waits."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder, _shop(url, Path(folder)) as shop:
        consumer = shop.consumers[DEPARTMENT]
        for number in range(2 * ROUNDS):
            consumer.crash()
            order = shop.service.create_order(Request.read(basket(number)))
            _wait(lambda: not shop.outboxes["order_service"].unsent)
            start = time.monotonic()
            consumer.restart()
            seconds.append(_acked(shop.recorder, order) - start)
    name = "consumer crashed and restarted: first order processed"
    return Figure(name, statistics.median(seconds), 0.3, unit="s", note=spread(seconds))


def _wait(done: Callable[[], object]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + TIMEOUT_WALL_S
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("bench: an order was not processed in time")
        time.sleep(0.01)


def _acked(recorder: Recorder, order: Order) -> float:
    """When the department had acknowledged an order, by `time.monotonic()`."""

    def times() -> list[float]:
        return [
            event.wall
            for event in recorder
            if (event.kind, event.service, event.order_id) == ("acked", DEPARTMENT, order.order_id)
        ]

    _wait(times)
    return times()[0]


@contextmanager
def _shop(url: str, folder: Path) -> Iterator[ReliableShop]:
    """A reliable shop with one department, whose work itself takes no time."""
    folder.mkdir(exist_ok=True)
    pace = Pace(20)
    with ReliableShop(folder, pace, Recorder(pace), url, departments=[DEPARTMENT]) as shop:
        shop.departments[DEPARTMENT].takes_s = 0.0
        yield shop


class _Reliable:
    """The shop's side: orders come in by one thread."""

    def __init__(self, shop: ReliableShop) -> None:
        self.shop = shop

    def rate(self, number: int) -> float:
        """Orders a second, from the first one taken in to the last one acknowledged."""
        shop = self.shop
        database = shop.departments[DEPARTMENT].database
        before = database.rows("SELECT count(*) FROM facts")[0][0]
        requests = [Request.read(basket(number * ORDERS + n)) for n in range(ORDERS)]
        shop.recorder.clear()
        start = time.monotonic()
        for request in requests:
            shop.service.create_order(request)
        _wait(lambda: database.rows("SELECT count(*) FROM facts")[0][0] == before + ORDERS)
        _wait(lambda: shop.recorder.count("acked", DEPARTMENT) == ORDERS)
        end = max(event.wall for event in shop.recorder if event.kind == "acked")
        return ORDERS / (end - start)


class _Bare:
    """The other side: pika and SQLite, and nothing around them."""

    QUEUE = "bench-bare"

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        # The shop's exchange, and a queue with the arguments of the shop's.
        declare_exchanges(self.channel)
        dead = {"x-dead-letter-exchange": DEAD_LETTER_EXCHANGE}
        self.channel.queue_declare(self.QUEUE, durable=True, arguments=dead)
        self.channel.queue_bind(self.QUEUE, EXCHANGE, self.QUEUE)
        self.orders = self._database("orders", "order_id TEXT PRIMARY KEY, body TEXT")
        self._database("facts", "order_id TEXT, type TEXT, amount INTEGER").close()

    def _database(self, name: str, columns: str) -> sqlite3.Connection:
        database = sqlite3.connect(self.folder / f"bare-{name}.db")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
        return database

    def __enter__(self) -> _Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.queue_delete(self.QUEUE)
        self.connection.close()
        self.orders.close()

    def rate(self, number: int) -> float:
        """Orders a second, from the first commit to the last acknowledgement."""
        bodies = [_body(number * ORDERS + n) for n in range(ORDERS)]
        persistent = pika.BasicProperties(delivery_mode=2)
        ready, ends = threading.Event(), []
        consumer = threading.Thread(target=self._consume, args=(ready, ends))
        consumer.start()
        ready.wait(TIMEOUT_WALL_S)
        start = time.monotonic()
        for order_id, body in bodies:
            with self.orders:
                self.orders.execute("INSERT INTO orders VALUES (?, ?)", (order_id, body.decode()))
            self.channel.basic_publish(EXCHANGE, self.QUEUE, body, persistent, mandatory=True)
        consumer.join(TIMEOUT_WALL_S)
        return ORDERS / (ends[0] - start)

    def _consume(self, ready: threading.Event, ends: list[float]) -> None:
        facts = self._database("facts", "order_id TEXT, type TEXT, amount INTEGER")
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        left = ORDERS

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal left
            event = json.loads(body)
            fact = (event["order_id"], event["type"], event["amount"])
            with facts:
                facts.execute("INSERT INTO facts VALUES (?, ?, ?)", fact)
            channel.basic_ack(method.delivery_tag)
            left -= 1
            if not left:
                ends.append(time.monotonic())
                channel.stop_consuming()

        channel.basic_consume(self.QUEUE, on_message)
        ready.set()
        channel.start_consuming()
        connection.close()
        facts.close()


def _body(number: int) -> tuple[str, bytes]:
    """An order's id, and the event as the shop publishes it."""
    wanted = basket(number)
    order = Order(
        order_id=wanted["basket"],
        basket=wanted["basket"],
        customer_email=wanted["customer_email"],
        product_id=wanted["product_id"],
        quantity=wanted["quantity"],
        amount=Request.read(wanted).amount,
    )
    return order.order_id, OrderEvent.about(order, "ORDER_CREATED").to_json()
