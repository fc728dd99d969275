"""The course as a learner sees it: JupyterLab in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
#: One that has every kind of output. The others are drawn by the same means, and that all pictures
#: have words is seen in their files (tools/inspection.py); a page takes ten seconds of a core.
COLOURFUL = "04-obvious-version.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(NOTEBOOKS, home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_*"))
    # Draw every cell at once, not when it comes into view.
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token=test",
                f"--ServerApp.root_dir={home / 'notebooks'}",
                f"--LabApp.user_settings_dir={home / 'settings'}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (found := list((home / "runtime").glob("jpserver-*.json"))):
            assert server.poll() is None, (home / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "JupyterLab did not start"
            time.sleep(0.1)
        yield json.loads(found[0].read_text())["url"]
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        message = "Chromium is not installed (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    yield page
    page.close()


def open_notebook(page: Page, address: str, name: str) -> None:
    page.goto(f"{address}lab/tree/{name}?token=test&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator("[data-status=idle]").first.wait_for()


def test_a_notebook_opens_with_its_title_and_its_pictures_have_words(page, jupyterlab):
    open_notebook(page, jupyterlab, COLOURFUL)
    expect(page.locator(".jp-Notebook h1").first).to_be_visible()
    stored = json.loads((NOTEBOOKS / COLOURFUL).read_text())
    pictures = [
        output
        for cell in stored["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    expect(page.locator(".jp-Notebook .jp-OutputArea img")).to_have_count(len(pictures))
    for picture in pictures:
        words = picture["metadata"]["image/png"]["alt"]
        # JupyterLab puts no `alt` on a PNG; the words stand beside it, for screen readers.
        expect(page.locator(".jp-OutputArea p", has_text=words)).not_to_have_count(0)


def choose(page: Page, menu: str, entry: str) -> None:
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()


def begin_all(page: Page) -> None:
    """Runs all cells; JupyterLab forgets it where it is still connecting to the kernel."""
    first = page.locator(".jp-CodeCell .jp-InputArea-prompt").first
    for _ in range(12):
        choose(page, "Run", "Run All Cells")
        with contextlib.suppress(AssertionError):
            expect(first).to_have_text(re.compile(r"\[(\d+|\*)\]:"), timeout=5_000)
            return
    pytest.fail("the first cell does not begin to run")


def test_a_learner_runs_the_first_notebook_from_top_to_bottom(page, jupyterlab, broker):
    open_notebook(page, jupyterlab, "00-start-here.ipynb")
    choose(page, "Edit", "Clear Outputs of All Cells")
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    expect(prompts.last).to_have_text("[ ]:")
    begin_all(page)
    expect(prompts.last).to_have_text(re.compile(r"\[\d+\]:"))
    for trouble in ("stderr", "error"):
        seen = page.locator(f"[data-mime-type='application/vnd.jupyter.{trouble}']")
        assert seen.count() == 0, seen.all_inner_texts()
