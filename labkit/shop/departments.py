"""The six departments: what each does with an order."""

from __future__ import annotations

import smtplib
import sqlite3
from email.mime.text import MIMEText
from email.utils import make_msgid
from pathlib import Path

import requests

from labkit.background import checkpoint
from labkit.clock import Pace
from labkit.errors import MessageError
from labkit.events import Recorder
from labkit.shop.database import NOW
from labkit.shop.department import Department, DepartmentError
from labkit.shop.orders import EventType, Order, OrderEvent
from labkit.shop.outside import Carrier, Gateway, Inbox

__all__ = [
    "Analytics",
    "Department",
    "DepartmentError",
    "Email",
    "Inventory",
    "Payment",
    "Recommendations",
    "Shipping",
    "about",
    "subject_of",
]


class Payment(Department):
    """Has the gateway charge the customer: `charged` or `declined`.

    Args:
        gateway: the company outside.
        idempotent: whether the order's id goes along as an idempotency key, so that the same
            order is never charged twice.
    """

    name = "payment"
    workers = 4
    schema = "CREATE TABLE IF NOT EXISTS payments (order_id TEXT, amount INTEGER, result TEXT)"

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        recorder: Recorder,
        gateway: Gateway,
        idempotent: bool = True,
    ) -> None:
        super().__init__(folder, pace, recorder)
        self.gateway = gateway
        self.idempotent = idempotent

    def ask(self, order: Order) -> str:
        """Asks the gateway for the money."""
        body = {
            "order_id": order.order_id,
            "customer_email": order.customer_email,
            "amount": order.amount,
        }
        headers = {"Idempotency-Key": order.order_id} if self.idempotent else {}
        answer = _post(f"{self.gateway.url}/charges", body, headers, "the payment gateway")
        return "declined" if answer == 402 else "charged"

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Notes the gateway's answer."""
        connection.execute(
            "INSERT INTO payments VALUES (?, ?, ?)", (order.order_id, order.amount, answer)
        )
        return answer


class Inventory(Department):
    """Takes the goods from the stock: `reserved` or `out of stock`."""

    name = "inventory"
    prefetch = 10
    takes_s = 0.05
    schema = """
        CREATE TABLE IF NOT EXISTS stock (product_id TEXT PRIMARY KEY, quantity INTEGER);
        CREATE TABLE IF NOT EXISTS taken (order_id TEXT, product_id TEXT, quantity INTEGER);
        INSERT OR IGNORE INTO stock VALUES ('mug', 100000), ('teapot', 100000), ('kettle', 100000);
    """

    def ask(self, order: Order) -> str:
        """Nobody outside is asked."""
        self.pace.wait(self.takes_s)
        return ""

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Takes them where there are enough."""
        enough = connection.execute(
            "UPDATE stock SET quantity = quantity - ? WHERE product_id = ? AND quantity >= ?",
            (order.quantity, order.product_id, order.quantity),
        ).rowcount
        if enough:
            connection.execute(
                "INSERT INTO taken VALUES (?, ?, ?)",
                (order.order_id, order.product_id, order.quantity),
            )
        return "reserved" if enough else "out of stock"


class Email(Department):
    """Writes to the customer, through the mail server: `sent`.

    Args:
        inbox: the mail server.
        idempotent: whether a mail about an event gets its Message-ID (RFC 5322, 3.6.4) from the
            event's id, so that the mail server knows a second copy and drops it.
    """

    name = "email"
    prefetch = 10
    takes_s = 0.1
    schema = "CREATE TABLE IF NOT EXISTS sent (order_id TEXT, subject TEXT)"

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        recorder: Recorder,
        inbox: Inbox,
        idempotent: bool = False,
    ) -> None:
        super().__init__(folder, pace, recorder)
        self.inbox = inbox
        self.idempotent = idempotent

    def ask(self, order: Order) -> str:
        """Sends the mail that fits what has happened to the order."""
        mail = self._mail(order)
        self.pace.wait(self.takes_s)
        try:
            with smtplib.SMTP("127.0.0.1", self.inbox.port, timeout=10) as smtp:
                # Not left to the header: Debian 12's Python takes "," for a list of nobody.
                smtp.send_message(mail, to_addrs=[order.customer_email])
        except smtplib.SMTPRecipientsRefused as exc:
            raise MessageError(
                "The mail server refuses the address.", repr(order.customer_email), "correct it"
            ) from exc
        except (OSError, smtplib.SMTPException) as exc:
            raise DepartmentError(
                "The mail server can't be reached.", str(exc), "start it again: inbox.start()"
            ) from exc
        return "sent"

    def _mail(self, order: Order) -> MIMEText:
        # EmailMessage, its successor, takes 1.2 ms for what this one does in 0.05.
        mail = MIMEText(f"{order.quantity} x {order.product_id}, {order.amount / 100:.2f} euros.")
        mail["From"] = "shop@example.com"
        mail["To"] = order.customer_email
        mail["Subject"] = subject_of(order)
        if self.idempotent and isinstance(order, OrderEvent):
            mail["Message-ID"] = f"<{order.event_id}@shop.example.com>"
        else:
            mail["Message-ID"] = make_msgid(domain="shop.example.com")
        return mail

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Notes what the customer was written."""
        connection.execute("INSERT INTO sent VALUES (?, ?)", (order.order_id, subject_of(order)))
        return answer


