"""The broker of docker-compose.yml, under a project name and ports of this test's own."""

import contextlib
import secrets
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

import labkit.broker
from labkit.broker import address, compose, engine
from labkit.errors import BrokerError
from tests.broker.fakes import eventually
from tests.broker.test_kinds import put
from tests.conftest import give_up

FOLDER = Path(__file__).parents[2]


def docker_compose(*arguments: str) -> None:
    subprocess.run(
        ["docker", "compose", *arguments], cwd=FOLDER, check=True, capture_output=True, text=True
    )


@pytest.fixture
def project(home, monkeypatch):
    """An environment in which the Compose broker is this test's alone; it does not run yet."""
    try:
        with engine.client():
            pass
        if not shutil.which("docker"):
            raise BrokerError("There is no docker command.")
    except BrokerError as exc:
        give_up(exc)
    port, page = address.free_ports(2)
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"labkit-{secrets.token_hex(3)}")
    monkeypatch.setenv("LABKIT_COMPOSE_PORT", str(port))
    monkeypatch.setenv("LABKIT_COMPOSE_PAGE_PORT", str(page))
    yield
    docker_compose("down", "-v", "--timeout", "1")


def looks_since_its_start(broker: compose.ComposeBroker) -> list[bool]:
    """For each health check that went well since the container's start: whether it asked RabbitMQ."""
    with broker._container() as container:
        state = container.attrs["State"]
    began = datetime.fromisoformat(state["StartedAt"])
    return [
        "fully booted" in look["Output"]
        for look in state["Health"]["Log"]
        if look["ExitCode"] == 0 and datetime.fromisoformat(look["Start"]) > began
    ]


@pytest.mark.kind("compose")
@pytest.mark.usefixtures("project")
def test_it_is_found_stopped_killed_and_found_again_with_its_data(monkeypatch):
    with pytest.raises(BrokerError, match="does not answer") as caught:
        labkit.broker.connect("compose")
    assert compose.UP in str(caught.value)
    with pytest.raises(BrokerError, match="is not there"):
        compose.ComposeBroker().start()

    docker_compose("up", "-d", "--wait")
    monkeypatch.delenv("LABKIT_BROKER", raising=False)
    broker = labkit.broker.connect()
    assert broker.kind == "compose"
    assert broker.can_restart
    put(broker.url)
    for end in (broker.stop, broker.kill):
        end()
        end()
        assert not broker.answers()
        assert broker.start().start().depths() == {"kept": 1}
    # What it knew of its health is gone with its start; what it finds then is good for a minute.
    looks = eventually(lambda: len(looks := looks_since_its_start(broker)) > 1 and looks)
    assert looks[:2] == [True, False]
    with broker.virtual_host("first") as vhost:
        assert vhost.created
    with broker._container() as container:
        published = [b["HostIp"] for bs in container.ports.values() for b in bs or []]
    assert published == ["127.0.0.1", "127.0.0.1"]

    # A container made anew from the same file finds its data: the host name is fixed.
    docker_compose("down", "--timeout", "5")
    docker_compose("up", "-d", "--wait")
    assert labkit.broker.connect("compose").depths() == {"kept": 1}


def test_another_rabbitmq_on_its_port_is_not_taken_for_it(broker, monkeypatch):
    if broker.kind != "container":
        pytest.skip("the shared broker is no container")
    monkeypatch.setenv("LABKIT_COMPOSE_PORT", str(address.parse(broker.url).port))
    with pytest.raises(BrokerError, match="holds the Compose broker's port"):
        labkit.broker.connect("compose")


@pytest.mark.kind("compose")
def test_a_broker_of_ones_own_beside_it_is_a_container(home, monkeypatch):
    with contextlib.ExitStack() as stack:
        monkeypatch.setenv("LABKIT_BROKER", "compose")
        try:
            own = stack.enter_context(labkit.broker.own_broker())
        except BrokerError as exc:
            give_up(exc)
        assert own.kind == "container"
