"""HTTP services in the background."""

import socket
import threading
import time
from urllib.request import getproxies

import pytest
import requests
from flask import Flask

from labkit.background import Crashed
from labkit.clock import Pace
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.web import HttpService


def hello_app(block: threading.Event | None = None, busy: threading.Semaphore | None = None):
    app = Flask("hello")
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/")
    def hello():
        if busy is not None:
            busy.release()
        if block is not None:
            block.wait(30)
        return "hello"

    @app.get("/broken")
    def broken():
        raise RuntimeError("the test's own")

    return app


def test_it_answers_on_a_port_that_the_system_chose():
    with HttpService(hello_app(), "hello") as service:
        assert requests.get(service.url, timeout=10).text == "hello"


def test_it_has_no_address_before_it_starts():
    with pytest.raises(ServiceError, match="start"):
        _ = HttpService(hello_app(), "hello").url


def test_after_stop_it_refuses_and_after_start_it_is_back_at_the_same_address():
    service = HttpService(hello_app(), "hello").start()
    url = service.url
    service.stop()
    service.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=10)
    with service.restart():
        assert service.url == url
        assert requests.get(url, timeout=10).text == "hello"


def test_each_worker_prepares_itself_before_the_first_request_and_after_a_restart():
    prepared = []
    service = HttpService(
        hello_app(), "hello", workers=3, prepare=lambda: prepared.append(threading.get_ident())
    )
    with service.start():
        assert len(set(prepared)) == len(prepared) == 3
        assert requests.get(service.url, timeout=10).text == "hello"
        service.crash()
        service.restart()
        assert len(prepared) == 6


def test_a_worker_that_fails_to_prepare_itself_is_reported_and_serves():
    service = HttpService(hello_app(), "hello", prepare=lambda: 1 / 0).start()
    assert requests.get(service.url, timeout=10).text == "hello"
    with pytest.raises(ServiceError, match="ZeroDivisionError"):
        service.stop()


def test_a_crash_while_the_workers_prepare_themselves_keeps_nobody_waiting():
    def crash():
        raise Crashed

    with HttpService(hello_app(), "hello", prepare=crash) as service:
        assert requests.get(service.url, timeout=10).text == "hello"


def test_no_more_requests_are_worked_on_than_there_are_workers():
    block, busy = threading.Event(), threading.Semaphore(0)
    with HttpService(hello_app(block, busy), "hello", workers=2) as service:
        callers = [
            threading.Thread(target=requests.get, args=(service.url,), kwargs={"timeout": 30})
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        assert busy.acquire(timeout=10)
        assert busy.acquire(timeout=10)
        assert not busy.acquire(timeout=0.2)  # the third waits in the hidden queue
        block.set()
        for caller in callers:
            caller.join()


def test_stop_lets_a_request_under_way_finish():
    block, busy = threading.Event(), threading.Semaphore(0)
    answers = []
    service = HttpService(hello_app(block, busy), "hello").start()
    caller = threading.Thread(
        target=lambda: answers.append(requests.get(service.url, timeout=30).text)
    )
    caller.start()
    assert busy.acquire(timeout=10)
    service.signal()
    block.set()
    service.stop()
    caller.join()
    assert answers == ["hello"]


def test_a_crash_drops_the_request_under_way_and_a_restart_serves_again():
    block, busy = threading.Event(), threading.Semaphore(0)
    recorder = Recorder()
    errors = []
    service = HttpService(hello_app(block, busy), "hello", recorder=recorder).start()

    def call():
        try:
            requests.get(service.url, timeout=30)
        except requests.ConnectionError as exc:
            errors.append(exc)

    caller = threading.Thread(target=call)
    caller.start()
    assert busy.acquire(timeout=10)
    # The work ends once the caller has been dropped, and not before.
    threading.Thread(target=lambda: (caller.join(), block.set())).start()
    service.crash()
    caller.join()
    assert len(errors) == 1
    with service.restart():
        assert requests.get(service.url, timeout=10).text == "hello"
    assert [e.kind for e in recorder] == ["up", "crashed", "up", "stopped"]


def test_what_the_app_raises_is_answered_with_500_and_kept():
    service = HttpService(hello_app(), "hello").start()
    assert requests.get(f"{service.url}/broken", timeout=10).status_code == 500
    with pytest.raises(ServiceError, match="the test's own"):
        service.stop()
    assert not service.running


def test_a_port_that_someone_else_took_is_named():
    service = HttpService(hello_app(), "hello").start()
    port = service.port
    service.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ServiceError, match=f"port {port}"):
            service.start()


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_a_loop_that_is_faster_than_the_call_that_ends_it_does_no_harm(end):
    """The loop may act on what it is told before the byte that wakes it is written."""
    service = HttpService(hello_app(), "hello").start()
    trigger = service._server.trigger
    pull = trigger._physical_pull

    def late():
        pull()
        time.sleep(0.1)
        pull()

    trigger._physical_pull = late
    getattr(service, end)()
    assert not service.running


def test_a_crash_ends_the_wait_of_a_request_and_the_work_of_one_that_queued():
    begun, went_on = threading.Semaphore(0), []

    def app(environ, start_response):
        begun.release()
        Pace(1).wait(600)
        went_on.append(True)
        return []

    service = HttpService(app, "slow", workers=1).start()
    refused = []

    def call():
        try:
            requests.get(service.url, timeout=30)
        except requests.ConnectionError as exc:
            refused.append(exc)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    assert begun.acquire(timeout=10)
    started = time.monotonic()
    service.crash()
    assert time.monotonic() - started < 3
    for caller in callers:
        caller.join()
    assert len(refused) == 2
    assert not begun.acquire(blocking=False)
    assert not went_on


@pytest.mark.parametrize("direct", ["", "intranet.example,10.0.0.0/8", "*"])
def test_it_is_reached_where_a_proxy_is_set_for_the_internet(monkeypatch, direct):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("NO_PROXY", direct)
    monkeypatch.setenv("no_proxy", "whatever is set is put back at the end")
    monkeypatch.delenv("no_proxy")
    with HttpService(hello_app(), "hello") as service:
        assert requests.get(service.url, timeout=10).status_code == 200
        assert {*direct.split(",")} <= {*getproxies()["no"].split(","), ""}
