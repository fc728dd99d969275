"""Where a fault strikes, and how long it waits for something to break or to be mended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from labkit.broker import Broker
from labkit.clock import Pace
from labkit.consumer import Consumer
from labkit.errors import BrokerError, ServiceError
from labkit.faults.plan import BROKER, Fault
from labkit.shop.departments import Department

#: A fault that finds nothing to break (no message comes, no connection is there) is given up
#: after this time; the time for which the broker is away does not count.
PATIENCE_WALL_S = 10.0
#: What was broken is mended within this time, or the storm fails.
MENDED_WITHIN_WALL_S = 60.0


class Shop(Protocol):
    """What a storm has to know of a shop."""

    @property
    def amqp_url(self) -> str:
        """The broker's AMQP URL."""

    @property
    def consumers(self) -> Mapping[str, Consumer]:
        """The consumers by name."""

    @property
    def departments(self) -> Mapping[str, Department]:
        """The departments by name."""


class MissedError(Exception):
    """The fault found nothing to break."""


@dataclass(frozen=True)
class Scene:
    """One fault, and what it takes to bring it about.

    Attributes:
        fault: which.
        shop: where.
        pace: shop time.
        broker: for faults that are about it.
        stop: set when the storm is to end now.
        broker_away: whether the storm keeps the broker away; nothing else happens meanwhile.
    """

    fault: Fault
    shop: Shop
    pace: Pace
    broker: Broker | None
    stop: threading.Event
    broker_away: Callable[[], bool]

    @property
    def consumer(self) -> Consumer:
        """The target's."""
        return self.shop.consumers[self.fault.target]

    @property
    def department(self) -> Department:
        """The target."""
        return self.shop.departments[self.fault.target]

    @property
    def the_broker(self) -> Broker:
        """The broker, which `Storm` has asked for where it is needed."""
        assert self.broker is not None
        return self.broker

    def until(self, happens: Callable[[], object]) -> None:
        """Returns once it happens.

        Raises:
            MissedError: it did not before the storm's end, or for want of anything to break.
        """
        deadline = time.monotonic() + PATIENCE_WALL_S
        while not happens():
            if self.broker_away():
                deadline = time.monotonic() + PATIENCE_WALL_S
            if self.stop.wait(0.02) or time.monotonic() > deadline:
                raise MissedError


def mend(scene: Scene, attempt: Callable[[], object]) -> None:
    """Tries until it works; what needs a broker that is away works when that is back.

    Raises:
        LabError: what it failed with last, after 60 real seconds with a broker.
    """
    deadline = time.monotonic() + MENDED_WITHIN_WALL_S
    while True:
        away = scene.broker_away()
        try:
            attempt()
            return
        except (BrokerError, ServiceError):
            if away and scene.fault.target != BROKER:
                deadline = time.monotonic() + MENDED_WITHIN_WALL_S
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
