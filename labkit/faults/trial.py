"""A trial: a shop takes orders in a storm, and afterwards each order is looked at."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from labkit import amqp, dead_letters
from labkit.background import Managed
from labkit.broker import Broker, VirtualHost
from labkit.clock import Pace
from labkit.errors import BrokerError, MessageError, ServiceError
from labkit.events import Recorder
from labkit.faults.outcome import Outcome
from labkit.faults.plan import BROKER_KINDS, KINDS, Fault, plan
from labkit.faults.storm import Storm
from labkit.faults.wire import Wire
from labkit.load import Customers, basket, poisson
from labkit.shop import topology
from labkit.shop.guarantees import EFFECTIVELY_ONCE, Guarantees
from labkit.shop.orders import OrderEvent
from labkit.shop.proof import violations
from labkit.shop.reliable import ReliableShop

SPEED = 20.0
#: What each piece of work takes in a trial, in shop seconds: less than in life, so that the faults
#: come at many orders and not at few.
TAKES_S = 0.02
OUTSIDE_TAKES_S = 0.2
#: One customer in so many has a card that is declined.
DECLINED = 20
MAIL_SENDERS = 4
#: A write waits for so long for another program that locks the file, then fails.
BUSY_WALL_S = 0.15

#: One fault in so many kills the broker, and one in so many stops or restarts it.
KILLS = 12
STOPS = 60

#: A customer whose order was not accepted tries again after so long.
TRY_AGAIN_WALL_S = 0.3
#: A durable queue that was declared a moment before a SIGKILL may be gone on RabbitMQ before 4.2.
SETTLED_WALL_S = 5.0
#: Dead letters are put back so often at most; each round is one more chance for every message.
ROUNDS = 20


def storm_plan(seed: int, faults: int, over_s: float, targets: list[str]) -> list[Fault]:
    """The faults of a trial: of every kind, and fewer about the broker, which takes long to start.

    Args:
        seed: of the random numbers.
        faults: how many; with one or more, the broker is killed once at least.
        over_s: how long they come, in shop seconds.
        targets: whom they hit.
    """
    kills = max(1, faults // KILLS) if faults else 0
    stops = faults // STOPS
    others = [kind for kind in KINDS if kind not in BROKER_KINDS]
    return sorted(
        plan(3 * seed, kills, over_s, targets, ["kill broker"])
        + plan(3 * seed + 1, stops, over_s, targets, ["stop broker", "restart broker"])
        + plan(3 * seed + 2, faults - kills - stops, over_s, targets, others)
    )


class Trial(Managed):
    """The shop, customers who come when they like, and a storm.

    Args:
        broker: one of one's own, which the storm kills.
        folder: an empty folder for the shop's databases.
        orders: how many customers come.
        faults: how many things go wrong.
        seed: of the storm and of the arrivals.
        rate: customers in a real second.
        guarantees: which of the shop's gaps are closed.
        plan: the faults, in place of `storm_plan()`'s; `faults` means nothing then.
        on_a_line: whether the shop reaches the broker by a line that can be made to go dead.

    Attributes:
        shop, storm, customers: what takes part.
        line: the line to the broker, where there is one.

    A context manager: `start()` begins, `wait()` gives the outcome.
    """

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        orders: int,
        faults: int,
        seed: int,
        rate: float = 25.0,
        guarantees: Guarantees = EFFECTIVELY_ONCE,
        plan: Sequence[Fault] | None = None,
        on_a_line: bool = False,
    ) -> None:
        self.orders, self.seed = orders, seed
        self.pace = Pace(SPEED)
        self.recorder = Recorder(self.pace)
        self._broker = broker
        self._folder = folder
        self._rate = rate
        self._faults = faults
        self._guarantees = guarantees
        self._plan = plan
        self._on_a_line = on_a_line
        self._vhost: VirtualHost | None = None
        self._promised: set[str] = set()
        self._answers: Counter[str] = Counter()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._put_back = 0
        self.shop: ReliableShop
        self.storm: Storm
        self.customers: Customers
        self.line: Wire

    def start(self) -> Self:
        """Opens the shop; then the customers come and the storm begins.

        Raises:
            BrokerError: the broker does not answer.
        """
        try:
            self._vhost = self._broker.virtual_host("storm").start()
            url = self._vhost.url
            if self._on_a_line:
                self.line = Wire(url).start()
                url = self.line.url
            self.shop = _fast_shop(
                self._folder, self.pace, self.recorder, url, self._guarantees
            ).start()
            self.shop.gateway.declines = {
                basket(number)["customer_email"]
                for number in range(DECLINED, self.orders + 1, DECLINED)
            }
            arrivals = poisson(self._rate / SPEED, self.orders, self.seed)
            faults = self._plan
            if faults is None:
                targets = list(self.shop.consumers)
                faults = storm_plan(self.seed, self._faults, arrivals[-1], targets)
            self.storm = Storm(faults, self.shop, self.pace, self.recorder, self._broker)
            self.customers = Customers(self._send, arrivals, self.pace, self.recorder)
            if any(fault.kind == "kill broker" for fault in faults):
                time.sleep(SETTLED_WALL_S)
            self._begun = time.monotonic()
            self.customers.start()
            self.storm.start()
        except BaseException:
            self.stop()
            raise
        return self

    def _send(self, body: dict[str, Any]) -> int:
        """Orders at the door until the order is accepted, and keeps what was promised."""
        import requests

        while True:
            status, promised = 0, ""
            with contextlib.suppress(requests.RequestException):
                answer = requests.post(f"{self.shop.url}/orders", json=body, timeout=60)
                status, promised = answer.status_code, answer.json().get("order_id", "")
            with self._lock:
                self._answers[str(status or "none")] += 1
                if status == 202:
                    self._promised.add(promised)
            if status == 202 or self._over.wait(TRY_AGAIN_WALL_S):
                return status

    @property
    def accepted(self) -> int:
        """How many orders have been accepted so far."""
        return self.shop.orders.count()

    @property
    def ended(self) -> int:
        """How many orders have ended so far."""
        return self.shop.orders.count("completed", "declined", "failed")

    @property
    def stormy(self) -> bool:
        """Whether customers still come, or faults."""
        return not (self.customers.join(0.0) and self.storm.join(0.0))

    def wait(
        self, watch: Callable[[Trial], object] | None = None, timeout_wall_s: float = 3600.0
    ) -> Outcome:
        """Returns when the storm is over, the dead letters are put back, and all is quiet.

        Args:
            watch: called by the calling thread, several times a second while the storm lasts, then
                now and then.
            timeout_wall_s: real seconds to wait at most.

        Raises:
            ServiceError: it is not quiet by then.
            LabError: what a part of the shop, or of the storm, has failed with.
        """
        deadline = time.monotonic() + timeout_wall_s
        while self.stormy and time.monotonic() < deadline:
            if watch is not None:
                watch(self)
            time.sleep(0.1)
        self.customers.wait(max(0.0, deadline - time.monotonic()))
        self.storm.wait(max(0.0, deadline - time.monotonic()))
        malformed = self._calm_down(watch, deadline)
        if watch is not None:
            watch(self)
        return self._outcome(malformed)

    def _calm_down(self, watch: Callable[[Trial], object] | None, deadline: float) -> int:
        """Puts back whatever can be read, until nothing is left; gives what can't be read."""
        for _ in range(ROUNDS):
            while True:
                if watch is not None:
                    watch(self)
                try:
                    self.shop.wait_until_quiet(30.0)
                    break
                except (ServiceError, BrokerError):
                    for consumer in self.shop.consumers.values():
                        consumer.raise_if_failed()
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            connection = amqp.connect(self.shop.amqp_url, "dead-letters")
            try:
                back = dead_letters.put_back(
                    connection.channel(), topology.DEAD_LETTER_QUEUE, which=readable
                )
            finally:
                connection.close()
            self._put_back += len(back.done)
            if not back.done:
                return back.left
        raise ServiceError(
            "Some messages die again and again.", f"{len(back.done)} after {ROUNDS} rounds"
        )

    def _outcome(self, malformed: int) -> Outcome:
        wall_s = time.monotonic() - self._begun
        known = {
            order_id
            for (order_id,) in self.shop.orders.database.rows("SELECT order_id FROM orders")
        }
        found = violations(self.shop)
        return Outcome(
            self.seed,
            self._answers,
            len(known),
            sorted(self._promised - known),
            found,
            Counter(fault.kind for fault in self.storm.done),
            Counter(fault.kind for fault in self.storm.missed),
            self._put_back,
            malformed,
            sum(inbox.copies for inbox in self.shop.inboxes.values()),
            self.shop.inbox.duplicates,
            wall_s,
        )

    def stop(self) -> None:
        """Ends the storm, mends what is broken, and closes the shop; may be called twice.

        Raises:
            LabError: a part did not stop, or had failed.
        """
        self._over.set()
        try:
            for part in ("storm", "customers", "shop", "line"):
                if hasattr(self, part):
                    getattr(self, part).stop()
        finally:
            if self._vhost is not None:
                self._vhost.stop()


def _fast_shop(
    folder: Path, pace: Pace, recorder: Recorder, url: str, guarantees: Guarantees
) -> ReliableShop:
    """The full shop, with work that takes less time than in life."""
    shop = ReliableShop(folder, pace, recorder, url, guarantees=guarantees)
    shop.gateway.takes_s = shop.carrier.takes_s = OUTSIDE_TAKES_S
    for department in shop.departments.values():
        department.takes_s = TAKES_S
        department.database.busy_wall_s = BUSY_WALL_S
    shop.orders.database.busy_wall_s = BUSY_WALL_S
    # Two mails an order, each over a connection of its own: one sender would be the last to end.
    shop.consumers["email"].threads = MAIL_SENDERS
    return shop


def readable(letter: dead_letters.DeadLetter) -> bool:
    """Whether a dead letter is an event, which some department could not deal with in time."""
    try:
        OrderEvent.read(letter.body)
    except MessageError:
        return False
    return True
