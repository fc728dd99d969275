"""The bench's command line; what it measures is no test's business."""

import pytest
from click.testing import CliRunner

from benchmarks import startup
from benchmarks.__main__ import MEASUREMENTS, RESULTS, main
from benchmarks.figures import Figure


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurements, so that none is taken, and tells which would have been."""
    names = []

    def stand_in(name):
        def measure(broker):
            names.append(name)
            return Figure(name, 1.0, 2.0)

        return measure

    for name in MEASUREMENTS:
        monkeypatch.setitem(MEASUREMENTS, name, stand_in(name))
    monkeypatch.setattr("labkit.connect", lambda: None)
    monkeypatch.setattr("labkit.broker.sharing.stop_shared", lambda only_idle: None)
    return names


def test_a_word_that_matches_nothing_is_answered_with_the_names(measured):
    result = CliRunner().invoke(main, ["--only", "speed of light"])
    assert result.exit_code == 2
    assert "speed of light" in result.output
    shown = " ".join(result.output.split())
    assert all(name in shown for name in MEASUREMENTS)
    assert measured == []


def test_a_word_picks_every_measurement_that_has_it_and_keeps_the_results(measured):
    before = RESULTS.read_bytes()
    result = CliRunner().invoke(main, ["--only", "restart"])
    assert result.exit_code == 0
    assert measured == ["restart-consumer", "restart-broker"]
    assert RESULTS.read_bytes() == before


def test_a_figure_that_falls_short_is_the_exit_status(measured, monkeypatch):
    monkeypatch.setitem(MEASUREMENTS, "import", lambda broker: Figure("import", 3.0, 2.0))
    result = CliRunner().invoke(main, ["--only", "import"])
    assert result.exit_code == 1
    assert "FALLS SHORT" in result.output


def test_notebooks_that_are_not_there_are_named():
    with pytest.raises(SystemExit, match="77 to 79"):
        startup.notebooks("77", "79", 1)
