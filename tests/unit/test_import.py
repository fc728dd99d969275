"""`import labkit`: it starts nothing, loads little, and has every public name at hand."""

import json
import os
import subprocess
import sys

import pytest

import labkit

#: What takes long to load, and is for those who draw, measure, publish or serve.
HEAVY = {"docker", "flask", "matplotlib", "numpy", "pandas", "pika", "requests", "testcontainers"}
IMPORT = """
import json, sys, threading
before = set(threading.enumerate())
import labkit
loaded = set(sys.modules)

def started():
    import psutil
    threads = [t.name for t in threading.enumerate() if t not in before]
    return threads + [p.name() for p in psutil.Process().children(recursive=True)]
"""
LOADED = f"""{IMPORT}
top = sorted({{name.partition(".")[0] for name in loaded}})
print(json.dumps([top, started()]))
"""
#: Asks for each name as the first to do so: what an earlier one brings along does not help it.
REACHED = f"""{IMPORT}
at_once = dict(vars(labkit))

def find(name):
    return at_once[name] if name in at_once else labkit.__getattr__(name)

names = {{*dir(labkit), *labkit._WHERE.values()}}
docs = {{name: find(name).__doc__ for name in names}}
print(json.dumps([docs, started()]))
"""


@pytest.fixture
def ran(tmp_path):
    """Runs code in a process of its own, which must leave no folder; what it prints as JSON."""

    def run(code):
        home = tmp_path / "home"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"LABKIT_HOME": str(home)},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert not home.exists()
        return json.loads(done.stdout)

    return run


def test_it_starts_nothing_and_loads_nothing_that_takes_long(ran):
    modules, started = ran(LOADED)
    assert "labkit" in modules
    assert HEAVY.isdisjoint(modules)
    assert started == []


def test_every_public_name_and_its_module_is_reached_by_itself_and_documented(ran):
    docs, started = ran(REACHED)
    assert set(labkit.__all__) | {"plots", "probe", "shop"} <= set(docs)
    assert [name for name, doc in docs.items() if not doc] == []
    assert started == []


def test_a_name_that_is_not_there_is_told_as_python_tells_it():
    with pytest.raises(AttributeError, match=r"'labkit' has no attribute 'no_such'"):
        _ = labkit.no_such
