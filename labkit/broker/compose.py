"""The broker of the repository's `docker-compose.yml`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from labkit.broker import address, engine
from labkit.broker.base import Broker
from labkit.broker.processes import telling
from labkit.errors import BrokerError

# As in docker-compose.yml. The password opens a broker that listens on loopback alone; whoever runs
# a RabbitMQ of their own on these ports has another user, so that it is not taken for this one.
PASSWORD = "labkit-compose"
SERVICE = "broker"
UP = "docker compose up -d --wait"


def url() -> str:
    """The AMQP URL of the Compose broker, whether it runs or not."""
    port = os.environ.get("LABKIT_COMPOSE_PORT") or "5672"
    return f"amqp://labkit:{PASSWORD}@{address.LOOPBACK}:{port}/%2F"


def page_url() -> str:
    """The address of its management page."""
    return f"http://{address.LOOPBACK}:{os.environ.get('LABKIT_COMPOSE_PAGE_PORT') or '15672'}"


def project() -> str:
    """The name under which Compose knows it."""
    return os.environ.get("COMPOSE_PROJECT_NAME") or "labkit"


class ComposeBroker(Broker):
    """The broker that `docker compose up` starts; labkit never removes it."""

    kind: ClassVar[str] = "compose"
    can_restart: ClassVar[bool] = True

    def __init__(self, version: str = "") -> None:
        super().__init__(url(), version, page_url())

    @contextlib.contextmanager
    def _container(self) -> Iterator[Any]:
        labels = {
            "com.docker.compose.project": project(),
            "com.docker.compose.service": SERVICE,
        }
        with engine.client() as docker:
            found = engine.find(docker, **labels)
            if not found:
                raise BrokerError(
                    "The Compose broker is not there.",
                    f"no container of project {project()!r}, service {SERVICE!r}",
                    f"{UP}, in the project's folder",
                )
            yield found[0]

    def start(self) -> Self:
        """Starts its container again; does nothing where it answers."""
        if self.answers(1.0):
            return self
        with self._container() as container:
            container.start()
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        """Stops its container in good order; its data stays in the volume."""
        with self._container() as container:
            container.stop(timeout=20)

    def kill(self) -> None:
        """Kills its container by SIGKILL, as a power cut would; its data stays in the volume."""
        import docker.errors

        with self._container() as container:
            with contextlib.suppress(docker.errors.APIError):  # it does not run
                container.kill()
            container.wait(timeout=20)

    def _check_alive(self) -> None:
        with self._container() as container:
            if container.status in ("exited", "dead"):
                raise BrokerError(
                    "The Compose broker ended while it started.",
                    f"in its log:\n{telling(engine.log(container))}",
                    "docker compose logs broker",
                )

    def _log(self) -> str:
        with self._container() as container:
            return engine.log(container)
