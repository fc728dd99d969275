"""A crash at each line of the outbox's code, of a service's or of the relay's: nothing is lost."""

import sys
import threading
from collections import Counter

import pytest

from labkit import amqp
from labkit.background import Crashed
from labkit.clock import Pace
from labkit.events import Recorder
from labkit.shop import OrderEvent, topology
from labkit.shop import outbox as code
from labkit.shop.database import Database
from labkit.shop.orders import Order
from labkit.shop.outbox import Outbox, Relay
from tests.broker.fakes import eventually

pytestmark = pytest.mark.usefixtures("what_crashes_leave")

EACH_TIME = 3


class Plug:
    """Ends a thread at the n-th line of the outbox's code that it comes to; counts them.

    As after a real crash, nothing more of the program runs there: where the line is the end of a
    `with` block, that block is not left in good order either.
    """

    def __init__(self, line=0, thread=None):
        self.line = line
        self.thread = thread
        self.seen = 0
        self.pulled = threading.Event()

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != code.__file__:
            return None
        if self.thread not in (None, threading.current_thread().name):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.line:
                self.pulled.set()
                raise Crashed
        return self


def event(name):
    fields = {"customer_email": "a@b.c", "product_id": "mug", "quantity": 1, "amount": 1200}
    return OrderEvent.about(Order(order_id=name, basket=name, **fields), "ORDER_CREATED")


def save(outbox, name):
    with outbox.transaction() as connection:
        connection.execute("INSERT INTO data VALUES (?)", (name,))
        outbox.add(connection, event(name))


@pytest.fixture
def opened(tmp_path):
    """Opens the service's database, as its program does at its start."""
    open_ones = []

    def outbox():
        schema = "CREATE TABLE IF NOT EXISTS data (order_id TEXT)"
        open_ones.append(Database(tmp_path / "service.db", schema))
        return Outbox(open_ones[-1])

    yield outbox
    for database in open_ones:
        database.close()


@pytest.fixture
def heard(vhost):
    """Gives the orders that the others were told of, as often as they were, since the last call."""
    connection = amqp.connect(vhost.url, "heard", heartbeat_wall_s=0)
    channel = connection.channel()
    topology.declare_exchanges(channel)
    channel.queue_declare("heard", durable=True)
    channel.queue_bind("heard", topology.EXCHANGE, "order.created")

    def orders():
        bodies = iter(lambda: channel.basic_get("heard", auto_ack=True)[2], None)
        return Counter(OrderEvent.read(body).order_id for body in bodies)

    yield orders
    connection.close()


def relay_of(outbox, vhost):
    return Relay(outbox, vhost.url, "service", Recorder(Pace(20)))


def crashing(target, line):
    """Runs it in a thread that ends at this line; whether it got so far."""
    plug = Plug(line)

    def run():
        sys.settrace(plug)
        try:
            target()
        except Crashed:
            pass
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return plug.pulled.is_set()


def test_a_service_that_crashes_at_any_line_tells_of_what_it_has_saved_and_of_nothing_else(
    opened, heard, vhost
):
    line = 1
    while True:
        outbox = opened()
        crashed = crashing(lambda: save(outbox, f"order-{line}"), line)  # noqa: B023
        outbox.database.close()  # as the operating system does with what is open
        if not crashed:
            break
        line += 1
    outbox = opened()
    saved = {name for (name,) in outbox.database.rows("SELECT order_id FROM data")}
    everyone = {f"order-{n}" for n in range(1, line + 1)}
    assert f"order-{line}" in saved  # the one that met with no crash
    assert len(saved) > 1  # some crashed after their commit,
    assert len(everyone - saved) > 3  # and some before
    with relay_of(outbox, vhost):
        eventually(lambda: outbox.unsent == 0)
    assert heard() == dict.fromkeys(saved, 1)


def test_a_relay_that_crashes_at_any_line_loses_nothing(opened, heard, vhost):
    outbox = opened()

    def relayed(line):
        """Some orders, whose relay crashes at this line and is started again."""
        names = [f"order-{line}-{n}" for n in range(EACH_TIME)]
        for name in names:
            save(outbox, name)
        plug, relay = Plug(line, "service-relay"), relay_of(outbox, vhost)
        threading.settrace(plug)
        try:
            relay.start()
            eventually(plug.pulled.is_set if line else lambda: outbox.unsent == 0)
        finally:
            threading.settrace(None)
        lines = plug.seen
        if line:
            assert relay.join(10)
            relay.restart()
            eventually(lambda: outbox.unsent == 0)
        relay.stop()
        told = heard()
        assert set(told) == set(names), f"line {line}"
        return lines, max(told.values()) > 1

    lines, twice = relayed(line=0)
    assert lines > 20
    assert not twice
    came_twice = [relayed(line)[1] for line in range(1, lines + 1)]
    assert any(came_twice)  # between publish and mark
    assert not all(came_twice)
