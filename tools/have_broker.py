"""Says by its exit status whether this machine can give a broker, and fetches Docker's image.

0: `labkit.connect()` will find or start one. 1: nothing is here, so one has to be installed.
"""

from __future__ import annotations

import os
import subprocess
import sys

from labkit.broker import engine, node
from labkit.errors import BrokerError

IMAGE = os.environ.get("LABKIT_IMAGE") or "rabbitmq:4.3-management"


def image_is_here() -> bool:
    """Whether a Docker engine answers and has the image already.

    Raises:
        BrokerError: no engine answers.
    """
    import docker.errors

    with engine.client() as docker_engine:
        try:
            docker_engine.images.get(IMAGE)
        except docker.errors.ImageNotFound:
            return False
    return True


def pull() -> bool:
    """Fetches the image, with Docker's own progress on the terminal; False where it can't be had."""
    print(f"setup: fetching {IMAGE} (about 150 MB, once)", file=sys.stderr, flush=True)
    environment = dict(os.environ)
    if found := engine.find_socket():
        environment["DOCKER_HOST"] = found
    try:
        command = ["docker", "pull", "--quiet", IMAGE]
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=900)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def have_broker() -> bool:
    """Whether a broker can be had; what `LABKIT_BROKER` asks for is all that counts where set."""
    picked = os.environ.get("LABKIT_BROKER", "")
    if picked == "url" or (not picked and os.environ.get("LABKIT_AMQP_URL")):
        return True  # whether it answers is for labkit to say, with what to do about it
    try:
        docker_answers, image = True, image_is_here()
    except BrokerError:
        docker_answers, image = False, False
    if picked in ("compose", "container"):
        return docker_answers and (image or pull())
    installed = node.find_server() is not None
    if picked == "node":
        return installed
    # An image that has to be fetched comes after a server that is here.
    return image or installed or (docker_answers and pull())


if __name__ == "__main__":
    raise SystemExit(0 if have_broker() else 1)
