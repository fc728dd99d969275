"""The shared brokers: one of a kind for all processes of a user, started once, mended, ended."""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import time

from labkit.broker import records
from labkit.broker.base import Broker
from labkit.broker.local import LocalBroker, from_record
from labkit.broker.records import Owner, Record
from labkit.errors import BrokerError

_LEFT_OVER_AFTER_WALL_S = 60.0

_TRIES_FOR_PORTS = 3
#: As we, Erlang and Docker put it.
_PORT_TAKEN = re.compile("port is in use|eaddrinuse|address already in use|already allocated")


def shared_brokers() -> list[LocalBroker]:
    """The shared brokers that labkit started for this user, running or not."""
    return [from_record(r) for r in records.all_records() if r.shared and r.status != "removing"]


def stop_shared(only_idle: bool = False) -> list[LocalBroker]:
    """Ends the shared brokers that labkit started, with their data.

    Args:
        only_idle: leave those that another process uses.

    Returns:
        Those that were ended.
    """
    from labkit.broker.keeper import in_use

    if not records.folders():
        return []
    ended = []
    with records.locked():
        mend()
        for broker in shared_brokers():
            if only_idle and in_use(broker, but=Owner.me()):
                continue
            broker.remove()
            ended.append(broker)
    return ended


def _fits(record: Record, kind: str) -> bool:
    if not record.shared or record.kind != kind or record.status == "removing":
        return False
    if kind == "container":
        from labkit.broker.container import chosen_image

        return record.image == chosen_image()
    return True


def obtain(kind: str) -> Broker:
    """The shared broker of a kind: the one that runs, else a new one."""
    if broker := running(kind):
        return broker
    _check_possible(kind)
    with records.locked():
        mend()
        if broker := running(kind):  # somebody else has started it meanwhile
            return broker
        for record in records.all_records():
            if _fits(record, kind):
                stopped = from_record(record)
                try:
                    stopped.ensure_keeper()
                    records.take_lease(record)
                    stopped.boot()
                except BrokerError:  # its port is taken by now, say: a new one will do
                    stopped.remove()
                else:
                    return _leased(stopped)
        return _leased(create(kind, True))


def running(kind: str) -> LocalBroker | None:
    """The shared broker of a kind that runs, with a lease on it for this process, else None."""
    for record in records.all_records():
        if _fits(record, kind) and record.status == "running" and record.keeper:
            if not record.keeper.alive():
                continue
            # The lease first, then a second look: whoever ends an idle broker does it the other
            # way round, so that one of the two notices the other.
            with contextlib.suppress(FileNotFoundError):
                records.take_lease(record)
                broker = from_record(record)
                if record.reload() and record.status == "running" and broker.answers():
                    return _leased(broker)
    return None


def _leased(broker: LocalBroker) -> LocalBroker:
    lease = records.take_lease(broker.record)
    atexit.register(lease.unlink, missing_ok=True)
    return broker


def _check_possible(kind: str) -> None:
    """Raises the error that says what is missing, before anything is written or waited for."""
    if kind == "node":
        from labkit.broker.node import require_server

        require_server()


def create(kind: str, shared: bool) -> LocalBroker:
    """Starts a new broker of a kind, `container` or `node`, and returns when it answers.

    Its ports are chosen before it listens on them. Where another program was quicker, such as a
    broker that is started at the same moment, it starts again with others.
    """
    for tries_left in reversed(range(_TRIES_FOR_PORTS)):
        try:
            return _create(kind, shared)
        except BrokerError as exc:
            if not tries_left or not _PORT_TAKEN.search(str(exc)):
                raise
    raise AssertionError("the last try returns or raises")


def _create(kind: str, shared: bool) -> LocalBroker:
    if kind == "node":
        from labkit.broker.node import NodeBroker

        return NodeBroker.create(shared)
    from labkit.broker.container import ContainerBroker

    return ContainerBroker.create(shared)


def mend() -> None:
    """Removes what dead processes have left; for the holder of the lock."""
    for folder in records.folders():
        record = records.load(folder)
        if record is None:
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _LEFT_OVER_AFTER_WALL_S:
                    shutil.rmtree(folder, ignore_errors=True)
            continue
        cut_short = record.status in ("starting", "removing")
        if (not record.shared or cut_short) and not record.owner.alive():
            with contextlib.suppress(BrokerError):  # its engine is down: the next one may succeed
                from_record(record).remove()
        elif record.shared and record.status == "running":
            from_record(record).ensure_keeper()
