"""A private RabbitMQ node: the installed `rabbitmq-server`, with a folder and ports of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from labkit.broker import address, code_path, processes, records
from labkit.broker.local import LocalBroker
from labkit.broker.processes import MARK
from labkit.broker.records import Owner
from labkit.errors import BrokerError

if TYPE_CHECKING:
    import psutil

STOP_TIMEOUT_WALL_S = 20.0
#: How often the node counts what its management page shows, in milliseconds (RabbitMQ's: 5000).
STATISTICS_MS = 1000
#: How long the broker's threads look for work before they sleep; RabbitMQ's own is `none`. With
#: this it is ready in half of the time on a virtual machine, where waking a thread is dear, and
#: needs less of the processor for it; at rest it takes 1 % of a core for half of one (measured).
BUSY_WAIT = "very_short"
#: What the server writes into its log: five lines for each connection that comes and goes, and
#: twelve for a virtual host, cost it a fifth of what they are about, in a container two fifths.
LOG_LEVEL = "warning"
#: What labkit's own brokers load: the management page, and the exchange that parts by customer.
PLUGINS = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange")
#: For the server's command line: from 4.3 on it makes queues that are neither durable nor exclusive
#: only where that is permitted; notebook 05 shows what becomes of them.
#: https://www.rabbitmq.com/docs/deprecated-features
PERMIT_TRANSIENT = "-rabbit permit_deprecated_features #{transient_nonexcl_queues=>true}"

HOW_TO_INSTALL = [
    "Debian and Ubuntu: sudo apt-get install rabbitmq-server",
    "macOS: brew install rabbitmq",
    "conda: conda install -c conda-forge rabbitmq-server",
]


def find_server() -> Path | None:
    """The script that starts RabbitMQ as any user, else None.

    Debian's own command on the PATH is a wrapper that drops its arguments and refuses ordinary
    users; what it calls does neither.
    """
    folders: list[str | Path] = []
    for prefix in _environments():  # conda's, where it is active, goes before the system's
        folders += [*prefix.glob("lib/rabbitmq*/**/sbin"), prefix / "sbin", prefix / "bin"]
    folders.append("/usr/lib/rabbitmq/bin")  # Debian
    for brew in ("/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"):
        folders += [f"{brew}/opt/rabbitmq/sbin", f"{brew}/sbin"]
    on_path = shutil.which("rabbitmq-server")
    candidates = [Path(folder, "rabbitmq-server") for folder in folders]
    for script in [*candidates, *([Path(on_path)] if on_path else [])]:
        if script.resolve().name != "rabbitmq-script-wrapper" and os.access(script, os.X_OK):
            return script
    return None


def _environments() -> list[Path]:
    """The Python environment, and conda's if another one is active."""
    return [Path(p) for p in (sys.prefix, os.environ.get("CONDA_PREFIX")) if p]


def search_path(server: Path) -> str:
    """The PATH on which a server finds its own Erlang first, where it came with one."""
    own = [str(p / "bin") for p in _environments() if server.is_relative_to(p)]
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath), str(server.parent)])


def require_server() -> Path:
    """As `find_server`.

    Raises:
        BrokerError: RabbitMQ is not installed.
    """
    if os.name != "posix":
        raise BrokerError(
            "A private node needs a POSIX system.", f"this is {sys.platform}", "use Docker or WSL"
        )
    server = find_server()
    if server is None:
        raise BrokerError(
            "No rabbitmq-server is installed.",
            "none in the usual places of Debian, Homebrew and conda, nor on the PATH",
            HOW_TO_INSTALL,
        )
    return server


def _find_epmd(env: dict[str, str]) -> str | None:
    """Erlang's port mapper, which lies on the PATH or beside the emulator."""
    if found := shutil.which("epmd", path=env["PATH"]):
        return found
    if erl := shutil.which("erl", path=env["PATH"]):
        for root in Path(erl).resolve().parents[:2]:
            if beside := sorted(root.glob("erts-*/bin/epmd")):
                return str(beside[-1])
    return None


