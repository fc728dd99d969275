"""Predictions and exercises as a learner meets them."""

from __future__ import annotations

import threading
import time

import pytest

from labkit import checks
from labkit.background import Background
from labkit.checks import Exercise, NotAttempted, NotYet, Verdict, predict
from labkit.errors import BrokerError, InputError, LabError

OPTIONS = {"a": "the sum of the parts", "b": "the longest part"}


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("LABKIT_REQUIRE_CORRECT", raising=False)


# --- predictions -----------------------------------------------------------------------------


def test_a_question_without_an_answer_lists_the_options_and_goes_on(capsys):
    predict("How long does the customer wait?", OPTIONS)
    assert capsys.readouterr().out.splitlines() == [
        "How long does the customer wait?",
        "  a  the sum of the parts",
        "  b  the longest part",
        'No prediction yet: set answer to "a" or "b". Going on.',
    ]


@pytest.mark.parametrize("answer", ["b", "B", " b "])
def test_a_prediction_is_repeated_in_words(capsys, answer):
    assert predict("How long?", OPTIONS, answer).answer == "b"
    assert "Your prediction: b, the longest part\n" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["z", "the sum", 3, "", True])
def test_an_answer_that_is_no_option_is_told_the_options(capsys, answer):
    assert predict("How long?", OPTIONS, answer).answer is None
    assert f'There is no option {answer!r}: set answer to "a" or "b".' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("a", "You predicted a: it held."),
        ("b", "You predicted b, the longest part: it did not hold."),
        (None, "You made no prediction."),
    ],
)
def test_revealing_says_what_was_measured_and_whether_the_prediction_held(capsys, answer, told):
    guess = predict("How long?", OPTIONS, answer)
    capsys.readouterr()
    guess.reveal("a", because="each call waits for the one before\nand the last answers")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Measured: a, the sum of the parts"
    assert lines[1:3] == ["  each call waits for the one before", "  and the last answers"]
    assert lines[3].startswith(told)


def test_an_outcome_that_is_no_option_is_the_authors_mistake():
    with pytest.raises(InputError, match='"a" or "b"'):
        predict("How long?", OPTIONS).reveal("c")


# --- three verdicts --------------------------------------------------------------------------


def is_double(function, of=2):
    seen = function(of)
    if seen != 2 * of:
        raise NotYet(f"double({of}) gives {seen}", f"{2 * of}", "the factor")


double = Exercise(
    "double",
    is_double,
    hints=["A nudge.", "More than a nudge.", "Multiply\nby two."],
    solution="""
        twice = 2 * x
        return twice
    """,
    learned="Twice is two times.",
)


@pytest.mark.parametrize("answer", [None, ...])
def test_no_answer_is_no_attempt(capsys, answer):
    assert double.check(answer) is Verdict.NOT_ATTEMPTED
    assert capsys.readouterr().out.startswith("double: not attempted.\n  Write your code in place")


def test_an_untouched_stub_is_no_attempt():
    def stub(x):
        raise NotImplementedError

    assert double.judge(stub).verdict is Verdict.NOT_ATTEMPTED


def test_a_right_answer_is_correct_and_says_what_it_shows(capsys):
    assert double.check(lambda x: 2 * x) is Verdict.CORRECT
    assert capsys.readouterr().out == "double: correct.\n  Twice is two times.\n"


def test_a_wrong_answer_is_told_what_was_seen_what_was_expected_and_a_likely_cause(capsys):
    assert double.check(lambda x: 3 * x) is Verdict.NOT_YET
    assert capsys.readouterr().out.splitlines() == [
        "double: not yet.",
        "  double(2) gives 6",
        "  Expected: 4",
        "  Likely:   the factor",
        "  Stuck? hint() gives a nudge, solution() one way to do it.",
    ]


def test_long_words_stay_inside_the_notebook_and_under_their_label(capsys):
    def check(answer):
        raise NotYet("seen " * 30, cause="because " * 20)

    Exercise("long", check).check(1)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 92
    assert [line for line in lines if "because" in line][1].startswith("            because")


def test_what_the_notebook_gives_besides_reaches_the_check():
    assert "double(5) gives 15" in double.judge(lambda x: 3 * x, of=5).message


def test_a_check_may_find_that_nothing_was_attempted():
    def check(answer):
        raise NotAttempted("There is no queue of that name yet.")

    judgement = Exercise("declare", check).judge("a_queue")
    assert judgement.verdict is Verdict.NOT_ATTEMPTED
    assert judgement.message == "There is no queue of that name yet."


def test_a_subclass_may_bring_its_own_check():
    class Positive(Exercise):
        def _check(self, answer, **given):
            if answer <= 0:
                raise NotYet(f"{answer} is not above 0")

    assert Positive("positive").judge(1).verdict is Verdict.CORRECT
    assert Positive("positive").judge(-1).verdict is Verdict.NOT_YET


# --- whatever a learner's code does ----------------------------------------------------------


