"""The check at the end of a test session: whatever a test leaves behind fails the session by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docker.errors import NotFound
from docker.models.containers import ContainerCollection

from labkit.broker import container, engine, vhost
from tests.conftest import leaked_containers, leaked_vhosts

ROOT = Path(__file__).parents[2]
PLUGINS = ("-p", "tools.execution", "-p", "no:hypothesispytest", "-p", "tests.conftest")
#: A test that passes and leaves a thread. The session need not wait for what never goes away.
THREAD = """
import threading
from tests import conftest

conftest.GONE_WITHIN_WALL_S = 0.3

def test_thread():
    threading.Thread(target=threading.Event().wait, name="planted", daemon=True).start()
"""
#: What is outside its process, too. The process reads until its parent ends; it then ends, too.
EVERYTHING = f"""{THREAD}
import os, subprocess, sys, tempfile
from pathlib import Path
from labkit.broker import records

ENV = os.environ | {{"LABKIT_HOME": os.environ["LABKIT_HOME"] + "-planted"}}
PIPES = {{"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
kept = []

def test_everything(broker):
    kept.append(subprocess.Popen([sys.executable, "-c", "planted = input()"], env=ENV, **PIPES))
    Path(ENV["LABKIT_HOME"], "kept").mkdir(parents=True)
    tempfile.mkdtemp(prefix="labkit-planted-")
    records.new("node", shared=False)
    broker.virtual_host("planted").start()
"""


def session(folder: Path, code: str, *arguments: str, **env: str) -> str:
    """What a test session of its own prints whose one module is this code; it must fail."""
    module = folder / "test_planted.py"
    module.write_text(code)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, *arguments, str(module)],
        cwd=ROOT,
        env=inherited | env,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    assert re.search(r"\d passed in", ended.stdout), ended.stdout
    return ended.stdout.partition("left behind")[2]


def test_each_kind_of_leak_is_named_and_fails_a_session_whose_tests_pass(
    broker, tmp_path, monkeypatch
):
    monkeypatch.delenv("LABKIT_BROKER", raising=False)
    page = broker.management_url
    env = {"LABKIT_AMQP_URL": broker.url} | ({"LABKIT_MANAGEMENT_URL": page} if page else {})
    try:
        told = session(tmp_path, EVERYTHING, **env)
    finally:
        if page:
            vhost.sweep(broker.admin)
    assert "\nthread planted\n" in told
    assert re.search(r"\nprocess \d+ .*planted = input\(\)\n", told)
    assert re.search(r"\nbroker node \w+ \(starting\)\n", told)
    assert re.search(r"\nfolder .*/tmp/labkit-planted-\w+\n", told)
    assert re.search(r"\nfolder .*/home: \[.*'brokers'.*\]\n", told)
    assert re.search(r"\nfolder .*/home-planted: \['kept'\]\n", told)
    if page:
        assert "\nvirtual host labkit.planted." in told


def test_what_a_worker_of_xdist_leaves_in_its_process_is_named_with_the_worker(tmp_path):
    assert "\ngw0: thread planted\n" in session(tmp_path, THREAD, "-n1")


def test_virtual_hosts_that_can_not_be_looked_for_are_told_where_there_may_be_some(monkeypatch):
    monkeypatch.delenv("LABKIT_BROKER", raising=False)
    monkeypatch.setenv("LABKIT_AMQP_URL", "amqp://nobody@127.0.0.1:1/")
    assert leaked_vhosts(had_page=False) == []
    [told] = leaked_vhosts(had_page=True)
    assert "does not answer" in told


@pytest.fixture
def containers(broker):
    """Where brokers are containers: CI has no Docker while it tests private nodes."""
    if broker.kind != "container":
        pytest.skip("the shared broker is no container")


@pytest.mark.usefixtures("containers")
def test_a_container_of_a_folder_beside_the_sessions_own_is_found():
    home = os.environ["LABKIT_HOME"]
    with engine.client() as docker:
        labels = {"labkit.home": f"{home}-planted"}
        planted = docker.containers.create(container.chosen_image(), labels=labels)
        try:
            assert f"container {planted.name}" in leaked_containers(Path(home))
        finally:
            planted.remove(v=True, force=True)


@pytest.mark.usefixtures("containers")
def test_a_container_that_goes_away_between_two_questions_is_left_out(monkeypatch):
    def gone(self, container_id):
        raise NotFound(f"No such container: {container_id}")

    with engine.client() as client:
        labels = {"labkit.test": "planted"}
        planted = client.containers.create(container.chosen_image(), labels=labels)
        try:
            assert engine.find(client, **labels) == [planted]
            monkeypatch.setattr(ContainerCollection, "get", gone)
            assert engine.find(client, **labels) == []
        finally:
            planted.remove(v=True, force=True)
