"""`labkit broker` and `labkit doctor` as a shell calls them."""

import os
import subprocess
import sys

import pika
import pytest

from labkit.broker import address


def labkit(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labkit.cli", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def alone(home, monkeypatch):
    """Nothing runs and nothing can be started, but the private node where it is installed."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setenv("LABKIT_COMPOSE_PORT", str(address.free_ports(1)[0]))
    monkeypatch.delenv("LABKIT_BROKER", raising=False)


@pytest.mark.kind("node")
def test_a_broker_is_started_told_used_by_any_client_and_stopped(alone, server):
    assert labkit("broker", "status").returncode == 1
    refused = labkit("broker", "url")
    assert refused.returncode == 1
    assert "labkit broker start" in refused.stderr

    started = labkit("broker", "start")
    assert started.returncode == 0, started.stderr
    status = labkit("broker", "status")
    assert status.returncode == 0
    assert "node" in status.stdout

    url = labkit("broker", "url").stdout.strip()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        assert connection.is_open
        assert labkit("broker", "stop", "--if-idle").returncode == 0  # its client is no process
    secret = address.parse(url).password
    assert secret not in started.stdout + status.stdout

    doctor = labkit("doctor")
    assert doctor.returncode == 0
    assert secret not in doctor.stdout
    assert "Docker" in doctor.stdout

    assert "Stopped" in labkit("broker", "stop").stdout
    assert labkit("broker", "status").returncode == 1
    assert labkit("broker", "stop").returncode == 0


def test_doctor_says_what_to_do_about_each_thing_that_is_wrong(alone, tmp_path):
    (tmp_path / "file").touch()
    found = labkit(
        "doctor",
        LABKIT_HOME=str(tmp_path / "file" / "home"),
        LABKIT_AMQP_URL=f"amqp://u:SECRET@127.0.0.1:{address.free_ports(1)[0]}/",
    )
    assert found.returncode == 1
    lines = {line[6:24].strip(): line for line in found.stdout.splitlines()}
    assert "set LABKIT_HOME" in lines["folder"]
    assert lines["broker: url"].startswith("mend")
    assert "Connection refused" in lines["broker: url"]
    assert lines["Python"].startswith("ok")
    assert "SECRET" not in found.stdout + found.stderr


def test_an_error_is_shown_as_its_message_without_a_traceback(alone):
    found = labkit("broker", "start", "--kind", "cloud")
    assert found.returncode == 1
    assert "container, node" in found.stderr
    assert "Traceback" not in found.stderr
