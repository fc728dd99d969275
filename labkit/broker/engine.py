"""The Docker engine of this machine: whether it is there, and the containers in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import BrokerError

if TYPE_CHECKING:
    import docker

DEFAULT_SOCKET = "unix:///var/run/docker.sock" if os.name == "posix" else ""
LABEL = "labkit.broker"
LOG_LINES = 400


def find_socket() -> str | None:
    """What DOCKER_HOST should be where the engine is not at the usual address, else None."""
    if os.environ.get("DOCKER_HOST") or os.name != "posix" or Path("/var/run/docker.sock").exists():
        return None
    home, runtime = Path.home(), os.environ.get("XDG_RUNTIME_DIR", "/nowhere")
    for path in (
        home / ".docker/run/docker.sock",  # Docker Desktop
        home / ".docker/desktop/docker.sock",
        home / ".colima/default/docker.sock",
        home / ".orbstack/run/docker.sock",
        Path(runtime, "docker.sock"),  # rootless
    ):
        if path.exists():
            return f"unix://{path}"
    return None


def installed() -> bool:
    """Whether Docker is installed, running or not."""
    return bool(shutil.which("docker")) or Path("/Applications/Docker.app").exists()


@contextlib.contextmanager
def client() -> Iterator[docker.DockerClient]:
    """A connection to the engine, closed at the end.

    Raises:
        BrokerError: no engine answers; it says whether Docker is not installed, not running, or
            not allowed to this user.
    """
    environment = dict(os.environ)
    if found := find_socket():
        environment["DOCKER_HOST"] = found
    _knock(environment.get("DOCKER_HOST") or DEFAULT_SOCKET)
    import docker
    import docker.errors
    import requests

    try:
        engine = docker.from_env(environment=environment, timeout=60)
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as exc:
        raise _missing(exc) from exc
    try:
        try:
            engine.ping()
        except (docker.errors.DockerException, requests.RequestException, OSError) as exc:
            raise _missing(exc) from exc
        yield engine
    finally:
        engine.close()


def _knock(where: str) -> None:
    """Finds out at once, and without the Docker library, where nobody listens on a socket."""
    if not where.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(5.0)
        try:
            knock.connect(where.removeprefix("unix://"))
        except OSError as exc:
            raise _missing(exc) from exc


def _missing(exc: BaseException) -> BrokerError:
    where = os.environ.get("DOCKER_HOST") or "the usual sockets"
    if "Permission denied" in str(exc) or "PermissionError" in str(exc):
        return BrokerError(
            "Docker runs, but this user may not use it.",
            f"{where}: permission denied",
            "sudo usermod -aG docker $USER, then log in again",
        )
    if not installed():
        return BrokerError(
            "Docker is not installed.",
            f"no `docker` command, and no engine at {where}",
            "https://docs.docker.com/get-docker, or use a private node (rabbitmq-server)",
        )
    start = "open Docker Desktop" if sys.platform == "darwin" else "sudo systemctl start docker"
    return BrokerError(
        "Docker is installed but not running.",
        f"no engine answers at {where}",
        f"start it ({start}) and try again",
    )


def find(engine: docker.DockerClient, **labels: str) -> list[Any]:
    """The containers, running or not, that carry all of these labels."""
    wanted = [f"{key}={value}" for key, value in labels.items()]
    return list(engine.containers.list(all=True, filters={"label": wanted}, ignore_removed=True))


def log(container: Any) -> str:
    """What a container has written lately."""
    return str(container.logs(tail=LOG_LINES).decode(errors="replace"))
