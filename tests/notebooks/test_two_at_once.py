"""One notebook, opened twice, shares the broker with itself, and does not disturb itself.

Nothing could be more alike: the same names of queues, at the same time. That different notebooks
stand each other, the suite shows anyway, which runs them side by side.
"""

from __future__ import annotations

import subprocess

from tools.execution import nbval_command, nbval_environment
from tools.sources import NOTEBOOKS

NAME = "02-first-queue"


def begin() -> subprocess.Popen[str]:
    return subprocess.Popen(
        nbval_command(f"{NAME}.ipynb", "--nbval"),
        cwd=NOTEBOOKS,
        env=nbval_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_both_claim_holds_while_the_other_runs(broker):
    running = [begin(), begin()]
    printed = [process.communicate(timeout=280)[0] for process in running]
    for process, text in zip(running, printed, strict=True):
        assert process.returncode == 0, text[-6000:]
