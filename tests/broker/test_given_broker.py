"""A broker that somebody else runs, given by its URL."""

import secrets

import pytest

import labkit.broker
from labkit.broker import address
from labkit.broker.admin import RefusedError
from labkit.errors import BrokerError
from labkit.lab import Lab


@pytest.fixture
def pupil(broker, vhost, monkeypatch):
    """A user who may use one virtual host, and nothing else; gives the URL."""
    if not vhost.created:
        pytest.skip("this broker's user may make neither virtual hosts nor users")
    name, password = f"pupil-{secrets.token_hex(3)}", secrets.token_hex(8)
    broker.admin.call("PUT", f"users/{name}", {"password": password, "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.admin.call("PUT", f"permissions/{vhost.name}/{name}", everything)
    parts = address.parse(vhost.url)
    url = f"amqp://{name}:{password}@{parts.host}:{parts.port}/{vhost.name}"
    monkeypatch.delenv("LABKIT_BROKER", raising=False)
    monkeypatch.setenv("LABKIT_AMQP_URL", url)
    monkeypatch.setenv("LABKIT_MANAGEMENT_URL", broker.management_url)
    yield url
    broker.admin.call("DELETE", f"users/{name}")


def test_whoever_may_not_make_virtual_hosts_gets_the_given_one_and_is_told(pupil, vhost):
    given = labkit.broker.connect()
    assert given.kind == "url"
    assert given.url == pupil
    assert given.management_url is None
    with given.virtual_host("first") as used:
        assert not used.created
        assert used.name == vhost.name
        assert used.url == pupil
        assert used.depths(["no-such-queue"]) == {}
        with pytest.raises(BrokerError, match="no management page"):
            used.queues()
    assert vhost.depths() == {}  # the given one is still there


def test_a_notebook_says_once_that_it_works_in_the_given_virtual_host(pupil, vhost, capsys):
    with Lab("first") as lab:
        lab.connect().channel().queue_declare("kept", durable=True)
        assert lab.url == pupil
        told = capsys.readouterr().out
    assert told.count("works in the one that was given") == 1
    assert "may not make virtual hosts" in told
    assert "Queues of an earlier run may be in it" in told
    assert vhost.depths() == {"kept": 0}  # it is not the notebook's to remove


def test_it_can_be_neither_stopped_nor_killed_nor_started(pupil):
    given = labkit.broker.connect("url")
    assert not given.can_restart
    for what in (given.stop, given.kill, given.start):
        with pytest.raises(BrokerError, match=r"own_broker\(\)"):
            what()
    with given:
        pass
    assert given.answers()


def test_an_administrator_gets_virtual_hosts_of_their_own(broker, pupil, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_AMQP_URL", broker.url)
    given = labkit.broker.connect()
    assert given.management_url == broker.management_url
    assert given.version == broker.version
    with given.virtual_host("first") as made:
        assert made.created
        assert made.depths() == {}
        made.stop()
        made.stop()
        assert made.name not in [v["name"] for v in broker.admin.vhosts()]
    with Lab("first") as lab:
        assert lab.vhost.created
    assert capsys.readouterr().out == ""


def test_the_management_page_says_no_by_an_error_of_its_own(broker, pupil):
    parts = address.parse(pupil)
    admin = labkit.broker.admin.Admin(broker.management_url, parts.user, parts.password)
    with pytest.raises(RefusedError) as caught:
        admin.vhosts()
    assert parts.password not in str(caught.value)


def test_a_connection_can_be_closed_from_the_brokers_side(broker, vhost):
    import pika

    from tests.broker.fakes import eventually

    with pika.BlockingConnection(pika.URLParameters(vhost.url)) as connection:
        eventually(lambda: broker.admin.connections(vhost.name), what="no connection is shown")
        [shown] = broker.admin.connections(vhost.name)
        broker.admin.close_connection(shown["name"])
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="closed by labkit"):
            connection.process_data_events(10.0)
