"""What starts and stops 200 times leaves the process, the broker and the memory as they were."""

import gc
import http.client
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psutil
import pytest
from flask import Flask

from labkit import amqp
from labkit.broker import vhost as vhosts
from labkit.consumer import Consumer
from labkit.errors import BrokerError
from labkit.web import HttpService

CYCLES = 200
#: Caches fill, and modules load, in the first few cycles.
WARM_UP = 8
#: The broker lets no more connections into the consumers' virtual host; each of them needs one, and
#: the broker needs a moment to notice that a crashed one is gone. Its list of connections would not
#: do: new ones are in it after up to 5 s.
MOST_CONNECTIONS = 20
#: What memory may grow by in all. It takes 20 KiB a cycle to get there.
MEMORY_MIB = 4.0

PROCESS = psutil.Process()


def grown(cycle, cycles=CYCLES, at_once=1):
    """What there is more of after so many cycles, in words; nothing if all is as it was.

    Args:
        cycle: starts and stops one; called with its number.
        cycles: how often.
        at_once: how many threads start and stop at the same time.
    """

    def run(numbers):
        if at_once == 1:
            for number in numbers:
                cycle(number)
        else:
            with ThreadPoolExecutor(at_once) as pool:
                list(pool.map(cycle, numbers))

    def level():
        gc.collect()
        return (
            set(threading.enumerate()),
            PROCESS.num_fds(),
            len(gc.get_objects()),
            PROCESS.memory_info().rss / 2**20,
        )

    run(range(WARM_UP))
    threads, descriptors, objects, memory = level()
    run(range(WARM_UP, WARM_UP + cycles))
    threads_now, descriptors_now, objects_now, memory_now = level()
    found = [f"thread {thread.name}" for thread in threads_now - threads]
    if descriptors_now > descriptors:
        found.append(f"{descriptors_now - descriptors} file descriptors")
    # One object in every second cycle would be too many; a cache may add a few.
    if objects_now - objects >= cycles / 2:
        found.append(f"{objects_now - objects} objects")
    if memory_now - memory > MEMORY_MIB:
        found.append(f"{memory_now - memory:.1f} MiB of memory")
    return found


@pytest.fixture(autouse=True)
def _no_log_kept(caplog):
    """Pytest would keep a record of each lost connection, and with it the error and its frames."""
    caplog.set_level(logging.CRITICAL, "pika")


@pytest.fixture
def work(vhost):
    """The URL of a virtual host with a queue, and with little room for connections."""
    if vhost.created:
        limit = f"vhost-limits/{quote(vhost.name, safe='')}/max-connections"
        vhost.broker.admin.call("PUT", limit, {"value": MOST_CONNECTIONS})
    connection = amqp.connect(vhost.url, "test")
    connection.channel().queue_declare("work", durable=True)
    connection.close()
    return vhost.url


def consumer(url, number):
    """One that is stopped in good order, or crashes, in turn."""
    service = Consumer(lambda *_: None, "work", url).start()
    if number % 2:
        service.crash()
    service.stop()


def web_service():
    """One that has answered a customer."""
    app = Flask("test")
    app.add_url_rule("/", view_func=lambda: "hello")
    with HttpService(app, "test", workers=2) as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()


def test_consumers_that_stop_or_crash_leave_nothing(work):
    assert grown(lambda number: consumer(work, number)) == []


def test_http_services_leave_nothing():
    assert grown(lambda _: web_service()) == []


def test_virtual_hosts_leave_nothing(broker):
    if broker.management_url is None:
        pytest.skip("this broker's user may not make virtual hosts")

    def cycle(_):
        with broker.virtual_host("leaks") as made:
            assert made.created

    before = set(vhosts.owned(broker.admin))
    # The broker takes some 0.1 s for each, and less when it has several to do.
    assert grown(cycle, at_once=8) == []
    left = set(vhosts.owned(broker.admin)) - before
    assert not any(".leaks." in name for name in left)


class Forgetful:
    """Keeps something of each cycle that it should have given back."""

    def __init__(self, what):
        self.what = what
        self.kept = []
        self.end = threading.Event()

    def cycle(self, url):
        match self.what:
            case "thread":
                self.kept.append(threading.Thread(target=self.end.wait, name="forgotten"))
                self.kept[-1].start()
            case "file descriptors":
                self.kept.append(socket.socket())
            case "objects":
                self.kept.append([])
            case "MiB":
                self.kept.append(b"x" * 2**23)  # more than was given back before
            case "connection":
                self.kept.append(amqp.connect(url, "forgotten"))

    def give_back(self):
        self.end.set()
        for thing in self.kept:
            if isinstance(thing, threading.Thread):
                thing.join()
            elif hasattr(thing, "close"):
                thing.close()


@pytest.mark.parametrize("what", ["thread", "file descriptors", "objects", "MiB", "nothing"])
def test_a_leak_that_is_put_in_is_found(work, what):
    forgetful = Forgetful(what)
    try:
        found = grown(lambda _: forgetful.cycle(work), cycles=30)
    finally:
        forgetful.give_back()
    assert any(what in leak for leak in found) == (what != "nothing"), found


def test_a_connection_that_is_left_at_the_broker_is_found(work, vhost):
    if not vhost.created:
        pytest.skip("this broker's user may not limit the connections")
    forgetful = Forgetful("connection")
    try:
        with pytest.raises(BrokerError, match="limit"):
            grown(lambda _: forgetful.cycle(work), cycles=3 * MOST_CONNECTIONS)
    finally:
        forgetful.give_back()
