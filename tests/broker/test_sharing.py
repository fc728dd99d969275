"""The shared broker: started once, kept while it is used, mended, ended; nothing left behind."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import labkit.broker
from labkit.broker import address, records, sharing
from labkit.broker.processes import marked
from tests.broker.conftest import containers_with, nothing_left, processes_with
from tests.broker.fakes import eventually, kernel

#: The kind under test: where CI tests containers, a container; else a node.
KIND = "container" if os.environ.get("LABKIT_BROKER") == "container" else "node"
CONNECT = f"""
import labkit.broker
broker = labkit.broker.connect("{KIND}")
print(broker.url, flush=True)
input()
"""
OWN = CONNECT.replace("connect(", "own_broker(")


@pytest.fixture
def home(request, home):
    """As everywhere, where there can be a broker of the kind under test."""
    request.getfixturevalue("server" if KIND == "node" else "docker")
    return home


def incarnation(record: records.Record) -> object:
    """What changes when a broker is started again: its beam process, or its container's start."""
    if KIND == "node":
        [beam] = [p for p in marked(record.id) if p.name().startswith("beam")]
        return beam
    [container] = containers_with(record.home)
    return container.id, container.attrs["State"]["StartedAt"]


def begun(home) -> bool:
    """Whether the first process of a broker of this folder, or its container, is there."""
    if KIND == "container":
        return bool(containers_with(home))
    with contextlib.suppress(psutil.NoSuchProcess):  # another one has just ended
        return any(p.name().startswith("beam") for p in processes_with(home))
    return False


def cut_power(broker) -> None:
    """Ends all that belongs to a broker, its keeper first, at once; its files stay."""
    members = [psutil.Process(broker.record.keeper.pid), *marked(broker.record.id)]
    for process in members:
        with contextlib.suppress(psutil.NoSuchProcess):  # it went with another one
            process.kill()
    if KIND == "container":
        for container in containers_with(broker.record.home):
            container.kill()


def all_gone(home) -> bool:
    """Whether neither a process, a file nor a container of this folder is left."""
    return nothing_left(home) and (KIND == "node" or not containers_with(home))


@pytest.mark.kind(KIND)
def test_two_notebooks_that_start_at_once_get_the_same_broker_which_outlives_them(home):
    with kernel(CONNECT) as one, kernel(CONNECT) as two:
        url = one.stdout.readline()
        assert url.startswith("amqp://")
        assert two.stdout.readline() == url
        [record] = records.all_records()
        assert len(records.live_leases(record)) == 2
        before = incarnation(record)
        one.kill()
        one.wait()
        two.stdin.write("\n")
        two.stdin.flush()
        assert two.wait() == 0
    assert records.live_leases(record) == []
    again = labkit.broker.connect(KIND)
    assert again.url == url.strip()
    assert incarnation(record) == before

    # A broker that an experiment has stopped is the same one when somebody asks next.
    again.kill()
    assert labkit.broker.connect(KIND).url == url.strip()

    assert [b.url for b in sharing.stop_shared()] == [url.strip()]
    assert sharing.stop_shared() == []
    eventually(lambda: all_gone(home), what="something left")


def test_a_virtual_host_whose_owner_was_killed_is_swept_by_the_next_who_connects(broker):
    code = """
import labkit.broker
vhost = labkit.broker.connect().virtual_host("killed").start()
print(vhost.name, flush=True)
input()
"""
    with broker.virtual_host("mine") as mine:
        if not mine.created:
            pytest.skip("this broker's user may not make virtual hosts")
        with kernel(code) as process:
            name = process.stdout.readline().strip()
            labkit.broker.connect()
            assert name in [v["name"] for v in broker.admin.vhosts()]
            process.kill()
            process.wait()
        labkit.broker.connect()
        eventually(lambda: name not in [v["name"] for v in broker.admin.vhosts()])
        assert mine.name in [v["name"] for v in broker.admin.vhosts()]


def test_virtual_hosts_that_go_meanwhile_are_no_trouble_to_one_who_looks(broker):
    """The broker lists some of them without a name, or answers that it can't (RabbitMQ 4.0)."""
    with broker.virtual_host("mine") as mine:
        if not mine.created:
            pytest.skip("this broker's user may not make virtual hosts")

        def come_and_go(number):
            for _ in range(40):
                broker.admin.call("PUT", f"vhosts/{mine.name}.{number}", {"tags": "labkit"})
                broker.admin.delete_vhost(f"{mine.name}.{number}")

        with ThreadPoolExecutor() as pool:
            others = [pool.submit(come_and_go, number) for number in range(2)]
            while not all(other.done() for other in others):
                assert mine.name in [vhost["name"] for vhost in broker.admin.vhosts()]
            assert [other.result() for other in others] == [None, None]


@pytest.mark.kind(KIND)
def test_a_kernel_killed_while_it_starts_the_broker_leaves_the_way_free(home):
    with kernel(CONNECT) as process:
        eventually(lambda: begun(home), what="nothing begun")
        [cut_short] = records.all_records()  # its keeper removes the record afterwards
        process.kill()
        process.wait()
    broker = labkit.broker.connect(KIND)
    assert broker.answers()
    assert not marked(cut_short.id)
    assert not cut_short.folder.exists()
    assert KIND == "node" or len(containers_with(home)) == 1

    # Then the machine goes down: every process ends, every file stays, and the numbers of the
    # processes come to mean others.
    cut_power(broker)
    eventually(lambda: not processes_with(home))
    path = broker.record.folder / "record.json"
    content = json.loads(path.read_text())
    content["keeper"]["pid"] = content["owner"]["pid"] = os.getpid()
    if KIND == "node":
        content["details"]["process"][0] = os.getpid()
    path.write_text(json.dumps(content))
    (home / "lock").write_text("left")

    # The next one mends it; and its keeper ends it when nobody has used it for a second.
    code = CONNECT.replace("input()", "")
    environment = {**os.environ, "LABKIT_IDLE_S": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == broker.url
    with contextlib.suppress(FileNotFoundError):
        for lease in (broker.record.folder / "leases").iterdir():
            lease.unlink()  # this process's own
    eventually(lambda: all_gone(home), what="something left")


@pytest.mark.kind(KIND)
def test_a_broker_whose_port_another_program_takes_first_starts_with_others(home, monkeypatch):
    choose, asked = address.free_ports, []
    with socket.create_server(("127.0.0.1", 0)) as quicker:

        def free_ports(count, besides):
            asked.append(count)
            taken = quicker.getsockname()[1]
            return [taken, *choose(count - 1)] if len(asked) == 1 else choose(count, besides)

        monkeypatch.setattr(address, "free_ports", free_ports)
        with labkit.broker.own_broker(KIND) as broker:
            assert broker.answers()
            assert str(quicker.getsockname()[1]) not in broker.url
    assert len(asked) == 2
    eventually(lambda: all_gone(home), what="something left")


@pytest.mark.kind(KIND)
def test_a_broker_of_ones_own_ends_with_its_owner_even_by_sigkill(home):
    with kernel(OWN) as process:
        assert process.stdout.readline().startswith("amqp://")
        [record] = records.all_records()
        assert not record.shared
        assert KIND == "container" or len(marked(record.id)) >= 2
        assert begun(home)
        process.kill()
        process.wait()
    eventually(lambda: all_gone(home), what="something left")
