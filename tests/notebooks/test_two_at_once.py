"""Two notebooks open side by side share the broker, and do not disturb each other."""

from __future__ import annotations

import subprocess

import pytest

from tools.execution import nbval_command, nbval_environment
from tools.sources import NOTEBOOKS

PAIRS = [
    ("00-start-here", "00-start-here"),  # one notebook, opened twice
    ("02-first-queue", "03-decoupled-orders"),
]


def begin(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        nbval_command(f"{name}.ipynb", "--nbval"),
        cwd=NOTEBOOKS,
        env=nbval_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_what_both_claim_holds_while_the_other_runs(pair, broker):
    running = [begin(name) for name in pair]
    printed = [process.communicate(timeout=280)[0] for process in running]
    for process, text in zip(running, printed, strict=True):
        assert process.returncode == 0, text[-6000:]
