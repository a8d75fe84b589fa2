"""Actions on containers where the engine is absent, dead, silent or talks nonsense: a clear message, in time."""

import time
from pathlib import Path
from typing import Any

import pytest

from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.container import prune_volumes, restart, top
from tests.fakes import docker_engine
from tests.remediation.rehearsal import Rehearsal


def refused(path: Path, action: Any = restart.ACTION, **given: Any) -> ActionError:
    """What the plan of an action is refused with."""
    with pytest.raises(ActionError) as error:
        Rehearsal(action, given or {"container": "web"}, Tools(Roots(docker_socket=path))).plan()
    return error.value


def test_no_engine_is_unsupported(tmp_path: Path) -> None:
    """The message says which socket was looked for."""
    error = refused(tmp_path / "docker.sock")

    assert (error.reason, str(error)) == ("unsupported", f"no Docker Engine: {tmp_path}/docker.sock is not there")


def test_a_dead_engine_is_told(tmp_path: Path) -> None:
    """Its socket is there and nobody listens."""
    docker_engine.refusing(tmp_path / "docker.sock")

    assert "nothing listens on the socket: is the engine running?" in str(refused(tmp_path / "docker.sock"))


def test_a_hanging_engine_is_given_up(tmp_path: Path) -> None:
    """Within the time for one answer."""
    started = time.monotonic()
    with docker_engine.silent(tmp_path / "docker.sock"):
        error = refused(tmp_path / "docker.sock")

    assert "no answer in time: the engine hangs" in str(error)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [{"not": "a list"}, b"\xff\xfe", docker_engine.says(b"SSH-2.0\r\n")])
def test_nonsense_is_told_as_such(tmp_path: Path, answer: Any) -> None:
    """An answer of the wrong shape is no crash."""
    with docker_engine.serve(tmp_path / "docker.sock", {"/containers/json": answer}):
        assert refused(tmp_path / "docker.sock").reason == "failed"


@pytest.mark.parametrize("entry", [None, 5, {}, {"Id": "../../x"}, {"Id": "a" * 64, "Names": 7, "Labels": [1]}])
def test_listed_nonsense_selects_nothing(tmp_path: Path, entry: Any) -> None:
    """Entries that are no containers are as if they weren't there; an id that is none goes into no path."""
    with docker_engine.serve(tmp_path / "docker.sock", {"/containers/json": [entry]}) as asked:
        assert refused(tmp_path / "docker.sock").reason == "not_found"
    assert not [path for path in asked if ".." in path]


def test_an_engine_without_the_sizes_keeps_volumes(tmp_path: Path) -> None:
    """A volume of which the engine tells neither size nor users is taken to hold data and to be in use."""
    volume = {"Name": "v", "CreatedAt": "2020-01-01T00:00:00Z", "Mountpoint": "relative"}
    routes = {"/system/df": {"Volumes": [volume, None]}}
    with docker_engine.serve(tmp_path / "docker.sock", routes):
        plan = Rehearsal(prune_volumes.ACTION, {}, Tools(Roots(docker_socket=tmp_path / "docker.sock"))).plan()

    assert plan.changes == ()


def test_reading_needs_no_container(tmp_path: Path) -> None:
    """A host without containers has an empty table."""
    with docker_engine.serve(tmp_path / "docker.sock", {"/containers/json": []}):
        plan = Rehearsal(top.ACTION, {}, Tools(Roots(docker_socket=tmp_path / "docker.sock"))).plan()

    assert plan.summary == "0 containers run with 0 MiB and 0 % of a CPU in all"
