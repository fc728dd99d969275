"""Who answers at an address: tiny TCP servers say it, as a broker or as something else."""

import time

import pytest

from labkit.broker import address
from labkit.broker.greeting import check_version, greet
from labkit.errors import BrokerError
from tests.broker.fakes import greeting, server


def at(port: int) -> address.Address:
    return address.parse(f"amqp://u:SECRET@127.0.0.1:{port}/")


@pytest.mark.parametrize("version", ["3.10.8", "3.13.0", "4.0.5", "4.3.6", "4.3.0-rc.1"])
def test_a_broker_that_is_new_enough_is_known_by_its_version(version):
    with server(greeting(version)) as port:
        assert check_version(greet(at(port)), at(port)) == version


@pytest.mark.parametrize("version", ["3.9.29", "3.8.2", "2.8.7"])
def test_a_broker_that_is_too_old_is_refused(version):
    with server(greeting(version)) as port, pytest.raises(BrokerError, match="too old") as caught:
        check_version(greet(at(port)), at(port))
    assert version in caught.value.seen
    assert "3.10" in caught.value.seen


def test_another_product_is_refused():
    with server(greeting("9.0", "Qpid")) as port, pytest.raises(BrokerError, match="not RabbitMQ"):
        check_version(greet(at(port)), at(port))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"AMQP\x00\x01\x00\x00",
        b"\x01\x00\x00\x00\x00\x00\x20" + b"\xff" * 40,
        greeting("4.0")[:12] + b"\xff" * 61,
    ],
)
def test_what_speaks_another_protocol_is_told_apart(answer):
    with server(answer) as port, pytest.raises(BrokerError, match=r"no AMQP 0-9-1|not RabbitMQ"):
        check_version(greet(at(port)), at(port))


def test_a_host_that_says_nothing_is_given_up_in_time():
    with server(None) as port:
        begun = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            greet(at(port), 0.3)
        assert time.monotonic() - begun < 20  # the server never answers
