"""Setting up: which Python is taken, when nothing is to do, and what is said where nothing can be."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import bootstrap

ROOT = Path(__file__).resolve().parents[2]
#: What setup.sh calls, apart from package managers.
PROGRAMS = ("cat", "dirname", "id", "sh", "tr", "uname")


@pytest.fixture
def machine(tmp_path):
    """A copy of setup.sh on a machine that has nothing but `PROGRAMS`; gives how to run it."""
    folder = tmp_path / "course"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/setup.sh", folder / "tools")
    # The environment that it would make: here, what it says about itself.
    (folder / "tools/bootstrap.py").write_text(
        "import sys, os\n"
        "print('made by', os.path.basename(sys.argv[0]), 'in', sys.argv[1])\n"
        "os.makedirs(sys.argv[1] + '/bin', exist_ok=True)\n"
        "os.path.lexists(sys.argv[1] + '/bin/python') or"
        " os.symlink(sys.executable, sys.argv[1] + '/bin/python')\n"
    )
    (folder / "tools/have_broker.py").write_text("raise SystemExit(1)\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(shutil.which(name))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(programs), "HOME": str(tmp_path)} | environment
        command = ["sh", str(folder / "tools/setup.sh"), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    run.programs = programs
    run.folder = folder
    return run


def program(folder: Path, name: str, script: str) -> None:
    # What is there may be a link to the machine's own program: replace it, never write through.
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def real_python(folder: Path, name: str, mark: Path, profile: bool = True) -> None:
    """A Python of this name, with a profile or without, that notes that it was called to set up."""
    asked = f'case "$2" in *CONFIG_ARGS*) exit {int(not profile)};; esac'
    called = f'case "$1" in *bootstrap.py) echo {name} >{mark};; esac'
    program(folder, name, f'{asked}; {called}; exec {sys.executable} "$@"')


def test_a_shim_without_its_python_is_passed_over(machine, tmp_path):
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("python3.13", "python3.12", "python3"):
        program(shims, name, "echo 'command not found' >&2; exit 127")
    real_python(machine.programs, "python3.12", tmp_path / "taken")
    done = machine("--no-broker", PATH=f"{shims}:{machine.programs}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "taken").read_text().strip() == "python3.12"


def test_a_python_that_is_too_old_is_passed_over(machine, tmp_path):
    program(machine.programs, "python3.11", "exit 1")  # as the version check of a 3.10 does
    real_python(machine.programs, "python3", tmp_path / "taken")
    assert machine("--no-broker").returncode == 0
    assert (tmp_path / "taken").read_text().strip() == "python3"


def test_a_python_that_was_compiled_without_a_profile_is_the_last_choice(machine, tmp_path):
    real_python(machine.programs, "python3.12", tmp_path / "taken", profile=False)
    real_python(machine.programs, "python3.11", tmp_path / "taken")
    assert machine("--no-broker").returncode == 0
    assert (tmp_path / "taken").read_text().strip() == "python3.11"

    (machine.programs / "python3.11").unlink()
    shutil.rmtree(machine.folder / ".venv")
    assert machine("--no-broker").returncode == 0
    assert (tmp_path / "taken").read_text().strip() == "python3.12"  # better than none


def test_without_any_python_it_says_how_to_get_one(machine):
    done = machine("--no-broker")
    assert done.returncode == 1
    assert "No Python 3.11 or later was found." in done.stderr
    assert "conda env create -f environment.yml" in done.stderr


def test_a_python_named_by_hand_that_will_not_do_is_refused(machine):
    program(machine.programs, "python2", "exit 1")
    done = machine("--no-broker", PYTHON="python2")
    assert done.returncode == 1
    assert "PYTHON=python2" in done.stderr


def test_the_conda_environment_of_the_course_is_used_as_it_is(machine, tmp_path):
    prefix = tmp_path / "conda"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    ours = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": "message-queues"}
    assert f"in {prefix}" in machine("--no-broker", **ours).stdout
    assert not (machine.folder / ".venv").exists()


def test_another_conda_environment_keeps_its_packages(machine, tmp_path):
    prefix = tmp_path / "conda"
    (prefix / "bin").mkdir(parents=True)
    real_python(prefix / "bin", "python", tmp_path / "taken")
    base = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": "base"}
    assert "in .venv" in machine("--no-broker", **base).stdout
    assert (tmp_path / "taken").read_text().strip() == "python"


def test_where_no_broker_can_be_had_it_names_the_ways_to_get_one(machine, tmp_path):
    real_python(machine.programs, "python3", tmp_path / "taken")
    done = machine()
    assert done.returncode == 1
    ways = ("Docker", "rabbitmq-server", "conda env create", "LABKIT_AMQP_URL")
    assert [way for way in ways if way not in done.stderr] == []


def test_it_never_asks_for_a_password_where_nobody_can_type_one(machine, tmp_path):
    real_python(machine.programs, "python3", tmp_path / "taken")
    program(machine.programs, "id", "echo 1000")
    program(machine.programs, "apt-get", f": >{tmp_path}/apt")
    program(machine.programs, "sudo", f'[ "$1" = -n ] && exit 1; : >{tmp_path}/asked')
    assert machine().returncode == 1
    assert not (tmp_path / "asked").exists()
    assert not (tmp_path / "apt").exists()


# --- tools/bootstrap.py -------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course's folder whose packages take no time; gives what was installed, in order."""
    (tmp_path / "tools").mkdir()
    for name in (bootstrap.LOCK, bootstrap.BACKEND_LOCK, "pyproject.toml"):
        (tmp_path / name).write_text(name)
    installed: list[str] = []
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    monkeypatch.setattr(bootstrap, "install_packages", lambda _: installed.append("packages"))
    monkeypatch.setattr(bootstrap, "install_labkit", lambda _: installed.append("labkit"))
    # An environment without pip is made in no time.
    monkeypatch.setattr(bootstrap, "works", lambda python: python.exists())
    builder = bootstrap.venv.EnvBuilder
    monkeypatch.setattr(bootstrap.venv, "EnvBuilder", lambda **_: builder(symlinks=True))
    return installed


