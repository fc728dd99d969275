"""The shop that the course studies: departments, databases, companies outside, and both flows."""

from labkit.shop.audit import FINDINGS, Audit, audit
from labkit.shop.decoupled import DecoupledShop
from labkit.shop.guarantees import (
    ACK_AFTER_WORK,
    AUTO_ACK,
    CONFIRMED,
    DESIGNS,
    EFFECTIVELY_ONCE,
    Guarantees,
)
from labkit.shop.obvious import ObviousShop
from labkit.shop.orders import CATALOGUE, Order, OrderEvent, Request
from labkit.shop.premises import Premises
from labkit.shop.proof import Violation, violations
from labkit.shop.reliable import ReliableShop
from labkit.shop.synchronous import CallError, DeclinedError, SynchronousShop

__all__ = [
    "ACK_AFTER_WORK",
    "AUTO_ACK",
    "CATALOGUE",
    "CONFIRMED",
    "DESIGNS",
    "EFFECTIVELY_ONCE",
    "FINDINGS",
    "Audit",
    "CallError",
    "DeclinedError",
    "DecoupledShop",
    "Guarantees",
    "ObviousShop",
    "Order",
    "OrderEvent",
    "Premises",
    "ReliableShop",
    "Request",
    "SynchronousShop",
    "Violation",
    "audit",
    "violations",
]
