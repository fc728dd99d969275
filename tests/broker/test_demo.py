"""`labkit demo side-by-side`, as a visitor runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from labkit.cli import group
from labkit.errors import InputError


def labkit(*arguments, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "labkit.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


@pytest.fixture(scope="module")
def visit(broker, tmp_path_factory):
    """What the command prints, and the picture that it writes, for 8 customers at speed 5."""
    out = tmp_path_factory.mktemp("visit") / "picture.png"
    vhosts = {v["name"] for v in broker.admin.vhosts()} if broker.management_url else set()
    done = labkit(
        *("demo", "side-by-side", "--speed", "5", "--customers", "8", "--out", str(out)),
        COLUMNS="120",
    )
    assert done.returncode == 0, done.stderr
    left = {v["name"] for v in broker.admin.vhosts()} - vhosts if broker.management_url else set()
    return done.stdout, out, {name for name in left if "side-by-side" in name}


def row(printed, label):
    """The two cells of a row of the table."""
    (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {label}")]
    return [cell.strip() for cell in line.strip("│").split("│")[1:]]


def test_all_orders_are_accepted_and_done_in_both_flows(visit):
    printed, _, _ = visit
    assert row(printed, "orders accepted") == ["8", "8"]
    assert row(printed, "orders done") == ["8", "8"]
    assert row(printed, "what customers were told") == ["completed: 8", "received: 8"]
    assert row(printed, "what the audit finds wrong") == ["nothing", "nothing"]


def test_the_answer_comes_sooner_and_the_work_takes_no_less_than_it_takes(visit):
    printed, _, _ = visit
    for level in ("p50", "p95"):
        slow, fast = map(float, row(printed, f"the customer has an answer, {level}"))
        assert fast < slow
        assert slow >= 5
        done = row(printed, f"the order is done, {level}")
        assert all(float(cell) >= 5 for cell in done)  # payment 3 s, then shipping 2 s


def test_shop_seconds_and_real_milliseconds_fit_the_speed_and_are_named(visit):
    printed, _, _ = visit
    assert "5 shop seconds pass in one real second" in printed
    shop_s = [float(cell) for cell in row(printed, "the order is done, p50, shop seconds")]
    lines = [line for line in printed.splitlines() if "p50, real ms" in line]
    real_ms = [float(cell) for cell in re.findall(r"\d+", lines[1].split("ms")[1])]
    assert real_ms == pytest.approx([1000 * s / 5 for s in shop_s], rel=0.02)


def test_the_picture_is_a_png_of_a_width_that_a_page_shows(visit):
    _, out, _ = visit
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width == 800
    assert out.stat().st_size < 200_000


def test_a_progress_bar_runs_to_the_end(visit):
    printed, _, _ = visit
    assert printed.count("8/8 orders done") == 2


def test_nothing_is_left_on_the_broker(visit):
    assert visit[2] == set()


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("picture.jpg", "does not end in .png"),
        ("nowhere/picture.png", "in no folder that may be written"),
        ("a.png", "is a folder"),
    ],
)
def test_a_picture_that_can_not_be_written_is_refused_before_the_run(out, reason, tmp_path):
    (tmp_path / "a.png").mkdir()
    result = CliRunner().invoke(group, ["demo", "side-by-side", "--out", str(tmp_path / out)])
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)
    assert "--out" in str(result.exception)


def test_a_speed_of_zero_is_refused_with_what_to_do(tmp_path):
    done = labkit("demo", "side-by-side", "--speed", "0", "--out", str(tmp_path / "p.png"))
    assert done.returncode == 1
    assert done.stderr.startswith("labkit: Shop time can't run at this speed.")
    assert "To do:" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_broker_is_said_in_words_and_leaves_no_picture(tmp_path):
    out = tmp_path / "p.png"
    done = labkit(
        *("demo", "side-by-side", "--out", str(out)),
        LABKIT_AMQP_URL="amqp://127.0.0.1:1/",
        LABKIT_BROKER="",  # which would go before the URL
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "To do:" in done.stderr
    assert not Path(out).exists()