def test_the_second_time_nothing_is_to_do(course):
    assert bootstrap.main() == 0
    assert bootstrap.main() == 0
    assert course == ["packages", "labkit"]


def test_a_checkout_that_touches_every_file_changes_nothing(course, tmp_path):
    bootstrap.main()
    for name in (bootstrap.LOCK, "pyproject.toml"):
        os.utime(tmp_path / name)
    bootstrap.main()
    assert course == ["packages", "labkit"]


def test_other_locked_packages_are_installed(course, tmp_path):
    bootstrap.main()
    (tmp_path / bootstrap.LOCK).write_text("others")
    bootstrap.main()
    assert course == ["packages", "labkit"] * 2


def test_a_change_of_the_project_alone_needs_no_package(course, tmp_path):
    bootstrap.main()
    (tmp_path / "pyproject.toml").write_text("others")
    bootstrap.main()
    assert course == ["packages", "labkit", "labkit"]


def test_an_environment_that_was_interrupted_is_made_anew(course, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "install_labkit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.main()
    (tmp_path / ".venv/half-installed").touch()
    monkeypatch.setattr(bootstrap, "install_labkit", lambda _: course.append("labkit"))
    assert bootstrap.main() == 0
    assert not (tmp_path / ".venv/half-installed").exists()
    assert course == ["packages", "packages", "labkit"]


def test_an_environment_made_by_hand_is_brought_up_to_date_in_place(course, tmp_path):
    bootstrap.venv.EnvBuilder().create(tmp_path / ".venv")
    (tmp_path / ".venv/mine").touch()
    assert bootstrap.main() == 0
    assert (tmp_path / ".venv/mine").exists()
    assert course == ["packages", "labkit"]


def test_of_two_at_once_one_waits_and_finds_all_done(course, tmp_path):
    with open(tmp_path / bootstrap.LOCK) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        both = [threading.Thread(target=bootstrap.main) for _ in range(2)]
        for one in both:
            one.start()
        assert course == []
    for one in both:
        one.join(30)
    assert course == ["packages", "labkit"]


def test_a_failure_says_what_to_do_and_is_tried_again(course, monkeypatch, capsys):
    def fail(_):
        raise subprocess.CalledProcessError(1, ["python", "-m", "pip", "install", "-qq"])

    monkeypatch.setattr(bootstrap, "install_packages", fail)
    assert bootstrap.main() == 1
    assert "exit status 1 of pip install -qq" in capsys.readouterr().err
    monkeypatch.setattr(bootstrap, "install_packages", lambda _: course.append("packages"))
    assert bootstrap.main() == 0
    assert course == ["packages", "labkit"]
