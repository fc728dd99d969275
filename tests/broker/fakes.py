"""Small TCP servers that stand where a broker should be, and processes that stand for kernels."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator


def greeting(version: str, product: str = "RabbitMQ") -> bytes:
    """The first frame that a broker of this version sends (AMQP 0-9-1, connection.start)."""

    def long_string(text: str) -> bytes:
        return struct.pack(">I", len(text)) + text.encode()

    table = b""
    for name, value in {"product": product, "version": version}.items():
        table += bytes([len(name)]) + name.encode() + b"S" + long_string(value)
    payload = b"\x00\x0a\x00\x0a\x00\x09" + struct.pack(">I", len(table)) + table
    payload += long_string("PLAIN") + long_string("en_US")
    return b"\x01\x00\x00" + struct.pack(">I", len(payload)) + payload + b"\xce"


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Listens and sends `answer` to each client; with None it never says anything. Gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            with contextlib.ExitStack() as open_ones:
                while not stop.is_set():
                    try:
                        client, _ = listener.accept()
                    except TimeoutError:
                        continue
                    open_ones.enter_context(client)
                    if answer is not None:
                        client.recv(8)
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def kernel(code: str, **env: str) -> Iterator[subprocess.Popen]:
    """Runs Python in another process, as a notebook's kernel is one; killed at the end."""
    environment = {**os.environ, **env}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def eventually(condition, within_wall_s: float = 30.0, what: str = ""):
    """Waits until the condition holds; what it gave then.

    Many a condition asks the broker, on a connection of its own. So it is looked at for a third of
    the time at most: whoever waits must not keep the cores from what is waited for.
    """
    deadline = time.monotonic() + within_wall_s
    while True:
        begun = time.monotonic()
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {within_wall_s:g} s: {what or condition}"
        time.sleep(max(0.01, 2 * (time.monotonic() - begun)))
