"""Faults on a seeded plan: what breaks, when, and how it is mended, beside a shop that works."""

from labkit.faults.plan import BROKER_KINDS, KINDS, OUTBOX_KINDS, Fault, plan
from labkit.faults.storm import Storm

__all__ = ["BROKER_KINDS", "KINDS", "OUTBOX_KINDS", "Fault", "Storm", "plan"]
