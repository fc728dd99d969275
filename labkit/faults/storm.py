"""A storm: a plan of faults, carried out beside a shop that works."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Self

from labkit.background import Background, Managed, stop_all
from labkit.broker import Broker
from labkit.clock import Pace
from labkit.errors import InputError, ServiceError
from labkit.events import Recorder
from labkit.faults.actions import ACTIONS
from labkit.faults.plan import BROKER, BROKER_KINDS, OUTBOX_KINDS, Fault
from labkit.faults.scene import MissedError, Scene, Shop

#: Everything is mended within this time of `stop()`: a broker that is down takes a while to start.
STOP_WITHIN_WALL_S = 90.0

#: A broker that is back is left alone for so long, or the shop would never get anything done where
#: the machine is so busy that the broker starts slowly.
BREATH_WALL_S = 6.0

#: A service that is away, or its connection: one fault at a time.
_OF_SERVICE = (
    "crash before work",
    "crash after work",
    "crash after ack",
    "drop connection",
    "close connection",
    "crash relay",
    "crash order service",
)


class Storm(Managed):
    """Carries out each fault of a plan at its time, and mends it when it has lasted.

    Faults overlap as the plan has them, with one limit: of those that break the same thing, such
    as the broker or one department's consumer, the later waits until the earlier is mended. A
    broker that is back is left alone for some seconds.

    A crash at a point of the work takes place at the next message that gets there.

    Args:
        plan: what to do, as `faults.plan` makes it.
        shop: where: anything with `consumers`, `departments` and `amqp_url`.
        pace: shop time; the storm begins at `start()`.
        recorder: gets an event `planned` for each at the start, `fault` as it is brought about
            and `mended` when it is over, or `missed`.
        broker: the shop's, for faults that stop it or close its connections.

    Attributes:
        plan: as given.
        done: the faults that were brought about, in this order.
        missed: those that found nothing to break, such as a crash for which no message came.

    A context manager. `wait()` returns when the plan is carried out and everything is mended;
    `stop()` mends at once and leaves out the rest.

    Raises:
        InputError: a fault's target is not there, or it needs a broker that can be stopped.
    """

    def __init__(
        self,
        plan: Sequence[Fault],
        shop: Shop,
        pace: Pace,
        recorder: Recorder,
        broker: Broker | None = None,
    ) -> None:
        self.name = "storm"
        self.plan = sorted(plan)
        self.done: list[Fault] = []
        self.missed: list[Fault] = []
        self._shop = shop
        self._pace = pace
        self._recorder = recorder
        self._broker = broker
        self._director = Background("storm", self._direct)
        self._under_way: list[Background] = []
        self._broker_away = threading.Event()
        self._broker_back = -math.inf
        self._locks: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        for fault in self.plan:
            self._check(fault)

    def _check(self, fault: Fault) -> None:
        if fault.kind not in ACTIONS:
            raise InputError("There is no such kind of fault.", repr(fault.kind))
        if fault.kind in BROKER_KINDS:
            if self._broker is None or not self._broker.can_restart:
                raise InputError(
                    f"The storm can't {fault.kind}.",
                    f"broker={self._broker!r}",
                    "give it labkit.own_broker(), or leave out faults.BROKER_KINDS",
                )
        elif fault.kind == "close connection" and self._broker is None:
            raise InputError(
                "The storm can't close connections.", "broker=None", "give it the shop's broker"
            )
        elif fault.kind in OUTBOX_KINDS and not hasattr(self._shop, "relays"):
            raise InputError(
                f"The storm can't carry out {fault.kind!r}.",
                f"{type(self._shop).__name__} has no relays",
                "take a ReliableShop, or leave out faults.OUTBOX_KINDS",
            )
        elif fault.kind == "crash relay" and fault.target not in self._shop.relays:  # type: ignore[attr-defined]
            raise InputError(
                "A fault has no target.",
                f"{fault.target} has no relay",
                "a ReliableShop without outboxes has none",
            )
        elif fault.target not in self._shop.consumers:
            raise InputError(
                "A fault has no target.",
                f"{fault.kind} of {fault.target!r}",
                f"choose from {', '.join(self._shop.consumers)}",
            )

    def _direct(self, stop: threading.Event) -> None:
        """Begins each fault at its time."""
        start = time.monotonic()
        for fault in self.plan:
            lasts = f" for {fault.lasts_s:.1f} s" if fault.lasts_s else ""
            words = f"{fault.kind} after {fault.at_s:.1f} s{lasts}"
            self._recorder.record("planned", fault.target, None, words, wall=start)
        for number, fault in enumerate(self.plan, start=1):
            due = start + self._pace.to_wall(fault.at_s)
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            carry_out = partial(self._carry_out, fault)
            self._under_way.append(Background(f"fault-{number}: {fault.kind}", carry_out).start())

    def _carry_out(self, fault: Fault, stop: threading.Event) -> None:
        """Brings a fault about, lets it last, and mends it."""
        scene = Scene(
            fault,
            self._shop,
            self._pace,
            self._broker,
            stop,
            broker_away=self._broker_away.is_set,
        )
        with self._lock_of(fault):
            breath = BREATH_WALL_S if fault.target == BROKER else 0.0
            if stop.wait(max(0.0, self._broker_back + breath - time.monotonic())):
                return
            begun = time.monotonic()
            if fault.target == BROKER:
                self._broker_away.set()
            try:
                with ACTIONS[fault.kind](scene):
                    # A crash begins when it happens; a broker as soon as it is told to end.
                    when = begun if fault.target == BROKER else time.monotonic()
                    self._recorder.record("fault", fault.target, None, fault.kind, wall=when)
                    self.done.append(fault)
                    self._pace.wait(fault.lasts_s, until=stop)
            except MissedError:
                self.missed.append(fault)
                self._recorder.record("missed", fault.target, None, fault.kind)
                return
            finally:
                if fault.target == BROKER:
                    self._broker_away.clear()
                    self._broker_back = time.monotonic()
            self._recorder.record("mended", fault.target, None, fault.kind)

    def _lock_of(self, fault: Fault) -> threading.Lock:
        if fault.target == BROKER:
            return self._locks[BROKER, BROKER]
        what = "service" if fault.kind in _OF_SERVICE else fault.kind
        return self._locks[what, fault.target]

    def start(self) -> Self:
        """Begins; does nothing where it has."""
        self._director.start()
        return self

    def wait(self, timeout_wall_s: float = 600.0) -> Self:
        """Returns when all faults of the plan were brought about, or missed, and mended.

        Raises:
            ServiceError: they are not after `timeout_wall_s` real seconds, or one could not be
                mended.
        """
        if not self.join(timeout_wall_s):
            raise ServiceError(
                "The storm goes on.",
                f"{len(self.done) + len(self.missed)} of {len(self.plan)} faults are over after "
                f"{timeout_wall_s:g} s",
                "a longer timeout_wall_s, or a higher speed, gives it time",
            )
        self.raise_if_failed()
        return self

    def signal(self) -> None:
        """Begins no more faults and mends those under way, and does not wait."""
        self._director.signal()
        self._director.join(1.0)  # so that none begins after the last was told to end
        for fault in self._under_way:
            fault.signal()

    def join(self, timeout_wall_s: float) -> bool:
        """Waits for the end of the plan; True where all is over and mended."""
        deadline = time.monotonic() + timeout_wall_s
        if not self._director.join(timeout_wall_s):
            return False
        return all(fault.join(deadline - time.monotonic()) for fault in self._under_way)

    def raise_if_failed(self) -> None:
        """Raises what a fault failed with, if one did."""
        for background in [self._director, *self._under_way]:
            background.raise_if_failed()

    def stop(self, timeout_wall_s: float = STOP_WITHIN_WALL_S) -> None:
        """Mends what is broken, and leaves out the rest of the plan; may be called twice.

        Raises:
            ServiceError: something could not be mended.
        """
        stop_all([self], timeout_wall_s)
