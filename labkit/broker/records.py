"""What labkit remembers of the brokers that it started: files under one folder, private to the user.

LABKIT_HOME/lock                          held while a shared broker is started or ended
LABKIT_HOME/brokers/<id>/record.json      the broker: where, whose, how it is doing
LABKIT_HOME/brokers/<id>/leases/<owner>   one for each process that uses it
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import BrokerError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_TIMEOUT_WALL_S = 180.0
#: The clock that process start times are read from may be set while a process runs.
_CLOCK_SLACK_S = 2.0


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same number by when it was created."""

    pid: int
    created: float

    @classmethod
    def me(cls) -> Owner:
        """The calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The process with this number; one that has ended already counts as never created."""
        import psutil

        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return cls(pid, 0.0)

    def alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > _CLOCK_SLACK_S:
                return False
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    @property
    def label(self) -> str:
        """A short text that names it, fit for a file name."""
        return f"{self.pid}-{self.created:.2f}"


@dataclass
class Record:
    """One broker that labkit started.

    Attributes:
        id: random; processes and containers that belong to it carry it.
        kind: `node` or `container`.
        shared: whether any process of the user may use it, or its owner alone.
        image: of a container; empty for a node.
        url: AMQP URL with the password.
        management_url: without credentials.
        version: of RabbitMQ, once it has answered.
        owner: who started it.
        keeper: the process that ends it when nobody needs it any more.
        status: `starting`, `running` or `stopped`.
        details: what the kind needs to know besides.
        home: the folder of all that labkit remembers, at the time.
    """

    id: str
    kind: str
    shared: bool
    image: str = ""
    url: str = ""
    management_url: str = ""
    version: str = ""
    owner: Owner = field(default_factory=Owner.me)
    keeper: Owner | None = None
    status: str = "starting"
    details: dict[str, Any] = field(default_factory=dict)
    home: str = field(default_factory=lambda: str(home()))

    @property
    def folder(self) -> Path:
        """Where the broker's files are."""
        return Path(self.home) / "brokers" / self.id

    def exists(self) -> bool:
        """Whether the broker has not been removed."""
        return (self.folder / "record.json").exists()

    def save(self) -> None:
        """Writes it down, for the user alone to read, and never half."""
        write(self.folder / "record.json", asdict(self))

    def reload(self) -> bool:
        """Takes over what another process wrote; False where the broker has been removed."""
        fresh = load(self.folder)
        if fresh is None:
            return False
        self.__dict__.update(fresh.__dict__)
        return True


def home() -> Path:
    """The folder of all that labkit remembers: `LABKIT_HOME`, else the user's state folder."""
    if chosen := os.environ.get("LABKIT_HOME"):
        return Path(chosen).absolute()
    import platformdirs

    return platformdirs.user_state_path("labkit")


def make_folder(folder: Path) -> Path:
    """Makes a folder for the user alone.

    Raises:
        BrokerError: it can't be made or written.
    """
    try:
        for attempt in range(10):
            try:
                for missing in [f for f in (folder, *folder.parents) if not f.exists()][::-1]:
                    missing.mkdir(mode=0o700, exist_ok=True)
                break
            except FileNotFoundError:  # another process has just tidied a parent away
                if attempt == 9:
                    raise
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write to {folder}")
    except OSError as exc:
        raise BrokerError(
            "labkit can't write its folder.",
            f"{folder}: {exc.strerror or exc}",
            "make it writable, or set LABKIT_HOME to a folder of yours",
        ) from exc
    return folder


def new(kind: str, shared: bool, image: str = "") -> Record:
    """A record of a broker that is about to be started, with a folder of its own."""
    record = Record(secrets.token_hex(4), kind, shared, image)
    make_folder(record.folder)
    record.save()
    return record


def write(path: Path, content: object) -> None:
    """Writes JSON to a file with mode 0600; a reader sees the old content or the new."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(folder: Path) -> Record | None:
    """The record in a broker's folder; None where there is none, or it can't be understood."""
    try:
        content = json.loads((folder / "record.json").read_text())
        content["owner"] = Owner(**content["owner"])
        content["keeper"] = Owner(**content["keeper"]) if content["keeper"] else None
        return Record(**content)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def folders() -> list[Path]:
    """The folder of every broker that labkit started, the newest first."""
    with contextlib.suppress(OSError):
        found = [f for f in (home() / "brokers").iterdir() if f.is_dir()]
        return sorted(found, key=lambda f: f.stat().st_mtime, reverse=True)
    return []


def all_records() -> list[Record]:
    """Every broker that labkit started and that was not removed yet."""
    return [record for folder in folders() if (record := load(folder)) is not None]


def ports() -> set[int]:
    """The ports of all brokers that labkit started; one that is stopped needs them again."""
    return {port for record in all_records() for port in record.details.get("ports", {}).values()}


@contextlib.contextmanager
def locked(timeout_wall_s: float = LOCK_TIMEOUT_WALL_S) -> Iterator[None]:
    """Holds the lock that guards starting and ending shared brokers.

    The system lets go of it when its holder dies, however that happens: the file may stay, and
    means nothing by itself.

    Raises:
        BrokerError: another process holds it for too long, or the folder can't be written.
    """
    import filelock

    lock: BaseFileLock = filelock.FileLock(home() / "lock", poll_interval=0.05)
    try:
        while not lock.is_locked:
            make_folder(home())
            # Whoever held the lock last may have tidied the folder away.
            with contextlib.suppress(FileNotFoundError):
                lock.acquire(timeout=timeout_wall_s)
    except filelock.Timeout:
        raise BrokerError(
            "Another process has been starting a broker for too long.",
            f"{home() / 'lock'} has been held for {timeout_wall_s:g} s",
            "see with `labkit broker status` what it does; `labkit broker stop` ends it",
        ) from None
    except OSError as exc:
        raise BrokerError(
            "labkit can't lock its folder.",
            f"{home()}: {exc.strerror or exc}",
            "set LABKIT_HOME to a folder of yours on a local disk",
        ) from exc
    try:
        yield
    finally:
        try:
            tidy()  # after a failed start, too
        finally:
            lock.release()


def tidy() -> None:
    """Removes the lock and the folders where no broker is left; for the lock's holder alone.

    A process that waits for the lock meanwhile sees that the file is gone and makes a new one.
    """
    with contextlib.suppress(OSError):
        (home() / "brokers").rmdir()
    if not (home() / "brokers").exists():
        with contextlib.suppress(OSError):
            (home() / "lock").unlink()
            home().rmdir()


def forget(record: Record) -> None:
    """Removes a broker's folder with everything in it."""
    with contextlib.suppress(OSError):
        (record.folder / "record.json").unlink()
    for _ in range(5):  # a process may put its lease there meanwhile
        shutil.rmtree(record.folder, ignore_errors=True)
        if not record.folder.exists():
            break
    with contextlib.suppress(OSError):
        record.folder.parent.rmdir()


def take_lease(record: Record) -> Path:
    """Notes that this process uses the broker, until it ends; gives the lease's file.

    Raises:
        FileNotFoundError: the broker has been removed.
    """
    me = Owner.me()
    path = record.folder / "leases" / me.label
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write(path, asdict(me))
    return path


def live_leases(record: Record) -> list[Owner]:
    """The processes that use the broker; the leases of dead ones are removed."""
    alive: list[Owner] = []
    for path in (record.folder / "leases").glob("[0-9]*"):
        try:
            owner = Owner(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if owner.alive():
            alive.append(owner)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return alive