class Shipping(Department):
    """Registers the parcel with the carrier and prints the label: `printed`.

    Args:
        carrier: the company outside.
    """

    name = "shipping"
    workers = 4
    schema = f"CREATE TABLE IF NOT EXISTS labels (order_id TEXT, at REAL DEFAULT {NOW})"

    def __init__(self, folder: Path, pace: Pace, recorder: Recorder, carrier: Carrier) -> None:
        super().__init__(folder, pace, recorder)
        self.carrier = carrier

    def ask(self, order: Order) -> str:
        """Asks the carrier, however long it takes."""
        _post(f"{self.carrier.url}/parcels", {"order_id": order.order_id}, {}, "the carrier")
        return "printed"

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Notes the label."""
        connection.execute("INSERT INTO labels (order_id) VALUES (?)", (order.order_id,))
        return answer


class Analytics(Department):
    """Counts: what was sold, and what happened to it: `counted`."""

    name = "analytics"
    prefetch = 10
    takes_s = 0.2
    schema = "CREATE TABLE IF NOT EXISTS facts (order_id TEXT, type TEXT, amount INTEGER)"

    def ask(self, order: Order) -> str:
        """Nobody outside is asked."""
        self.pace.wait(self.takes_s)
        return "counted"

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Notes one fact."""
        connection.execute(
            "INSERT INTO facts VALUES (?, ?, ?)", (order.order_id, about(order), order.amount)
        )
        return answer


class Recommendations(Department):
    """Learns who buys what: `learned`."""

    name = "recommendations"
    prefetch = 10
    takes_s = 0.4
    schema = (
        "CREATE TABLE IF NOT EXISTS bought (order_id TEXT, customer_email TEXT, product_id TEXT)"
    )

    def ask(self, order: Order) -> str:
        """Nobody outside is asked."""
        self.pace.wait(self.takes_s)
        return "learned"

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """Notes one purchase."""
        connection.execute(
            "INSERT INTO bought VALUES (?, ?, ?)",
            (order.order_id, order.customer_email, order.product_id),
        )
        return answer


def about(order: Order) -> EventType:
    """What has happened to the order; a call that tells of no event is about a new order."""
    return order.type if isinstance(order, OrderEvent) else "ORDER_CREATED"


def subject_of(order: Order) -> str:
    """The subject of the mail that fits what has happened to the order."""
    return {
        "PAYMENT_COMPLETED": f"We have your payment for order {order.order_id}",
        "PAYMENT_FAILED": f"Your payment for order {order.order_id} was declined",
    }.get(about(order), f"We have your order {order.order_id}")


def _post(url: str, body: dict[str, object], headers: dict[str, str], whom: str) -> int:
    """Posts JSON to a company outside; the status of its answer, 201 or 402."""
    checkpoint()
    try:
        answer = requests.post(url, json=body, headers=headers, timeout=600)
    except requests.RequestException as exc:
        raise DepartmentError(
            f"{whom[0].upper()}{whom[1:]} can't be reached.",
            type(exc).__name__,
            "it may work later; start() brings it back",
        ) from exc
    if answer.status_code not in (201, 402):
        raise DepartmentError(f"{whom} answered {answer.status_code}.", answer.text[:200])
    return int(answer.status_code)
