"""The process that looks after one broker that labkit started, and ends it when its time has come.

One of one's own ends as soon as its owner does, however that happens. A shared one ends after
half an hour in which no process used it and no client was connected. Started by
`labkit.broker.processes.launch_keeper` as `python -m labkit.broker.keeper FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import psutil

from labkit.broker import records
from labkit.broker.local import LocalBroker, from_record
from labkit.broker.records import Owner, Record
from labkit.errors import BrokerError

IDLE_WALL_S = 30 * 60.0
POLL_WALL_S = 0.5


def idle_limit_wall_s() -> float:
    """Real seconds that a shared broker may idle; `LABKIT_IDLE_S` changes them, for tests."""
    with contextlib.suppress(ValueError):
        return float(os.environ.get("LABKIT_IDLE_S", ""))
    return IDLE_WALL_S


def in_use(broker: LocalBroker, but: Owner | None = None) -> bool:
    """Whether a living process has the broker, or a client is connected to it.

    Args:
        broker: a shared one.
        but: a process that does not count.
    """
    if any(owner != but for owner in records.live_leases(broker.record)):
        return True
    if _connected(broker):  # before it is asked: a busy one may not answer in time
        return True
    if not broker.answers():
        return False
    try:
        return bool(broker.admin.connections())
    except BrokerError:
        return False


def _connected(broker: LocalBroker) -> bool:
    """Whether the system knows a connection to it; the management page takes a second to."""
    port = broker.record.details["ports"]["amqp"]
    with contextlib.suppress(psutil.Error, OSError):  # only root may ask on macOS
        return any(
            c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port
            for c in psutil.net_connections("tcp")
        )
    return False


def keep(folder: Path) -> None:
    """Looks after the broker in this folder until it has gone."""
    me = Owner.me()
    idle_since = time.monotonic()
    last = None
    while (record := records.load(folder)) is not None:
        last = record
        if record.keeper not in (None, me) and record.keeper.alive():
            return  # another one has taken over
        with contextlib.suppress(BrokerError):  # an engine that is down may come back: try again
            if not record.shared:
                if not record.owner.alive():
                    from_record(record).remove()
                    return
            elif record.status in ("starting", "removing"):
                if not record.owner.alive():
                    _end_left_over(record)
            elif records.live_leases(record):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > idle_limit_wall_s():
                if _end_idle(record):
                    return
                idle_since = time.monotonic()
        time.sleep(POLL_WALL_S)
    if last is not None:  # somebody has deleted the folder, perhaps, and the broker still runs
        with contextlib.suppress(BrokerError):
            from_record(last).remove()


def _end_left_over(record: Record) -> None:
    """Ends a shared broker whose start or end was cut short, unless somebody sees to it."""
    with records.locked(0.0):
        if record.reload() and record.status in ("starting", "removing"):
            from_record(record).remove()


def _end_idle(record: Record) -> bool:
    """Ends a shared broker if still nobody uses it; True where it is gone."""
    with records.locked():
        if not record.reload():
            return True
        broker = from_record(record)
        if in_use(broker):
            return False
        before, record.status = record.status, "removing"
        record.save()
        # A process may have taken a lease just before it could read this.
        if records.live_leases(record):
            record.status = before
            record.save()
            return False
        broker.remove()
    return True


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