class NodeBroker(LocalBroker):
    """A private node; see `LocalBroker`."""

    kind: ClassVar[str] = "node"

    @classmethod
    def create(cls, shared: bool) -> Self:
        """Starts a new node and returns when it answers.

        Raises:
            BrokerError: RabbitMQ is not installed, or does not come up.
        """
        server = require_server()
        amqp, page, distribution, epmd = address.free_ports(4, records.ports())
        record = records.new("node", shared)
        password = secrets.token_urlsafe(18)
        record.url = f"amqp://labkit:{password}@{address.LOOPBACK}:{amqp}/%2F"
        record.management_url = f"http://{address.LOOPBACK}:{page}"
        record.details = {
            "server": str(server),
            "ports": {"amqp": amqp, "page": page, "distribution": distribution, "epmd": epmd},
        }
        record.save()
        broker = cls(record)
        try:
            broker._write_files(password)
            broker.boot()
        except BaseException:
            broker.remove()
            raise
        return broker

    def _write_files(self, password: str) -> None:
        ports = self.record.details["ports"]
        folder = self.record.folder
        (folder / "plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        lines = [
            f"listeners.tcp.1 = {address.LOOPBACK}:{ports['amqp']}",
            f"management.tcp.ip = {address.LOOPBACK}",
            f"management.tcp.port = {ports['page']}",
            "default_user = labkit",
            f"default_pass = {password}",
            f"collect_statistics_interval = {STATISTICS_MS}",
        ]
        config = folder / "rabbitmq.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")

    def _environment(self) -> dict[str, str]:
        folder, ports = self.record.folder, self.record.details["ports"]
        # What the caller set for another RabbitMQ must not reach this one.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        env["PATH"] = search_path(Path(self.record.details["server"]))
        own = {
            "CONF_ENV_FILE": "/dev/null",
            "NODENAME": f"labkit-{self.record.id}@localhost",
            "DIST_PORT": str(ports["distribution"]),
            "MNESIA_BASE": str(folder / "data"),
            "LOG_BASE": str(folder / "log"),
            "LOGS": "-",
            "ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "PID_FILE": str(folder / "pid"),
            "LOG": LOG_LEVEL,
            "SCHEDULER_BUSY_WAIT_THRESHOLD": BUSY_WAIT,
            # The port that nodes talk through listens everywhere otherwise.
            "SERVER_ADDITIONAL_ERL_ARGS": (
                f"-kernel inet_dist_use_interface {{127,0,0,1}} {PERMIT_TRANSIENT}"
            ),
        }
        env |= {f"RABBITMQ_{key}": value for key, value in own.items()}
        return env | {
            MARK: self.record.id,
            "HOME": str(folder),  # where the Erlang cookie goes
            "ERL_EPMD_PORT": str(ports["epmd"]),
            "ERL_EPMD_ADDRESS": address.LOOPBACK,
            **code_path.flags(str(folder / "code"), PLUGINS),
        }

    @property
    def log(self) -> Path:
        """What the node has written since it was made."""
        return self.record.folder / "node.log"

    def _boot(self) -> None:
        ports = self.record.details["ports"]
        if not self._fresh:
            processes.kill_marked(self.record.id)  # whatever an earlier crash has left
        self._need_ports()
        env = self._environment()
        folder = self.record.folder
        # RabbitMQ would start an epmd itself, which then outlives it.
        if epmd := _find_epmd(env):
            command = [epmd, "-port", str(ports["epmd"]), "-address", address.LOOPBACK]
            self.record.details["epmd"] = processes.launch(command, env, folder, self.log).pid
        node = processes.launch([self.record.details["server"]], env, folder, self.log)
        self.record.details["process"] = [node.pid, node.created]
        self.record.save()

    def _alive(self) -> bool:
        started = self.record.details.get("process")
        return started is not None and Owner(*started).alive()

    def _check_alive(self) -> None:
        if not self._alive():
            raise BrokerError(
                "The private node ended while it started.",
                f"in its log:\n{processes.telling(self._log())}",
                "see `labkit doctor`, or take a broker from Docker (LABKIT_BROKER=container)",
            )

    def _log(self) -> str:
        try:
            return self.log.read_text(errors="replace")
        except OSError:
            return "(no log)"

    def _halt(self) -> None:
        import psutil

        beams = [p for p in processes.marked(self.record.id) if _name(p).startswith("beam")]
        for beam in beams:
            with contextlib.suppress(psutil.Error):
                beam.terminate()  # RabbitMQ stops in good order on SIGTERM
        deadline = time.monotonic() + STOP_TIMEOUT_WALL_S
        while time.monotonic() < deadline and any(map(_runs, beams)):
            time.sleep(0.02)
        self._kill()  # epmd among them

    def _kill(self) -> None:
        processes.kill_marked(self.record.id)
        self._await_ports()

    def _clear(self) -> None:
        processes.kill_marked(self.record.id)


def _name(process: psutil.Process) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def _runs(process: psutil.Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
