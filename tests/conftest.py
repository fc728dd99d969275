"""What every test may use: a broker, a virtual host of its own, and the check that nothing is left.

The session has a labkit folder and a temporary folder of its own, which pytest-xdist's workers
and notebook kernels inherit by the environment. The shared broker is one for all of them; the
session ends it, then looks for whatever is left, and fails if anything is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import threading
import time
import zlib
from pathlib import Path

import psutil
import pytest

import labkit.broker
from labkit.broker import engine, records, sharing
from labkit.broker.discovery import find_running
from labkit.broker.vhost import MAX_CONNECTIONS, MAX_QUEUES
from labkit.errors import BrokerError, LabError

#: Keepers look twice a second; a broker of a dead owner takes a moment to end.
GONE_WITHIN_WALL_S = 20.0
#: What must be free in memory for the tests' files (they take a hundredth of it).
MEMORY_BYTES = 2 * 2**30
#: The folder of short tests, which fill the gaps at the end.
SHORT = "unit"
#: Modules whose tests all look at what one fixture has brought about, at a price.
TOGETHER = ("test_malformed.py", "test_jupyterlab.py", "test_demo.py")
ROOT = pytest.StashKey[Path]()
THREADS = pytest.StashKey[set[threading.Thread]]()
LEAKS = pytest.StashKey[list[str]]()
#: Whether a test had a broker with a management page, which can then be asked at the end, too.
HAD_PAGE = pytest.StashKey[bool]()


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[THREADS] = set(threading.enumerate())
    config.stash[LEAKS] = []
    config.stash[HAD_PAGE] = False
    config.pluginmanager.import_plugin("tools.execution")  # for whoever runs pytest without make
    if is_worker(config):
        return
    # What fails leaves its tmp_path there, as pytest says.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place_for_files())
    root = config.stash[ROOT] = Path(tempfile.mkdtemp(prefix="labkit-tests-"))
    os.environ["LABKIT_HOME"] = str(root / "home")
    os.environ["TMPDIR"] = str(root / "tmp")
    (root / "tmp").mkdir()
    tempfile.tempdir = None  # read TMPDIR again


def place_for_files() -> str:
    """Where `tmp_path` lies: in memory where Linux has such a folder with room, else as usual.

    Tests write a hundred thousand transactions, and kill processes, never the machine. Brokers
    and notebooks keep their files on the disk, as at a learner's.
    """
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES:
        return str(memory)
    return tempfile.gettempdir()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what says nothing about the chosen broker, and puts the rest in order.

    That is what starts a broker of another kind than the one that `LABKIT_BROKER` asks for; a run
    with that kind has it. A broker that a test may stop is a container where Compose's is the
    shared one.

    pytest-xdist hands tests out in this order: notebooks first, short tests last.

    A notebook measures, and most of its time it waits for a clock. So notebooks run beside each
    other, and not beside tests that keep the processors busy. In between all are well mixed, since
    neighbours in a file are alike, exercises in the first half: their tests wait for a clock, up to
    half a minute, and at the end nothing would be left for the processors meanwhile.
    """

    def place(item: pytest.Item) -> tuple[bool, bool, int]:
        folder, mixed = item.path.parent.name, zlib.crc32(_scope_of(item.nodeid).encode())
        early = folder == "exercises"
        return folder != "notebooks", folder == SHORT, mixed // 2 if early else mixed

    if chosen := os.environ.get("LABKIT_BROKER"):
        elsewhere = [item for item in items if says_nothing_about(chosen, item)]
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]
    items.sort(key=place)


def says_nothing_about(chosen: str, item: pytest.Item) -> bool:
    """Whether a test starts a broker of another kind than the chosen one."""
    if mark := item.get_closest_marker("kind"):
        return mark.args[0] != chosen
    # (A notebook's cell has no fixtures.)
    return chosen == "compose" and "stoppable_broker" in getattr(item, "fixturenames", ())


def pytest_collection_finish() -> None:
    """What has been imported by now stays; a collection that a fixture asks for need not look at it.

    It took a seventh of a second of processor time, and is asked for after each crash.
    """
    gc.collect()
    gc.freeze()