def test_an_exception_in_the_learners_code_is_named_with_its_line():
    def broken(x):
        orders = {}
        return orders["amount"]

    judgement = double.judge(broken)
    assert judgement.verdict is Verdict.NOT_YET
    assert "Your code raised KeyError: 'amount'" in judgement.message
    assert 'of your cell: return orders["amount"]' in judgement.message
    assert "Traceback" not in judgement.message
    assert len(judgement.message.splitlines()) == 2


def test_the_line_is_the_learners_where_a_library_raises_for_it():
    import json

    def broken(x):
        return json.loads("no json")

    assert 'of your cell: return json.loads("no json")' in double.judge(broken).message


def test_an_exception_that_a_service_wrapped_is_traced_to_the_learners_line():
    def handler(_stop):
        raise KeyError("amount")

    def run(function):
        with Background("payment", function) as service:
            service.join(5)
            service.raise_if_failed()

    message = Exercise("handler", run).judge(handler).message
    assert "Your code raised KeyError: 'amount'" in message


def test_a_learners_class_is_looked_at_like_a_function():
    class Consumer:
        def start_consuming(self):
            raise NotImplementedError

    class Crashing(Consumer):
        def start_consuming(self):
            raise RuntimeError("no channel")

    exercise = Exercise("consumer", lambda answer: answer().start_consuming())
    assert exercise.judge(Consumer).verdict is Verdict.NOT_ATTEMPTED
    assert "RuntimeError: no channel" in exercise.judge(Crashing).message


def test_an_answer_of_the_wrong_kind_is_not_yet_and_no_traceback():
    judgement = double.judge(7)
    assert judgement.verdict is Verdict.NOT_YET
    assert judgement.message.startswith("The check can't use your answer, 7: TypeError")


def test_code_that_never_returns_is_given_up_and_ended():
    def forever(x):
        while True:
            time.sleep(0.001)

    exercise = Exercise("forever", is_double, limit_wall_s=0.1)
    judgement = exercise.judge(forever)
    assert judgement.verdict is Verdict.NOT_YET
    assert "Your code was still running after 0.1 s." in judgement.message
    assert "restart the kernel" not in judgement.message
    assert not [t for t in threading.enumerate() if t.name == "check-forever"]


def test_code_that_cant_be_interrupted_is_said_to_go_on(monkeypatch):
    monkeypatch.setattr(checks, "_INTERRUPT_WALL_S", 0.1)
    release = threading.Event()
    exercise = Exercise("stuck", lambda answer: answer(), limit_wall_s=0.05)
    judgement = exercise.judge(lambda: release.wait(30))
    release.set()
    assert "It is still running: restart the kernel" in judgement.message


def test_without_a_limit_the_check_runs_in_the_callers_thread():
    seen = []
    exercise = Exercise("here", lambda answer: seen.append(answer()), limit_wall_s=None)
    exercise.check(threading.current_thread)
    assert seen == [threading.current_thread()]


def test_a_missing_broker_is_nobodys_wrong_answer():
    def check(answer):
        raise BrokerError("No broker answers.", "connection refused", "start one")

    with pytest.raises(BrokerError, match="connection refused"):
        Exercise("queue", check).check("a_queue")


# --- required to be correct ------------------------------------------------------------------


def test_where_it_must_be_correct_anything_else_raises(monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_REQUIRE_CORRECT", "1")
    assert double.check(lambda x: 2 * x) is Verdict.CORRECT
    for answer in (None, lambda x: 3 * x):
        with pytest.raises(LabError, match="The exercise double is not solved"):
            double.check(answer)
    assert "double: not yet" in capsys.readouterr().out


# --- hints and the solution ------------------------------------------------------------------


def test_hints_come_one_after_another_and_the_last_one_stays(capsys):
    exercise = Exercise("double", is_double, hints=["A nudge.", "Multiply\nby two."])
    for _ in range(3):
        exercise.hint()
    last = ["Hint 2 of 2: Multiply", "             by two."]
    end = ["That is the last hint. solution() shows one way to do it."]
    assert capsys.readouterr().out.splitlines() == ["Hint 1 of 2: A nudge.", *2 * (last + end)]


def test_a_hint_can_be_asked_for_by_its_number(capsys):
    double.hint(2)
    double.hint(9)
    Exercise("bare").hint()
    assert capsys.readouterr().out.splitlines() == [
        "Hint 2 of 3: More than a nudge.",
        "double has hints 1 to 3.",
        "bare has no hints.",
    ]


def test_the_solution_is_shown_flush_left(capsys):
    double.solution()
    assert capsys.readouterr().out == "twice = 2 * x\nreturn twice\n"


def test_in_a_notebook_a_verdict_shows_nothing_besides_what_was_printed(capsys):
    """A cell's last line is often a check; its value would say the same a second time."""
    from IPython.core.formatters import DisplayFormatter

    shown = DisplayFormatter().format
    assert shown(double.check(None)) == ({}, {})
    assert shown(predict("How long?", OPTIONS)) == ({}, {})
    assert repr(double) == "<exercise double: check(...), hint(), solution()>"
