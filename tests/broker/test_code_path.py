"""Where a broker looks for its code."""

import os
import shutil
import subprocess

import pytest
import requests

from labkit.broker import code_path
from labkit.broker.container import CODE_FOLDER
from labkit.broker.node import PLUGINS
from tests.conftest import give_up


def folders_of(broker) -> list[str]:
    """The names of the folders that RabbitMQ takes its plugins from."""
    if broker.kind == "node":
        return os.listdir(broker.record.folder / "code")
    with broker._container() as container:
        return container.exec_run(["ls", CODE_FOLDER]).output.decode().split()


def test_a_broker_has_the_plugins_of_the_course_before_it_and_no_others(broker):
    if broker.kind not in ("node", "container"):
        pytest.skip("the shared broker was not started by labkit")
    found = {name.rpartition("-")[0] for name in folders_of(broker)}
    assert found >= {"rabbit", *PLUGINS, "rabbitmq_management_agent"}
    assert {name for name in found if name.startswith("rabbitmq_")} == {
        *PLUGINS,
        "rabbitmq_management_agent",
        "rabbitmq_web_dispatch",
    }
    page = requests.get(broker.management_url, timeout=10)
    assert page.ok
    assert "RabbitMQ Management" in page.text


@pytest.mark.kind("node")
def test_where_it_does_not_find_what_it_expects_it_leaves_all_as_it_is(tmp_path):
    if not (erl := shutil.which("erl")):
        give_up("There is no erl command.")
    show = 'io:format("~p", [{os:getenv("RABBITMQ_PLUGINS_DIR"), code:get_path()}]), halt().'
    outputs = [
        subprocess.run(
            [erl, "-noinput", "-eval", show], env=os.environ | env, check=True, capture_output=True
        ).stdout
        for env in ({}, code_path.flags(str(tmp_path / "code"), PLUGINS))
    ]
    assert outputs[0] == outputs[1] != b""
    assert not (tmp_path / "code").exists()
