"""Where an installed RabbitMQ is found: the layouts of Debian, Homebrew and conda, made up."""

import os
import sys

import pytest

from labkit.broker import node
from labkit.errors import BrokerError


def script(path, to=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if to is None:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    else:
        path.symlink_to(to)
    return path


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A machine with nothing installed but what a test puts into its folder."""
    (tmp_path / "venv").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: node.Path(p).is_relative_to(tmp_path) and access(p, mode)
    )


def test_conda_has_it_below_lib_and_its_command_is_a_wrapper(tmp_path, monkeypatch):
    conda = tmp_path / "conda"
    real = script(conda / "lib/rabbitmq/sbin/rabbitmq-server")
    wrapper = script(conda / "lib/rabbitmq/sbin/rabbitmq-script-wrapper")
    script(conda / "bin/rabbitmq-server", to=wrapper)
    monkeypatch.setenv("CONDA_PREFIX", str(conda))
    assert node.find_server() == real
    assert node.search_path(real).split(os.pathsep)[0] == str(conda / "bin")


def test_what_is_on_the_path_is_taken_unless_it_is_debians_wrapper(tmp_path):
    wrapper = script(tmp_path / "lib/rabbitmq-script-wrapper")
    on_path = script(tmp_path / "path/rabbitmq-server", to=wrapper)
    assert node.find_server() is None
    on_path.unlink()
    assert node.find_server() is None
    script(on_path)
    assert node.find_server() == on_path
    assert node.search_path(on_path).split(os.pathsep)[0] == str(tmp_path / "path")


def test_where_it_is_not_installed_each_way_to_install_it_is_named():
    with pytest.raises(BrokerError) as caught:
        node.require_server()
    for way in ("apt-get install", "brew install", "conda install"):
        assert way in str(caught.value)
