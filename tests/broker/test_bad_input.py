"""What is wrong with the way to a broker, each with the clear error that it gets."""

import threading
import time

import psutil
import pytest

import labkit.broker
from labkit import amqp
from labkit.broker import address, container, engine, node, records
from labkit.consumer import Consumer
from labkit.errors import BrokerError, InputError, LabError, ServiceError
from tests.broker.conftest import nothing_left
from tests.broker.fakes import eventually, greeting, server


@pytest.fixture(autouse=True)
def nothing_chosen(home, monkeypatch):
    monkeypatch.delenv("LABKIT_BROKER", raising=False)


@pytest.fixture
def no_docker(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(engine, "installed", lambda: False)


@pytest.fixture
def no_compose(monkeypatch):
    monkeypatch.setenv("LABKIT_COMPOSE_PORT", str(address.free_ports(1)[0]))


def failure(url: str | None = None, kind: str | None = None) -> LabError:
    """The error of a `connect()` that fails, which leaves no record, folder, process or thread."""
    threads = set(threading.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        if url is not None:
            patch.setenv("LABKIT_AMQP_URL", url)
        with pytest.raises(LabError) as caught:
            labkit.broker.connect(kind)
    assert "SECRET" not in str(caught.value)
    assert any(caught.value.to_do)
    assert nothing_left(records.home())
    eventually(lambda: set(threading.enumerate()) <= threads)
    return caught.value


def test_a_wrong_url_is_named_and_no_other_broker_is_taken_in_its_place():
    assert isinstance(failure("http://u:SECRET@127.0.0.1:15672"), InputError)


def test_a_refused_connection_names_the_address():
    [port] = address.free_ports(1)
    error = failure(f"amqp://u:SECRET@127.0.0.1:{port}/")
    assert f"127.0.0.1:{port}" in error.seen
    assert "refused" in error.seen


def test_a_name_that_means_no_host_is_told():
    assert "does not answer" in failure("amqp://u:SECRET@no-such-host.invalid/").failed


def test_a_host_that_does_not_answer_is_given_up_within_a_few_seconds():
    with server(None) as port:
        begun = time.monotonic()
        error = failure(f"amqp://u:SECRET@127.0.0.1:{port}/")
        assert time.monotonic() - begun < 8
    assert "does not answer" in error.failed
    assert "timed out" in error.seen


def test_a_broker_that_is_too_old_is_refused_by_its_version():
    with server(greeting("3.8.9")) as port:
        error = failure(f"amqp://u:SECRET@127.0.0.1:{port}/")
    assert error.failed == "The broker is too old."
    assert "3.8.9" in error.seen


def test_a_management_page_in_place_of_amqp_is_told_apart():
    with server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "no AMQP" in failure(f"amqp://u:SECRET@127.0.0.1:{port}/").failed


def test_wrong_credentials_and_a_wrong_virtual_host_are_told_apart(broker):
    parts = address.parse(broker.url)
    wrong = f"amqp://{parts.user}:SECRET@{parts.host}:{parts.port}/"
    assert "password" in failure(wrong).failed
    assert "virtual host" in failure(address.with_vhost(broker.url, "no-such")).failed


def test_an_unknown_kind_lists_those_that_there_are(monkeypatch):
    assert "container, node" in " ".join(failure(kind="cloud").to_do)
    monkeypatch.setenv("LABKIT_BROKER", "docker")
    assert "LABKIT_BROKER" in failure().seen


def test_the_kind_url_without_a_url_says_which_variable_to_set():
    assert "LABKIT_AMQP_URL" in failure(kind="url").seen


def test_without_any_broker_one_error_names_each_way_and_its_remedy(
    home, monkeypatch, no_docker, no_compose
):
    monkeypatch.setattr(node, "find_server", lambda: None)
    error = failure()
    assert isinstance(error, BrokerError)
    for kind in ("compose", "container", "node"):
        assert f"{kind}:" in error.seen
        assert f"({kind})" in " ".join(error.to_do)
    assert "docker compose up -d --wait" in str(error)
    assert "apt-get install rabbitmq-server" in str(error)
    with pytest.raises(BrokerError, match="No RabbitMQ could be found or started"):
        labkit.broker.own_broker()
    assert nothing_left(home)


def test_docker_that_does_not_run_is_told_from_docker_that_is_not_installed(no_docker, monkeypatch):
    assert failure(kind="container").failed == "Docker is not installed."
    monkeypatch.setattr(engine, "installed", lambda: True)
    assert failure(kind="container").failed == "Docker is installed but not running."


@pytest.mark.kind("container")
def test_an_image_that_cannot_be_had_is_named(monkeypatch, docker):
    monkeypatch.setenv("LABKIT_IMAGE", "localhost:1/no-such-image:1")
    error = failure(kind="container")
    assert "no-such-image" in error.seen
    assert any("docker pull" in step for step in error.to_do)
    assert container.chosen_image() == "localhost:1/no-such-image:1"


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path, server):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    error = failure(kind="node")
    assert str(tmp_path / "file") in error.seen
    assert "LABKIT_HOME" in str(error)


def test_no_broker_of_ones_own_where_only_a_url_is_allowed(monkeypatch):
    monkeypatch.setenv("LABKIT_BROKER", "url")
    with pytest.raises(BrokerError, match="no broker of your own"):
        labkit.broker.own_broker()


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a.b", "x" * 61])
def test_a_virtual_host_with_an_impossible_name_is_refused(broker, name):
    with pytest.raises(InputError, match="letters, digits"):
        broker.virtual_host(name)


def test_a_queue_that_does_not_exist_leaves_the_broker_and_other_consumers_as_they_were(vhost):
    port = address.parse(vhost.url).port

    def to_the_broker() -> set:
        return {
            c.laddr
            for c in psutil.Process().net_connections("tcp")
            if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED
        }

    taken = []

    def take(channel, method, properties, body):
        taken.append(body)
        channel.basic_ack(method.delivery_tag)

    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    channel = connection.channel()
    channel.queue_declare("work", durable=True)
    with Consumer(take, "work", vhost.url):
        threads, connections = set(threading.enumerate()), to_the_broker()
        assert len(connections) >= 2
        with pytest.raises(ServiceError, match="nowhere"):
            Consumer(take, "nowhere", vhost.url, threads=3).start()
        eventually(lambda: set(threading.enumerate()) <= threads)
        eventually(lambda: to_the_broker() == connections)
        assert vhost.depths(["work", "nowhere"]) == {"work": 0}
        amqp.publish(channel, "", "work", "still served")
        eventually(lambda: taken == [b"still served"])
    connection.close()
