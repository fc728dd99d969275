"""From an author's source to the notebooks."""

from __future__ import annotations

import nbformat
import pytest

from tools import build_notebooks
from tools.build_notebooks import build, check, main
from tools.execution import PORT_TAKEN, ExecutionError, once_more
from tools.sources import SourceError, notebook, read, sources

EXERCISE = '''\
# %% [markdown]
# # A title

# %% tags=["exercise"]
def double(x):
    """Twice x."""
    # BEGIN SOLUTION
    twice = 2 * x
    return twice
    # END SOLUTION


print("ready")
'''


@pytest.fixture
def write(tmp_path):
    """Writes a source and gives its path."""

    def write(text, name="90-example"):
        path = tmp_path / "sources" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "notebooks"


# --- solutions and stubs ---------------------------------------------------------------------


def test_a_learner_gets_a_stub_in_place_of_the_solution(write):
    cell = notebook(write(EXERCISE)).cells[1]
    assert cell.source.splitlines() == [
        "def double(x):",
        '    """Twice x."""',
        "    raise NotImplementedError",
        "",
        "",
        'print("ready")',
    ]
    assert cell.metadata.tags == ["exercise"]


def test_a_solved_notebook_has_the_solution_without_its_markers(write):
    text = notebook(write(EXERCISE), solved=True).cells[1].source
    assert "    twice = 2 * x\n    return twice\n" in text
    assert "SOLUTION" not in text


def test_a_stub_of_ones_own_replaces_the_solution_line_by_line(write):
    source = write(
        "# %%\nfor x in range(3):\n    # BEGIN SOLUTION\n    y = x\n    # STUB: # your turn\n"
        "    # STUB: if x:\n    # STUB:     pass\n    # END SOLUTION\n"
    )
    assert notebook(source).cells[0].source.splitlines() == [
        "for x in range(3):",
        "    # your turn",
        "    if x:",
        "        pass",
    ]
    assert notebook(source, solved=True).cells[0].source == "for x in range(3):\n    y = x"


def test_the_solution_reads_flush_left(write):
    assert read(write(EXERCISE))[1].solutions == ["twice = 2 * x\nreturn twice"]


def test_an_answer_takes_the_place_of_the_stub_at_its_depth(write):
    text = read(write(EXERCISE))[1].with_answer("if x:\n    return 1\nreturn 2")
    assert "    if x:\n        return 1\n    return 2\n" in text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("# BEGIN SOLUTION\nx = 1\n# STUB: x = ...\n", "without '# END SOLUTION'"),
        ("x = 1\n# END SOLUTION\n", "without '# BEGIN SOLUTION'"),
        ("# BEGIN SOLUTION\n# BEGIN SOLUTION\n", "begins inside another"),
        ("# BEGIN SOLUTION\n# STUB: x = ...\n# END SOLUTION\n", "the solution is empty"),
        ("# BEGIN SOLUTION\nx = 1\n# END SOLUTION\n", "needs a stub that can be run"),
    ],
)
def test_markers_that_make_no_sense_are_named_with_their_cell(write, code, reason):
    with pytest.raises(SourceError, match=reason) as caught:
        read(write("# %% [markdown]\n# # A title\n\n# %%\n" + code))
    assert str(caught.value).startswith("90-example.py, cell 2: ")


# --- stable notebooks ------------------------------------------------------------------------


def test_a_cell_keeps_its_id_when_another_is_put_before_it(write):
    before = notebook(write("# %%\na = 1\n\n# %%\nb = 2\n"))
    after = notebook(write("# %%\nnew = 0\n\n# %%\na = 1\n\n# %%\nb = 2\n"))
    assert [cell.id for cell in after.cells[1:]] == [cell.id for cell in before.cells]


def test_cells_of_the_same_text_have_ids_of_their_own(write):
    cells = notebook(write("# %%\na = 1\n\n# %%\na = 1\n")).cells
    assert cells[0].id != cells[1].id


def test_an_executed_notebook_counts_from_one_and_says_nothing_of_the_machine(write, folder):
    path = build(write(EXERCISE + "\n# %%\n1 + 1\n"), folder)
    stored = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2]
    assert stored.cells[1].outputs[0].text == "ready\n"
    assert dict(stored.metadata.language_info) == {"name": "python"}
    assert dict(stored.metadata.kernelspec) == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert check(write(EXERCISE + "\n# %%\n1 + 1\n"), folder) == []
    assert [p.name for p in folder.iterdir()] == ["90-example.ipynb"]


