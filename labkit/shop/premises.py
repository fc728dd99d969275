"""What both flows have in common: one folder of databases, the companies outside, the departments."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from labkit.background import Managed
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.shop.database import Database
from labkit.shop.departments import (
    Analytics,
    Department,
    Email,
    Inventory,
    Payment,
    Recommendations,
    Shipping,
)
from labkit.shop.orders import Order, Request
from labkit.shop.outside import Carrier, Gateway, Inbox

#: The order service's web server works on this many requests at once, in either flow.
WEB_WORKERS = 4


class OrderBook:
    """The order service's database: every accepted order, its status, what the customer was told.

    The status goes forward alone: pending, paid, completed; or declined; or failed.

    Args:
        folder: where `order_service.db` lies.
    """

    FORWARD = ("pending", "paid", "completed", "declined", "failed")

    def __init__(self, folder: Path) -> None:
        self.database = Database(
            folder / "order_service.db",
            """
            CREATE TABLE IF NOT EXISTS orders (
                order_id TEXT PRIMARY KEY, basket TEXT, customer_email TEXT, product_id TEXT,
                quantity INTEGER, amount INTEGER, status TEXT, told TEXT, announced INTEGER);
            CREATE INDEX IF NOT EXISTS by_basket ON orders (basket);
            """,
        )

    def save(self, request: Request, told: str | None = None) -> Order:
        """Accepts an order: gives it an id and commits it, with the status pending.

        Args:
            request: what the customer wants.
            told: what the customer will be told, where that is known already.

        Raises:
            MessageError: the shop does not sell the product.
        """
        with self.database.transaction() as connection:
            return self.insert(connection, request, told)

    @staticmethod
    def insert(connection: sqlite3.Connection, request: Request, told: str | None = None) -> Order:
        """The same in the caller's transaction, of which it must be the beginning.

        Raises:
            MessageError: the shop does not sell the product.
        """
        amount = request.amount
        # Nobody else writes from here on, so that no two orders get the same number.
        connection.execute("BEGIN IMMEDIATE")
        tries = connection.execute(
            "SELECT count(*) FROM orders WHERE basket = ?", (request.basket,)
        ).fetchone()[0]
        order = Order(
            order_id=f"{request.basket}-{tries + 1}" if tries else request.basket,
            basket=request.basket,
            customer_email=request.customer_email,
            product_id=request.product_id,
            quantity=request.quantity,
            amount=amount,
        )
        connection.execute(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, 0)",
            (
                order.order_id,
                order.basket,
                order.customer_email,
                order.product_id,
                order.quantity,
                order.amount,
                told,
            ),
        )
        return order

    def advance(self, order_id: str, status: str) -> bool:
        """Sets a later status; False where the order is there, or further, already."""
        earlier = self.FORWARD[: self.FORWARD.index(status)]
        marks = ", ".join("?" * len(earlier))
        return bool(
            self.database.write(
                f"UPDATE orders SET status = ? WHERE order_id = ? AND status IN ({marks})",
                (status, order_id, *earlier),
            )
        )

    def tell(self, order_id: str, told: str) -> None:
        """Notes what the customer is told."""
        self.database.write("UPDATE orders SET told = ? WHERE order_id = ?", (told, order_id))

    def status(self, order_id: str) -> str | None:
        """An order's status, or None where there is no such order."""
        found = self.database.rows("SELECT status FROM orders WHERE order_id = ?", (order_id,))
        return str(found[0][0]) if found else None

    def count(self, *statuses: str) -> int:
        """How many orders have one of these statuses; all orders if none is named."""
        marks = ", ".join("?" * len(statuses))
        where = f" WHERE status IN ({marks})" if statuses else ""
        return int(self.database.rows(f"SELECT count(*) FROM orders{where}", statuses)[0][0])

    def unannounced(self) -> list[Order]:
        """Orders that were saved and never marked as published, in the order of saving."""
        fields = list(Order.model_fields)
        found = self.database.rows(
            f"SELECT {', '.join(fields)} FROM orders WHERE announced = 0 ORDER BY rowid"
        )
        return [Order(**dict(zip(fields, row, strict=True))) for row in found]

    def mark_announced(self, order_ids: list[str]) -> None:
        """Marks orders as published, in one transaction."""
        with self.database.transaction() as connection:
            connection.executemany(
                "UPDATE orders SET announced = 1 WHERE order_id = ?", [(o,) for o in order_ids]
            )


class Premises(Managed):
    """The shop without a flow: databases, companies outside, departments; all real.

    Args:
        folder: an empty folder for the databases.
        pace: shop time.
        recorder: where everything that happens is noted.
        idempotent_payment: whether payment sends idempotency keys.
        idempotent_mail: whether a mail's Message-ID comes from the event that it is about.

    Attributes:
        orders: the order service's database.
        gateway, carrier, inbox: the companies outside.
        departments: the six, by name.
    """

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        recorder: Recorder,
        idempotent_payment: bool = True,
        idempotent_mail: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.pace = pace
        self.recorder = recorder
        self.orders = OrderBook(self.folder)
        self.gateway = Gateway(self.folder, pace, recorder)
        self.carrier = Carrier(pace, recorder)
        self.inbox = Inbox()
        common = (self.folder, pace, recorder)
        departments: list[Department] = [
            Payment(*common, self.gateway, idempotent_payment),
            Inventory(*common),
            Email(*common, self.inbox, idempotent_mail),
            Shipping(*common, self.carrier),
            Analytics(*common),
            Recommendations(*common),
        ]
        self.departments = {department.name: department for department in departments}

    def open(self) -> None:
        """Starts the companies outside."""
        self.gateway.start()
        self.carrier.start()
        self.inbox.start()

    def close(self) -> None:
        """Stops the companies outside and closes every database."""
        self.inbox.stop()
        self.carrier.stop()
        self.gateway.close()
        for department in self.departments.values():
            department.close()
        self.orders.database.close()
