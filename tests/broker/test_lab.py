"""A notebook's own place, and the end of it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import amqp
from labkit.broker import connect
from labkit.lab import Lab
from labkit.probe import Probe
from tests.broker.fakes import eventually


class Service:
    def __init__(self, log, name, fails=False):
        self.log, self.name, self.fails = log, name, fails

    def start(self):
        self.log.append(f"start {self.name}")

    def stop(self):
        self.log.append(f"stop {self.name}")
        if self.fails:
            raise RuntimeError("the test's own")


def test_everything_ends_with_the_lab_the_last_one_first(broker):
    log = []
    lab = Lab("test", broker).start()
    lab.use(Service(log, "one"))
    lab.use(Service(log, "two"))
    folder, name = lab.new_folder("experiment"), lab.vhost.name
    connection = lab.connect()
    lab.stop()
    lab.stop()
    assert log == ["start one", "start two", "stop two", "stop one"]
    assert not folder.exists()
    assert not connection.is_open
    if broker.kind != "url":
        with pytest.raises(Exception, match="virtual host"):
            amqp.connect(amqp.address.with_vhost(broker.url, name))


def test_one_service_that_fails_to_stop_keeps_nothing_else_from_ending(broker):
    log = []
    lab = Lab("test", broker)
    lab.use(Service(log, "one"))
    lab.use(Service(log, "two", fails=True))
    folder = lab.folder
    with pytest.raises(RuntimeError, match="the test's own"):
        lab.stop()
    assert log[-1] == "stop one"
    assert not folder.exists()


def test_without_a_broker_there_is_a_folder_a_pace_and_a_recorder(monkeypatch):
    monkeypatch.setenv("LABKIT_AMQP_URL", "amqp://nobody@127.0.0.1:1/")
    with Lab("no-broker", speed=20) as lab:
        assert lab.folder.is_dir()
        assert lab.recorder.pace is lab.pace
        assert lab.pace.speed == 20


def test_two_labs_of_one_name_do_not_see_each_other(broker):
    with Lab("twin", broker) as one, Lab("twin", broker) as two:
        assert one.folder != two.folder
        if one.vhost.created:
            one.connect().channel().queue_declare("letters", durable=True)
            assert two.vhost.depths() == {}


def test_a_lab_finds_the_broker_by_itself(broker):
    with Lab("finder") as lab:
        assert lab.broker.url == connect().url == broker.url


def test_a_probe_records_what_is_ready_until_its_last_look(broker):
    with Lab("probe", broker) as lab:
        channel = lab.connect().channel()
        channel.confirm_delivery()
        channel.queue_declare("letters", durable=True)
        probe = Probe(["letters", "nowhere"], lab.url, lab.recorder, every_wall_s=0.01)
        with probe:
            eventually(lambda: lab.recorder.count("depth"))
            amqp.publish(channel, "", "letters", "one")
            amqp.publish(channel, "", "letters", "two")
        samples = [e for e in lab.recorder if e.kind == "depth"]
        assert [e.detail for e in samples if e.service == "letters"][-1] == 2
        assert {e.detail for e in samples if e.service == "nowhere"} == {0}


def test_a_probe_without_time_between_samples_is_refused():
    from labkit.errors import InputError
    from labkit.events import Recorder

    with pytest.raises(InputError, match="time between samples"):
        Probe(["letters"], "amqp://x", Recorder(), every_wall_s=0)


def test_the_folder_of_a_killed_process_is_removed_by_the_next_lab(home):
    code = "import labkit, os; print(labkit.Lab('killed').start().folder); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    folder = Path(killed.stdout.strip())
    assert killed.returncode == -signal.SIGKILL
    assert folder.is_dir()
    with Lab("next"):
        assert not folder.exists()