def test_building_twice_gives_the_same_bytes(write, folder):
    source = write(EXERCISE)
    first = build(source, folder).read_bytes()
    assert build(source, folder).read_bytes() == first


# --- failures leave what there is ------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "told", "limit"),
    [
        ("x = 1\nx / 0", ["cell 2 failed", "| x / 0", "----> 2 x / 0", "ZeroDivisionError"], 60),
        ("import time\ntime.sleep(60)", ["cell 2 failed", "still running after 1 s"], 1),
        ("import os\nos._exit(1)", ["cell 2 failed", "the kernel died"], 60),
        ("import sys\nprint('hm', file=sys.stderr)", ["cell 2", "writes to stderr"], 60),
        ("import os\nos.getcwd()", ["cell 2", "path of this machine"], 60),
    ],
)
def test_a_cell_that_fails_is_shown_and_the_notebook_stays(write, folder, code, told, limit):
    folder.mkdir()
    there = folder / "90-example.ipynb"
    there.write_text("what was there")
    with pytest.raises(ExecutionError) as caught:
        build(write(f"# %% [markdown]\n# # T\n\n# %%\n{code}\n"), folder, cell_timeout_wall_s=limit)
    assert all(text in str(caught.value) for text in told), str(caught.value)
    assert len(str(caught.value).splitlines()) < 12
    assert there.read_text() == "what was there"
    assert list(folder.iterdir()) == [there]


@pytest.mark.parametrize(
    ("failures", "told", "starts"),
    [
        ([PORT_TAKEN], "started", 2),
        ([PORT_TAKEN, PORT_TAKEN], PORT_TAKEN, 2),
        (["no such kernel"], "no such kernel", 1),
    ],
)
def test_a_kernel_that_finds_a_port_taken_is_started_once_more(failures, told, starts):
    begun = []

    @once_more
    def start(name):
        begun.append(name)
        if len(begun) <= len(failures):
            raise RuntimeError(failures[len(begun) - 1])
        return "started"

    try:
        found = start("python3")
    except RuntimeError as exc:
        found = str(exc)
    assert (found, begun) == (told, ["python3"] * starts)


def test_a_solved_build_requires_the_checks_to_say_correct(write, folder):
    source = write(
        "# %%\nfrom labkit.exercises import start_here as exercises\n\n"
        "# %%\n# BEGIN SOLUTION\nanswer = max\n# STUB: answer = None\n# END SOLUTION\n"
        "exercises.total_wait.check(answer)\n"
    )
    assert "not attempted" in build(source, folder).read_text()
    with pytest.raises(ExecutionError, match="total-wait is not solved"):
        build(source, folder / "solved", solved=True)


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def course(write, folder, monkeypatch):
    """A course of one notebook, not executed, for the command to work on."""
    source = write(EXERCISE)
    monkeypatch.setattr(build_notebooks, "NOTEBOOKS", folder)
    monkeypatch.setattr(
        build_notebooks, "sources", lambda names: sources(names, folder=source.parent)
    )
    monkeypatch.setattr(build_notebooks, "check", lambda source: check(source, folder))
    return source


def test_check_names_a_notebook_that_is_not_built(course, capsys):
    assert main(["--check"]) == 1
    assert "90-example.ipynb: is not built" in capsys.readouterr().out


def test_check_names_a_cell_that_has_changed_since_the_build(course, folder, capsys):
    assert main(["90", "--no-execute"]) == 0
    course.write_text(EXERCISE.replace("ready", "steady"))
    assert main(["--check"]) == 1
    out = capsys.readouterr().out
    assert "cell 2 is not what its source builds" in out
    assert "execution count is null" in out


def test_a_change_of_prose_keeps_the_outputs(course, folder):
    assert main(["90-example"]) == 0
    course.write_text(EXERCISE.replace("A title", "A better title"))
    assert main(["90", "--no-execute"]) == 0
    stored = nbformat.read(folder / "90-example.ipynb", as_version=4)
    assert stored.cells[0].source == "# A better title"
    assert stored.cells[1].outputs[0].text == "ready\n"
    assert main(["--check"]) == 0


def test_an_unknown_name_is_answered_with_those_that_there_are(course, capsys):
    assert main(["17"]) == 1
    assert "No source is called '17'. There are: 90-example" in capsys.readouterr().out


def test_a_failing_build_exits_1_and_goes_on_with_the_others(course, write, folder, capsys):
    write("# %%\n1 / 0\n", name="80-broken")
    assert main([]) == 1
    out = capsys.readouterr().out
    assert "80-broken.py: not built" in out
    assert "built 90-example.ipynb" in out
