"""Servers that are to come back where their clients look for them keep their port meanwhile."""

import gc
import socket

import pytest

from labkit.broker import address
from labkit.faults.wire import Wire
from labkit.held_port import HeldPort
from labkit.shop.outside import Inbox
from labkit.web import HttpService


def hello(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


SERVERS = {
    "HttpService": lambda: HttpService(hello, "hello"),
    "Inbox": Inbox,
    "Wire": lambda: Wire("amqp://nobody@127.0.0.1:1/"),
}
ENDS = [("HttpService", "stop"), ("HttpService", "crash"), ("Inbox", "stop"), ("Wire", "stop")]


@pytest.mark.parametrize(("kind", "end"), ENDS)
def test_a_server_that_is_down_keeps_its_port_and_refuses_whoever_connects(kind, end):
    server = SERVERS[kind]().start()
    port = server._port.number
    for _ in range(3):
        getattr(server, end)()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.LOOPBACK, port), timeout=10)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((address.LOOPBACK, port))
        server.start()
        assert server._port.number == port
    server.stop()

    del server
    gc.collect()
    with address.bound(port) as other:
        other.listen()


def test_a_port_that_another_program_has_can_not_be_held_or_listened_on():
    with HeldPort().listen() as other:
        port = HeldPort()
        port.number = other.getsockname()[1]
        port.hold()
        for _ in range(2):
            with pytest.raises(OSError, match="in use"):
                port.listen()
    with port.listen() as listener:
        assert listener.getsockname()[1] == port.number
