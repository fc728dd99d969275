"""The files that say what the course is made of agree with each other."""

import math
import re
import shutil
import struct
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import labkit
from labkit import cli
from labkit.broker.container import DEFAULT_IMAGE

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "tools/build-backend.lock")


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """What a lock file asks for, and the hashes of each."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        found.append((Requirement(requirement), [h.strip() for h in hashes]))
    return found


def pins(lock: str) -> dict[str, list[str]]:
    """The versions that a lock file pins, by name: more than one where Pythons differ."""
    versions: dict[str, list[str]] = {}
    for requirement, _ in entries(lock):
        (pin,) = requirement.specifier
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def unsatisfied(asked: list[str], pinned: dict[str, list[str]]) -> list[str]:
    """Those requirements for which the pins hold no version, or one that does not fit."""
    wrong = []
    for requirement in map(Requirement, asked):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if not versions or not all(requirement.specifier.contains(v) for v in versions):
            wrong.append(f"{requirement} against {versions or 'nothing'}")
    return wrong


def test_every_dependency_is_locked_at_a_version_that_fits(project):
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *(r for extra in extras.values() for r in extra)]
    assert unsatisfied(asked, pins("requirements.lock")) == []


def test_the_build_backend_is_locked_at_a_version_that_fits(project):
    assert unsatisfied(project["build-system"]["requires"], pins(LOCKS[1])) == []


def test_a_pin_that_does_not_fit_would_be_noticed():
    assert unsatisfied(["a>=2", "b", "c<1"], {"a": ["2.1"], "c": ["0.9", "1.0"]}) == [
        "b against nothing",
        "c<1 against ['0.9', '1.0']",
    ]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_is_pinned_and_has_hashes(lock):
    found = entries(lock)
    assert found
    for requirement, hashes in found:
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), str(requirement)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), str(requirement)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    options = {o for o in re.findall(r"(?<!\S)--?[a-z][\w-]*", text) if o != "--hash"}
    assert not options, "an option could name an index"


def test_the_locks_do_not_pin_one_package_twice():
    assert not pins(LOCKS[0]).keys() & pins(LOCKS[1]).keys()


def test_conda_gives_python_pip_and_a_broker_and_the_lock_gives_the_rest(conda):
    *packages, rest = conda["dependencies"]
    assert {re.split(r"[^\w-]", p)[0] for p in packages} == {"python", "pip", "rabbitmq-server"}
    assert rest == {"pip": ["-r requirements.lock"]}
    assert conda["channels"][0] == "conda-forge"


def test_conda_has_the_same_lowest_python(conda, project):
    (python,) = (p for p in conda["dependencies"] if str(p).startswith("python"))
    asked = SpecifierSet(project["project"]["requires-python"])
    given = SpecifierSet(python.removeprefix("python"))
    versions = [f"3.{minor}" for minor in range(8, 15)]
    assert [v for v in versions if v in given] == [v for v in versions if v in asked]


def test_make_and_setup_know_the_conda_environment_by_its_name(conda):
    for file in ("Makefile", "tools/setup.sh", "README.md"):
        assert conda["name"] in (ROOT / file).read_text(), file


def test_compose_and_labkit_start_the_same_image():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    image = compose["services"]["broker"]["image"]
    assert image in (DEFAULT_IMAGE, f"${{LABKIT_IMAGE:-{DEFAULT_IMAGE}}}")


def test_the_package_says_the_version_that_it_has(project):
    assert labkit.__version__ == project["project"]["version"]


def test_the_changelog_has_the_version(project):
    assert f"## {project['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_the_one_that_the_package_names(project):
    assert project["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_labkit_has_the_commands_that_make_calls():
    called = re.findall(r"/labkit (\w+)", (ROOT / "Makefile").read_text())
    assert called
    with cli.group.make_context("labkit", [], resilient_parsing=True) as context:
        assert set(called) <= set(cli.group.list_commands(context))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_every_command():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("lab", "test", "notebooks", "bench", "lint", "clean"):
        assert re.search(rf"^  {command} +\w", listed, re.MULTILINE), command


#: What GitHub adds to a heading's line, a table's row and a list's item, in pixels.
MARGINS = {"#": 22, "|": 13, "-": 4}


def text_px(markdown: str, characters: int) -> int:
    """About how high GitHub shows it: 24 px for each so many characters, 16 px below each block."""
    unseen = r"<img.*?>\s*|!\[.*?\]\(.*?\)\s*|\]\(.*?\)|^\|---.*\n|^```.*\n|[`*\[]"
    shown = re.sub(unseen, "", markdown, flags=re.MULTILINE).strip()
    lines = [line for line in shown.splitlines() if line]
    wrapped = sum(24 * math.ceil(len(line) / characters) for line in lines)
    margins = sum(MARGINS.get(line[0], 0) for line in lines)
    return wrapped + margins + 16 * len(re.split(r"\n{2,}", shown))


def test_the_readme_takes_a_screen_and_a_half_at_most():
    """As GitHub shows it, 980 px wide: the picture beside what is said above the broker.

    Chromium says 1,332 px where this says 1,322. A cell that wraps in a short row is not seen.
    """
    text = (ROOT / "README.md").read_text()
    beside, below = re.split("(?=## Where the broker)", text)
    across, down = struct.unpack(">II", (ROOT / "docs/side-by-side.png").read_bytes()[16:24])
    width = re.search(r'<img src="docs/side-by-side.png" align="right" width="(\d+)"', beside)
    picture_px = down * (int(width[1]) / across if width else 1)
    assert max(text_px(beside, 65), picture_px) + text_px(below, 118) <= 1.5 * 900
    assert len(re.findall(r"<img|!\[", text)) == 1
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link
