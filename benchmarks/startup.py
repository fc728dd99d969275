"""How long a learner waits for labkit itself: import, connect, a broker of one's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.figures import ROUNDS, Figure, median_of, spread
from labkit.broker import address
from labkit.broker.greeting import greet

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def _fresh_process(code: str) -> float:
    """What a fresh Python prints as its last word, in seconds."""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])


def import_labkit() -> Figure:
    """`import labkit`, in a fresh process."""
    code = "import time; t = time.perf_counter(); import labkit; print(time.perf_counter() - t)"
    seconds, note = median_of(lambda: _fresh_process(code))
    return Figure("import labkit", seconds, 0.3, unit="s", note=note)


def connect() -> Figure:
    """`labkit.connect()` to the broker that runs, in a fresh process."""
    code = (
        "import time, labkit; t = time.perf_counter(); labkit.connect(); "
        "print(time.perf_counter() - t)"
    )
    seconds, note = median_of(lambda: _fresh_process(code))
    return Figure("connect() to a broker that runs", seconds, 0.3, unit="s", note=note)


def broker_start() -> Figure:
    """`labkit broker start` against a bare rabbitmq-server, until AMQP answers."""
    ours: list[float] = []
    bare: list[float] = []
    for n in range(ROUNDS):
        # Each goes first in turn, since the other leaves a disk that is busy for a moment.
        for measure in (bare, ours) if n % 2 else (ours, bare):
            measure.append(_bare_server() if measure is bare else _labkit_start())
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    note = (
        f"{spread(ratios)}; labkit {statistics.median(ours):.2f} s, "
        f"bare {statistics.median(bare):.2f} s"
    )
    name = "labkit broker start / bare rabbitmq-server until it answers"
    return Figure(name, statistics.median(ratios), 1.15, note=note)


def _labkit_start() -> float:
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"LABKIT_HOME": home, "LABKIT_BROKER": "node"}
        command = [str(Path(sys.executable).parent / "labkit"), "broker"]
        start = time.perf_counter()
        subprocess.run([*command, "start"], check=True, env=environment, capture_output=True)
        seconds = time.perf_counter() - start
        subprocess.run([*command, "stop"], check=True, env=environment, capture_output=True)
        return seconds


def _bare_server() -> float:
    """Starts the server with nothing around it, in a folder of its own."""
    found = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin:" + os.environ["PATH"])
    if found is None:
        raise SystemExit("bench: rabbitmq-server is not installed; `make test` would install it")
    ports = address.free_ports(3)
    with tempfile.TemporaryDirectory() as home:
        config = Path(home) / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{ports[0]}\n")
        plugins = Path(home) / "enabled_plugins"
        plugins.write_text("[].\n")
        environment = os.environ | {
            "HOME": home,
            "ERL_EPMD_PORT": str(ports[1]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": "bare@localhost",
            "RABBITMQ_DIST_PORT": str(ports[2]),
            "RABBITMQ_MNESIA_BASE": home,
            "RABBITMQ_LOG_BASE": home,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_PID_FILE": f"{home}/pid",
        }
        target = address.parse(f"amqp://guest:guest@127.0.0.1:{ports[0]}/")
        start = time.perf_counter()
        server = subprocess.Popen(
            [found],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                greet(target, 1.0)
                break
            except OSError:
                time.sleep(0.02)
        seconds = time.perf_counter() - start
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        _stop_epmd(ports[1])
        return seconds


def _stop_epmd(port: int) -> None:
    """The port mapper that the bare server has started outlives it, unless it is ended."""
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):  # it may end meanwhile
            ours = process.info["name"] == "epmd"
            if ours and process.environ().get("ERL_EPMD_PORT") == str(port):
                process.kill()


def notebooks(first: str, last: str, target: float) -> Figure:
    """The notebooks with these numbers under nbval, two at a time, with the broker running.

    Two cores have time for two: half of a notebook's time it waits for a clock.

    Args:
        first: the number of the first, such as `00`.
        last: the number of the last.
        target: how many real seconds they may take together.
    """
    files = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if first <= path.name[:2] <= last]
    found = [path.name[:2] for path in files]
    if first not in found or last not in found:
        raise SystemExit(f"bench: of notebooks {first} to {last} there are {found or 'none'}")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadscope"]
    start = time.perf_counter()
    result = subprocess.run(
        [*command, "--nbval", "--nbval-current-env", *map(str, files)],
        env=os.environ | {"LABKIT_SPEED": "10"},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if result.returncode:
        raise SystemExit(f"bench: the notebooks fail\n{result.stdout[-3000:]}")
    name = f"notebooks {first} to {last} under nbval, two at a time, speed 10"
    return Figure(name, seconds, target, unit="s")
