"""What an accepted order costs, and what the customer gains."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pika

from benchmarks.figures import MANY_ROUNDS, ROUNDS, Figure, in_turn, spread
from labkit import measure
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.load import Customers, basket, constant, http_door
from labkit.shop import DecoupledShop, OrderEvent, Request, SynchronousShop
from labkit.shop.order_service import OrderService
from labkit.shop.premises import OrderBook
from labkit.shop.topology import EXCHANGE, declare_exchanges, declare_queue

ORDERS = 300


def _percentiles_ms(act: Callable[[int], object], first: int) -> tuple[float, float]:
    durations = []
    for n in range(first, first + ORDERS):
        start = time.perf_counter()
        act(n)
        durations.append(time.perf_counter() - start)
    p50, p95 = np.percentile(durations, (50, 95)) * 1000
    return float(p50), float(p95)


def create_order(url: str) -> list[Figure]:
    """`create_order` against one bare commit and one bare confirmed publish of the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        declare_exchanges(channel)
        declare_queue(channel, "payment_processing")
        channel.confirm_delivery()
        bare_database = sqlite3.connect(Path(folder) / "bare.db")
        bare_database.execute("PRAGMA journal_mode=WAL")
        bare_database.execute("PRAGMA synchronous=FULL")
        bare_database.execute("CREATE TABLE orders (order_id TEXT PRIMARY KEY, body TEXT)")
        book = OrderBook(Path(folder))
        service = OrderService(book, url, Recorder())
        service.start()
        body = OrderEvent.about(book.save(Request.read(basket(0))), "ORDER_CREATED").to_json()
        properties = pika.BasicProperties(delivery_mode=2)

        def bare(number: int) -> None:
            with bare_database:
                bare_database.execute(
                    "INSERT INTO orders VALUES (?, ?)", (str(number), body.decode())
                )
            channel.basic_publish(EXCHANGE, "order.created", body, properties)

        def ours(number: int) -> None:
            service.create_order(Request.read(basket(number)))

        p50s, p95s = [], []
        for n, sides in enumerate(in_turn(ours, bare, rounds=MANY_ROUNDS)):
            taken = {act: _percentiles_ms(act, 1 + n * ORDERS) for act in sides}
            p50s.append(taken[ours][0] / taken[bare][0])
            p95s.append(taken[ours][1] / taken[bare][1])
        service.stop()
        book.database.close()
        bare_database.close()
        connection.close()
    name = "create_order / bare commit + bare confirmed publish"
    return [
        Figure(f"{name}, p50", statistics.median(p50s[1:]), 1.5, note=spread(p50s[1:])),
        Figure(f"{name}, p95", statistics.median(p95s[1:]), 1.5, note=spread(p95s[1:])),
    ]


def response_at_the_door(url: str, customers: int = 30) -> list[Figure]:
    """Both flows at the same time under the same load, at speed 1.

    The customers of one shop come half a second after those of the other. Both shops run in this
    one process, where each would wait for the other's turn.
    """
    p50s, p95s = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            pace = Pace(1)
            recorders = {"synchronous": Recorder(pace), "decoupled": Recorder(pace)}
            shops = (
                SynchronousShop(Path(one), pace, recorders["synchronous"]),
                DecoupledShop(Path(two), pace, recorders["decoupled"], url),
            )
            with shops[0], shops[1]:
                loads = [
                    Customers(http_door(shop.url), constant(1, customers), pace, shop.recorder)
                    for shop in shops
                ]
                loads[0].start()
                pace.wait(0.5)
                loads[1].start().wait()
                loads[0].wait()
                shops[1].wait_until_done(customers)
        at = {
            name: np.percentile(
                measure.response_times(recorder.frame())["response_s"].to_numpy(), (50, 95)
            )
            for name, recorder in recorders.items()
        }
        p50, p95 = at["synchronous"] / at["decoupled"]
        p50s.append(float(p50))
        p95s.append(float(p95))
    name = "response at the door, synchronous / decoupled, speed 1"
    return [
        Figure(f"{name}, p50", statistics.median(p50s), 500, at_least=True, note=spread(p50s)),
        Figure(f"{name}, p95", statistics.median(p95s), 500, at_least=True, note=spread(p95s)),
    ]
