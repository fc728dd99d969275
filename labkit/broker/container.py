"""RabbitMQ in a container of the local Docker engine, by testcontainers."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from labkit.broker import address, code_path, engine, records
from labkit.broker.local import LocalBroker
from labkit.broker.node import BUSY_WAIT, LOG_LEVEL, PERMIT_TRANSIENT, PLUGINS, STATISTICS_MS
from labkit.broker.processes import telling
from labkit.errors import BrokerError

DEFAULT_IMAGE = "rabbitmq:4.3-management"
AMQP_PORT, PAGE_PORT = 5672, 15672
PLUGINS_FILE, CODE_FOLDER = "/tmp/enabled_plugins", "/tmp/labkit-code"


def chosen_image() -> str:
    """The image that `LABKIT_IMAGE` asks for, else the course's own."""
    return os.environ.get("LABKIT_IMAGE") or DEFAULT_IMAGE


class ContainerBroker(LocalBroker):
    """A container; see `LocalBroker`. Its ports are fixed, so that its URL survives a restart."""

    kind: ClassVar[str] = "container"

    @classmethod
    def create(cls, shared: bool, image: str | None = None) -> Self:
        """Starts a new container and returns when RabbitMQ answers in it.

        Raises:
            BrokerError: no Docker engine answers, the image can't be had, or it does not come up.
        """
        image = image or chosen_image()
        with engine.client():  # before anything is written: is there a Docker at all?
            pass
        amqp, page = address.free_ports(2, records.ports())
        record = records.new("container", shared, image)
        password = secrets.token_urlsafe(18)
        record.url = f"amqp://labkit:{password}@{address.LOOPBACK}:{amqp}/%2F"
        record.management_url = f"http://{address.LOOPBACK}:{page}"
        record.details = {"ports": {"amqp": amqp, "page": page}}
        record.save()
        broker = cls(record)
        try:
            broker.boot()
        except BaseException:
            broker.remove()
            raise
        return broker

    @contextlib.contextmanager
    def _container(self) -> Iterator[Any]:
        """The container, or None where it was removed."""
        with engine.client() as docker:
            found = engine.find(docker, **{engine.LABEL: self.record.id})
            yield found[0] if found else None

    def _alive(self) -> bool:
        with self._container() as container:
            return container is not None and container.status == "running"

    def _boot(self) -> None:
        import docker.errors

        with self._container() as container:
            self._need_ports()
            if container is not None:
                container.start()
                return
        self._pull()
        try:
            self._create()
        except docker.errors.APIError as exc:
            raise BrokerError(
                "Docker can't start the container.",
                str(exc.explanation or exc),
                "see `docker ps -a` and `docker info`",
            ) from exc

    def _pull(self) -> None:
        """Fetches the image where it is not there yet; that may take minutes, once."""
        import docker.errors
        import requests

        image = self.record.image
        with engine.client() as docker_engine:
            try:
                try:
                    docker_engine.images.get(image)
                except docker.errors.ImageNotFound:
                    docker_engine.images.pull(image)
            except (docker.errors.DockerException, requests.RequestException) as exc:
                raise BrokerError(
                    "The broker's image is not there and can't be pulled.",
                    f"{image}: {getattr(exc, 'explanation', None) or exc}",
                    [
                        f"docker pull {image}",
                        "or set LABKIT_IMAGE to an image of RabbitMQ with its management page",
                    ],
                ) from exc

    def _create(self) -> None:
        from testcontainers.community.rabbitmq import RabbitMqContainer
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        # labkit ends its containers itself, by a keeper process; Ryuk is one more image to pull.
        testcontainers_config.ryuk_disabled = True
        if found := engine.find_socket():
            os.environ.setdefault("DOCKER_HOST", found)
        parts = address.parse(self.record.url)
        ports = self.record.details["ports"]
        container = RabbitMqContainer(
            self.record.image, AMQP_PORT, parts.user, parts.password, parts.vhost
        )
        container.with_env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            f"-rabbit collect_statistics_interval {STATISTICS_MS} {PERMIT_TRANSIENT}",
        )
        container.with_env("RABBITMQ_LOG", LOG_LEVEL)
        container.with_env("RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD", BUSY_WAIT)
        # The server writes this list before it loads them, into a file that its user may write: the
        # image's own is root's. The command line tool would take seconds more.
        container.with_env("RABBITMQ_ENABLED_PLUGINS", ",".join(PLUGINS))
        container.with_env("RABBITMQ_ENABLED_PLUGINS_FILE", PLUGINS_FILE)
        container.with_envs(**code_path.flags(CODE_FOLDER, PLUGINS))
        # A port without an address would be published on every address of the machine.
        published: Any = {
            AMQP_PORT: (address.LOOPBACK, ports["amqp"]),
            PAGE_PORT: (address.LOOPBACK, ports["page"]),
        }
        container.ports = published
        owner = f"{getpass.getuser()} {self.record.owner.label}"
        container.with_kwargs(
            hostname=f"labkit-{self.record.id}",
            labels={
                engine.LABEL: self.record.id,
                "labkit.owner": owner,
                "labkit.home": self.record.home,
            },
        )
        with contextlib.closing(container.get_docker_client().client):
            # Its own start() asks for readiness once a second; `_wait_until_ready` is faster.
            DockerContainer.start(container)

    def _check_alive(self) -> None:
        with self._container() as container:
            if container is None or container.status in ("exited", "dead"):
                raise BrokerError(
                    "The container ended while RabbitMQ started in it.",
                    f"in its log:\n{telling(engine.log(container) if container else '(gone)')}",
                    f"try `docker run --rm {self.record.image}` by itself",
                )

    def _log(self) -> str:
        with self._container() as container:
            return engine.log(container) if container else "(gone)"

    def _halt(self) -> None:
        with self._container() as container:
            if container is not None:
                container.stop(timeout=20)

    def _kill(self) -> None:
        import docker.errors

        with self._container() as container:
            if container is not None:
                with contextlib.suppress(docker.errors.APIError):  # it does not run
                    container.kill()
                container.wait(timeout=20)

    def _clear(self) -> None:
        import docker.errors

        with self._container() as container:
            if container is not None:
                with contextlib.suppress(docker.errors.NotFound):
                    container.remove(force=True, v=True)
