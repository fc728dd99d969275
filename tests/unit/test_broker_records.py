"""What labkit remembers of the brokers that it started."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from labkit.broker import keeper, processes, records
from labkit.broker.records import Owner
from labkit.errors import BrokerError


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ended_process() -> Owner:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = Owner.of(process.pid)
        assert owner.alive()
    return owner


def test_a_process_that_ended_is_told_from_one_that_runs():
    assert Owner.me().alive()
    assert not ended_process().alive()


def test_a_number_in_use_again_is_another_process():
    me = Owner.me()
    assert not Owner(me.pid, me.created - 60).alive()


def test_a_record_is_read_back_and_is_for_the_user_alone(home):
    record = records.new("node", shared=True)
    record.url, record.details = "amqp://u:SECRET@127.0.0.1:1/", {"ports": {"amqp": 1}}
    record.save()
    assert records.all_records() == [record]
    path = record.folder / "record.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}', "\x00\x01"])
def test_a_record_that_cannot_be_understood_counts_as_none(content):
    record = records.new("node", shared=True)
    (record.folder / "record.json").write_text(content)
    assert records.all_records() == []
    assert not record.reload()


def test_a_reader_never_sees_half_a_record():
    record = records.new("node", shared=True)
    record.details = {"filler": "x" * 100_000}
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(200):
            record.save()
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not done.is_set():
        assert records.load(record.folder) is not None
    writer.join()
    assert [p.name for p in record.folder.iterdir()] == ["record.json"]


def test_only_the_leases_of_living_processes_count():
    record = records.new("node", shared=True)
    records.take_lease(record)
    dead = ended_process()
    records.write(record.folder / "leases" / dead.label, {"pid": dead.pid, "created": dead.created})
    (record.folder / "leases" / "1-x").write_text("not a lease")
    assert records.live_leases(record) == [Owner.me()]
    assert not (record.folder / "leases" / dead.label).exists()


def test_nothing_stays_once_the_last_broker_is_forgotten(home):
    with records.locked():
        record = records.new("node", shared=True)
        records.take_lease(record)
    assert record.exists()
    with records.locked():
        records.forget(record)
    assert not home.exists()


def test_a_lock_file_that_a_dead_process_left_hinders_nobody(home):
    home.mkdir()
    (home / "lock").write_text(json.dumps({"pid": ended_process().pid}))
    with records.locked(1.0):
        pass


def test_who_waits_for_the_lock_too_long_is_told_what_to_do():
    code = """
from labkit.broker import records
with records.locked():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BrokerError, match="too long"), records.locked(0.1):
            pass
        holder.kill()
    with records.locked(5.0):  # the system has let go of it
        pass


@pytest.mark.parametrize("below", ["file/home", "/proc/labkit"])
def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(below, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_HOME", os.path.join(tmp_path, below))
    with pytest.raises(BrokerError, match="set LABKIT_HOME") as caught:
        records.new("node", shared=True)
    assert below in str(caught.value)


def test_a_broker_whose_folder_somebody_deletes_is_ended_by_its_keeper(monkeypatch):
    record = records.new("node", shared=False)
    record.url = "amqp://u:p@127.0.0.1:1/"
    record.save()
    env = os.environ | {processes.MARK: record.id}
    processes.launch(["sleep", "600"], env, record.folder, record.folder / "log")
    load = records.load

    def load_and_delete(folder):
        found = load(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    monkeypatch.setattr(records, "load", load_and_delete)
    assert processes.marked(record.id)
    keeper.keep(record.folder)
    assert not processes.marked(record.id)
