"""Notebook 00's exercise."""

from __future__ import annotations

from labkit.exercises import start_here


def test_total_wait_tells_right_from_wrong(prove):
    prove(
        start_here.total_wait,
        source="00-start-here",
        answer="total_wait",
        wrong=[
            ("return max(parts_s)", "the longest part"),
            ("return len(parts_s)", "how many parts"),
            ("return parts_s[0]", "one part alone"),
            ("sum(parts_s)", "does not return"),
            ("return sum(part_s)", "NameError"),
        ],
    )
