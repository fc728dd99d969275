"""AMQP URLs."""

import socket

import pytest

from labkit.broker import address
from labkit.errors import InputError, LabError


def test_a_full_url_comes_apart_and_together_again():
    url = "amqps://ann%40shop:s%2Fcret@broker.example:5999/first%2Fone?heartbeat=5"
    parts = address.parse(url)
    assert (parts.user, parts.password, parts.vhost) == ("ann@shop", "s/cret", "first/one")
    assert (parts.host, parts.port, parts.query) == ("broker.example", 5999, "heartbeat=5")
    assert parts.url == url


def test_what_is_left_out_is_as_amqp_has_it():
    parts = address.parse("amqp://host")
    assert (parts.user, parts.password, parts.port, parts.vhost) == ("guest", "guest", 5672, "/")
    assert address.parse("amqps://host").port == 5671


def test_an_ipv6_host_keeps_its_brackets():
    assert address.parse("amqp://u:p@[::1]:5672/").url == "amqp://u:p@[::1]:5672/%2F"


@pytest.mark.parametrize(
    ("url", "because"),
    [
        ("", "empty"),
        (None, "empty"),
        ("localhost:5672", "starts with localhost"),
        ("http://host:15672", "starts with http"),
        ("amqp://", "no host"),
        ("amqp://u:SECRET@host:port/", "Port could not be cast"),
        ("amqp://u:SECRET@host:99999/", "out of range"),
        ("amqp://u:SECRET@host:0/", "port 0"),
        ("amqp://u:SECRET@host/one/two", "%2F"),
        ("amqp://u:SECRET@[::1/", "Invalid IPv6"),
    ],
)
def test_a_wrong_url_is_named_with_the_right_shape_and_without_its_password(url, because):
    with pytest.raises(InputError) as caught:
        address.parse(url)
    assert because in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert isinstance(caught.value, LabError)
    assert caught.value.to_do


def test_the_password_shows_nowhere_but_in_the_url():
    parts = address.parse("amqp://u:SECRET@host/")
    assert "SECRET" not in f"{parts} {parts!r} {address.masked(parts.url)}"
    assert "***" in str(parts)


def test_another_virtual_host_changes_nothing_else():
    url = address.with_vhost("amqp://u:p@host:1/%2F?heartbeat=5", "a/b")
    assert url == "amqp://u:p@host:1/a%2Fb?heartbeat=5"


def test_free_ports_are_free_and_below_what_outgoing_connections_get():
    ports = address.free_ports(4)
    assert len(set(ports)) == 4
    assert all(address.is_free(port) and port in address.PORT_RANGE for port in ports)


def test_a_port_on_which_somebody_listens_is_not_free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not address.is_free(listener.getsockname()[1])
