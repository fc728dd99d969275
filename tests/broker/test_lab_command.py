"""`labkit lab`: JupyterLab and the broker behind it start and end together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import lab_command
from labkit.broker import records
from labkit.errors import LabError

#: Stands for JupyterLab: says that it runs, and ends in good order on SIGTERM.
SERVER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving", flush=True)
signal.pause()
"""
#: Tests that run in the background of a shell have SIGINT ignored, and so would this.
RUN = f"""
import signal, sys
from labkit.lab_command import run
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run([sys.executable, "-c", {SERVER!r}]))
"""
#: The signal comes when JupyterLab has just been started, and before this is known.
RUN_AND_END = f"""
import os, signal, subprocess, sys
from labkit.lab_command import run
command, popen = [sys.executable, "-c", {SERVER!r}], subprocess.Popen

def popen_and_end(started, **options):
    process = popen(started, **options)
    if started == command:
        os.kill(os.getpid(), signal.SIGTERM)
    return process

subprocess.Popen = popen_and_end
sys.exit(run(command))
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "00-start-here.ipynb"
    path.touch()
    return path


def start(**environment: str) -> subprocess.Popen[str]:
    """A `labkit lab` whose JupyterLab serves."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if line.strip() == "serving":
            return process
    pytest.fail(f"It ended before it served: {''.join(said)}")


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """Ends it by a signal; gives what it said at the end."""
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return rest


def brokers(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[records.Record]:
    with monkeypatch.context() as patch:
        patch.setenv("LABKIT_HOME", str(home))
        return records.all_records()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_broker_that_somebody_else_uses_stays(broker, number):
    assert "has ended" not in end(start(), number)
    assert broker.answers()


def test_a_signal_while_jupyterlab_starts_leaves_no_jupyterlab_behind(broker):
    # Which would hold the pipe open, so that this never ends.
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_END], stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "JupyterLab starts" in done.stdout


def test_the_broker_that_it_started_ends_with_it_unless_another_one_uses_it(
    broker, tmp_path, monkeypatch
):
    if broker.kind not in ("container", "node"):
        pytest.skip("labkit starts no broker here: one is given")
    home = tmp_path / "home"
    first, second = start(LABKIT_HOME=str(home)), start(LABKIT_HOME=str(home))
    assert "has ended" not in end(first)
    assert len(brokers(home, monkeypatch)) == 1
    assert "has ended" in end(second)
    assert brokers(home, monkeypatch) == []
    assert not home.exists()


def test_it_opens_the_notebook_and_shows_its_folder_alone(notebook):
    command = lab_command.jupyter_command(notebook, ["--port", "8899"])
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={notebook.parent}" in command
    assert "--LabApp.default_url=/lab/tree/00-start-here.ipynb" in command
    assert command[-2:] == ["--port", "8899"]


def test_a_notebook_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LabError, match=r"no notebook 99-none\.ipynb"):
        lab_command.jupyter_command(tmp_path / "99-none.ipynb")


def test_no_browser_is_opened_where_there_is_no_screen(notebook, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert not lab_command.can_open_browser({})
    assert lab_command.can_open_browser({"DISPLAY": ":0"})
    assert lab_command.can_open_browser({"WAYLAND_DISPLAY": "wayland-0"})
    assert "--no-browser" in lab_command.jupyter_command(notebook, browser=False)
    assert "--no-browser" not in lab_command.jupyter_command(notebook, browser=True)


def test_root_is_allowed_and_nobody_else_is_asked(notebook, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--allow-root" in lab_command.jupyter_command(notebook)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--allow-root" not in lab_command.jupyter_command(notebook)
