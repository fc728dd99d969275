"""Makes the course's Python environment from requirements.lock; nothing to do where it is there.

    python3 tools/bootstrap.py [FOLDER]     FOLDER is .venv, or an active conda environment

Needs nothing but Python's standard library, 3.11 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
BACKEND_LOCK = "tools/build-backend.lock"
#: What the environment was made from, written when all of it is there.
STAMP = "labkit-setup.json"
#: There while an environment is being made: one that was interrupted is thrown away.
UNFINISHED = "labkit-setup.unfinished"


def say(text: str) -> None:
    """Tells the person at the terminal what is going on."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets one set-up at a time into this folder; the system lets go when its holder ends."""
    # The lock file of the requirements is there in every copy, and stays in place while a
    # virtual environment is thrown away. Opened for writing, since NFS locks nothing else.
    with open(ROOT / LOCK, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is under way here; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(path: str) -> str:
    """A file's content in short."""
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()


def wanted(python: Path) -> dict[str, str]:
    """What the environment is made from. By content: a checkout changes every file's time."""
    version = [python, "-c", "import sys; print(sys.version)"]
    return {
        "python": subprocess.run(
            version, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "packages": digest(LOCK) + digest(BACKEND_LOCK),
        "labkit": digest("pyproject.toml"),
        "place": str(ROOT),  # scripts and the editable install hold it
    }


def found(folder: Path) -> dict[str, str]:
    """What the environment says that it was made from; empty where it says nothing."""
    try:
        content = json.loads((folder / STAMP).read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def works(python: Path) -> bool:
    """Whether the environment's Python still runs: the one that it was made from may be gone."""
    command = [python, "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip(python: Path, *arguments: str) -> None:
    """Runs pip in the environment, under the user's own configuration of pip."""
    settings = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_USER": "0",
    }
    command = [str(python), "-m", "pip", "install", "-qq", *arguments]
    subprocess.run(
        command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, env=os.environ | settings
    )


def install_packages(python: Path) -> None:
    """Installs the locked packages, each checked against its hashes."""
    say("installing the locked packages (about a minute, once)")
    # pip compiles one file after another; compileall uses all cores.
    pip(python, "--require-hashes", "--no-compile", "-r", LOCK, "-r", BACKEND_LOCK)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    # Some packages ship templates that are no Python; whatever can't be compiled is left out.
    subprocess.run([python, "-m", "compileall", "-qq", "-j", "0", packages.stdout.strip()])


def install_labkit(python: Path) -> None:
    """Installs labkit from this folder, editable; needs no network."""
    pip(python, "--no-deps", "--no-build-isolation", "--editable", ".")


def make(folder: Path) -> None:
    """Makes the environment, or brings it up to date."""
    python = folder / "bin" / "python"
    ours = not (folder / "conda-meta").exists()
    unfinished = folder / UNFINISHED
    if ours and (unfinished.exists() or not works(python)):
        if folder.exists():
            say(f"{folder} is broken or unfinished; making it anew")
            shutil.rmtree(folder)
        say(f"making {folder} with Python {sys.version.split()[0]}")
        folder.mkdir(parents=True)
        unfinished.touch()
        # The interpreter itself, not a virtual environment's that may be active now.
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    before, now = found(folder), wanted(python)
    if before == now:
        return
    (folder / STAMP).unlink(missing_ok=True)
    if any(before.get(key) != now[key] for key in ("python", "packages")):
        install_packages(python)
    install_labkit(python)
    unfinished.unlink(missing_ok=True)
    (folder / STAMP).write_text(json.dumps(now, indent=1) + "\n")


def main() -> int:
    """Runs the command; gives its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default=".venv")
    folder = ROOT / parser.parse_args().folder
    python = folder / "bin" / "python"
    started = time.monotonic()
    # Quick where nothing is to do: no lock, and one look at the environment.
    if works(python) and not (folder / UNFINISHED).exists() and found(folder) == wanted(python):
        return 0
    try:
        with alone():
            make(folder)
    except subprocess.CalledProcessError as exc:
        say(f"the environment in {folder} could not be made.")
        print(
            f"  Seen:  exit status {exc.returncode} of {' '.join(map(str, exc.cmd[2:5]))}",
            file=sys.stderr,
        )
        print("  To do: see the lines above; is the package index reachable?", file=sys.stderr)
        print(
            "  To do: run the same command again; `make clean` first starts from nothing",
            file=sys.stderr,
        )
        return 1
    say(f"the environment is ready ({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
