"""Homes of their own for tests that start, break and end brokers of their own."""

import contextlib
import gc
import os
import secrets
import shutil
import warnings
from pathlib import Path

import psutil
import pytest

from labkit.broker import engine, node, processes, records, sharing
from labkit.broker.local import from_record
from labkit.errors import BrokerError
from tests.conftest import give_up


@pytest.fixture
def server():
    """The installed rabbitmq-server."""
    try:
        return node.require_server()
    except BrokerError as exc:
        give_up(exc)


@pytest.fixture
def what_crashes_leave():
    """A crash leaves sockets as they were; Python's collector closes them, here."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def docker():
    """A Docker engine that runs."""
    try:
        with engine.client():
            pass
    except BrokerError as exc:
        give_up(exc)


@pytest.fixture
def home(monkeypatch):
    """A state folder that no other test knows; what was started from it is ended.

    It lies in the session's own, so that the check at the end of the session covers it.
    """
    monkeypatch.delenv("LABKIT_AMQP_URL", raising=False)
    path = Path(f"{os.environ['LABKIT_HOME']}-{secrets.token_hex(3)}")
    monkeypatch.setenv("LABKIT_HOME", str(path))
    yield path
    sharing.stop_shared()
    for record in records.all_records():
        with contextlib.suppress(BrokerError):
            from_record(record).remove()
        processes.kill_marked(record.id)
        processes.end(record.keeper)
    shutil.rmtree(path, ignore_errors=True)


def processes_with(home: Path) -> list[psutil.Process]:
    """Every process that was started with this state folder: beam, epmd, keepers, kernels."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LABKIT_HOME") == str(home) and (
                process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def containers_with(home: Path) -> list:
    """Every container, running or not, that was started with this state folder."""
    with engine.client() as docker:
        return engine.find(docker, **{"labkit.home": str(home)})


def nothing_left(home: Path) -> bool:
    """Whether neither a process nor a file of this state folder is left."""
    return not processes_with(home) and not home.exists()