def _scope_of(nodeid: str) -> str:
    """What goes to one worker: a notebook, a module whose tests share one run, or a single test."""
    file = nodeid.split("::")[0].rpartition("/")[2]
    # A notebook's cells need one kernel, one after the other.
    together = file in TOGETHER or nodeid.startswith("notebooks/")
    return nodeid.rsplit("::", 1)[0] if together else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """What belongs together goes to one worker, any other test to whichever worker is free."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope_of(nodeid)

    return Scheduling(config, log)


def give_up(error: LabError, always_skip: bool = False) -> None:
    """A missing broker skips a test at home, and fails it in CI, where there must be one."""
    if os.environ.get("CI") and not always_skip:
        raise error
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(request):
    """The broker that all tests share."""
    try:
        found = labkit.broker.connect()
    except BrokerError as exc:
        give_up(exc)
    request.config.stash[HAD_PAGE] = found.management_url is not None
    return found


@pytest.fixture
def vhost(broker):
    """A virtual host for one test."""
    with broker.virtual_host("test") as made:
        yield made


@pytest.fixture(scope="session")
def stoppable_broker():
    """A broker of this worker alone. A start is dear, so its tests have it one after the other."""
    try:
        own = labkit.broker.own_broker()
    except BrokerError as exc:
        give_up(exc, always_skip=os.environ.get("LABKIT_BROKER") == "url")
    with own:
        yield own


@pytest.fixture
def own_broker(stoppable_broker):
    """A broker that a test may stop and kill; it runs, and has nothing in its virtual host `/`."""
    stoppable_broker.start()
    yield stoppable_broker
    stoppable_broker.start()
    stoppable_broker.admin.delete_vhost("/")
    stoppable_broker.admin.create_vhost("/", "for all", MAX_CONNECTIONS, MAX_QUEUES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    """pytest-xdist: a worker has ended, and says what its process had left."""
    output = getattr(node, "workeroutput", {})
    found = output.get("labkit_leaks", [])
    node.config.stash[LEAKS] += [f"{node.gateway.id}: {leak}" for leak in found]
    node.config.stash[HAD_PAGE] |= output.get("labkit_had_page", False)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session):
    result = yield  # with pytest-xdist, the workers have ended after this
    config = session.config
    if is_worker(config):
        config.workeroutput["labkit_leaks"] = leaked_threads(config.stash[THREADS])
        config.workeroutput["labkit_had_page"] = config.stash[HAD_PAGE]
        return result
    root = config.stash[ROOT]
    leaks = config.stash[LEAKS]
    leaks += leaked_threads(config.stash[THREADS])
    leaks += eventually_none(lambda: leaked_vhosts(config.stash[HAD_PAGE]))
    try:
        sharing.stop_shared()
        leaks += eventually_none(lambda: leaked_brokers() + leaked_processes(root / "home"))
    except LabError as exc:
        leaks.append(str(exc))
    leaks += leaked_containers(root / "home")
    leaks += [f"folder {path}" for path in (root / "tmp").glob("labkit*")]
    leaks += [f"folder {home}: {[f.name for f in home.iterdir()]}" for home in root.glob("home*")]
    shutil.rmtree(root, ignore_errors=True)
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return result


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    leaks = config.stash[LEAKS]
    if leaks:
        terminalreporter.section("left behind", red=True, bold=True)
        for leak in leaks:
            terminalreporter.line(leak)


def eventually_none(look) -> list[str]:
    """What `look` still finds when it has had time to go away."""
    deadline = time.monotonic() + GONE_WITHIN_WALL_S
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def leaked_threads(before: set[threading.Thread]) -> list[str]:
    """Threads of this process that did not run when the session began."""

    def look() -> list[str]:
        new = set(threading.enumerate()) - before
        # The workers' and the time-out's own threads end with the session, after this.
        others = ("execnet", "pytest", "ThreadPool", "Dummy")
        return [f"thread {t.name}" for t in new if not t.name.startswith(others) and t.is_alive()]

    return eventually_none(look)


def leaked_brokers() -> list[str]:
    return [f"broker {r.kind} {r.id} ({r.status})" for r in records.all_records()]


def leaked_processes(home: Path) -> list[str]:
    """Processes, of whatever parent, that were started with this session's folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            ours = process.environ().get("LABKIT_HOME", "").startswith(str(home))
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {process.pid} {' '.join(process.cmdline())[:100]}")
    return found


def leaked_containers(home: Path) -> list[str]:
    """Containers, running or not, of this session's folder or of one that a test had beside it."""
    try:
        with engine.client() as docker:
            carrying = {"label": "labkit.home"}
            # Other sessions' containers may go away meanwhile.
            found = docker.containers.list(all=True, filters=carrying, ignore_removed=True)
            ours = [c for c in found if c.labels["labkit.home"].startswith(str(home))]
            return [f"container {c.name}" for c in ours]
    except BrokerError:  # no Docker, no containers
        return []


def leaked_vhosts(had_page: bool) -> list[str]:
    """Virtual hosts that this session made on the broker that it shares.

    Args:
        had_page: whether that broker has been seen with its management page. One that can't be
            asked any more is then told like a leak.
    """
    try:
        running = find_running()
    except LabError:  # the broker that was chosen does not serve
        running = None
    if running is None or running.management_url is None:
        return ["virtual hosts, perhaps: the broker does not answer any more"] if had_page else []
    try:
        left = labkit.broker.vhost.owned(running.admin)
    except LabError as exc:
        return [f"virtual hosts, perhaps: {exc.failed} {exc.seen}"]
    return [f"virtual host {name}" for name, owner in left.items() if of_this_session(owner)]


def of_this_session(owner: records.Owner) -> bool:
    """Whether the owner is this process or has ended; another living one is somebody else's."""
    return owner.pid == os.getpid() or not owner.alive()
