"""Runs on real hosts with real agents, from the command line, with controllers that are killed in the middle."""

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet import BIN, Fleet
from tests.lab import Host

pytestmark = [pytest.mark.netns, pytest.mark.timeout(300)]

# Two files are put aside on every host, with a look before and after; what is planted does not belong there.
TIDY = """
apiVersion: fireline/v1
kind: Runbook
metadata: {name: tidy, version: 1, summary: Put two planted files aside}
params:
  first: {type: path, default: /srv/first, summary: one of them}
targets: {canary: 1, max_fail: 0}
steps:
  - id: evidence
    capture: volatile
    timeout: 60s
    on_failure: continue
  - id: look
    action: disk.usage
    with: {roots: [/srv]}
    timeout: 60s
  - id: first
    action: security.quarantine_file
    with: {path: "${params.first}"}
    timeout: 60s
  - id: second
    action: security.quarantine_file
    with: {path: /srv/second}
    timeout: 60s
    on_failure: rollback
finally:
  - id: after
    action: disk.usage
    with: {roots: [/srv]}
    timeout: 60s
"""
PLANTED = ("first", "second")
_RUN = [str(BIN / "fireline"), "runbook", "run", "tidy", "-t", "lab=yes", "--reason", "a test", "--jsonl"]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts, and a state folder with the runbook; every command is its own controller."""
    with Fleet(2, daemon=False) as made:
        (made.state / "runbooks").mkdir()
        (made.state / "runbooks" / "tidy.yaml").write_text(TIDY)
        yield made


@pytest.fixture
def planted(fleet: Fleet) -> Fleet:
    """The fleet with the planted files on each host."""
    for host in fleet.lab:
        for name in PLANTED:
            host.write(f"/srv/{name}", f"{name} on {host.name}".encode())
    return fleet


def _there(host: Host) -> list[str]:
    return [name for name in PLANTED if host.path(f"/srv/{name}").exists()]


def _env(fleet: Fleet) -> dict[str, str]:
    return {"FIRELINE_STATE": str(fleet.state), "PATH": "/usr/bin:/bin"}


def _run(fleet: Fleet, *more: str, status: int = 0) -> Any:
    return fleet.json("runbook", "run", "tidy", "-t", "lab=yes", "--reason", "a test", *more, status=status)


def test_a_run_is_planned_done_and_taken_back(planted: Fleet) -> None:
    """The plan says what would be done; the run does it; the rollback puts every file back where it was."""
    plan = planted.json("runbook", "run", "tidy", "-t", "lab=yes", "--plan")
    ended = _run(planted)
    gone = [_there(host) for host in planted.lab]
    taken_back = planted.json("runbook", "rollback", ended["run"], "--reason", "not planted after all")

    assert [(s["step"], s["risk"]) for s in plan["steps"]][1:3] == [("look", "read"), ("first", "reversible")]
    assert {e["outcome"] for s in plan["steps"] for e in s["effects"]} == {"ok"}
    assert (ended["state"], gone) == ("succeeded", [[], []])
    assert taken_back["state"] == "rolled_back"
    assert [_there(host) for host in planted.lab] == [list(PLANTED)] * 2


@pytest.mark.slow
def test_a_failed_step_takes_back_what_was_done_before(planted: Fleet) -> None:
    """The second file is not there on the canary: the first one comes back, and the other host is not touched."""
    first = next(iter(planted.lab))
    first.path("/srv/second").unlink()

    ended = _run(planted, status=1)

    assert ended["state"] == "rolled_back"
    assert [_there(host) for host in planted.lab] == [["first"], ["first", "second"]]


def _killed_at(fleet: Fleet, events: int) -> str:
    """Start a run, kill its controller when so many events were told; the run's id."""
    with subprocess.Popen(_RUN, stdout=subprocess.PIPE, text=True, env=_env(fleet)) as run:
        assert run.stdout is not None
        run_id, seen = "", 0
        for line in run.stdout:
            event = json.loads(line)
            run_id = event.get("run", run_id)
            seen += event["event"] in ("begun", "ended")
            if seen == events:
                run.kill()
    return run_id


@pytest.mark.slow
def test_an_interrupted_command_parks_its_run(planted: Fleet) -> None:
    """It says how to go on; what the hosts did meanwhile is heard of then."""
    with subprocess.Popen(_RUN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_env(planted)) as run:
        assert run.stdout is not None and run.stderr is not None
        run_id = next(event["run"] for event in map(json.loads, run.stdout) if event.get("run"))
        next(line for line in run.stdout if '"part": "plan"' in line)
        run.send_signal(signal.SIGINT)
        said = run.stderr.read()
    status = planted.json("runbook", "status", run_id)

    ended = planted.json("runbook", "resume", run_id)

    assert run.returncode == 130
    assert f"{run_id} is parked: go on with it: fireline runbook resume {run_id}" in said
    assert (status["state"], status["driven"]) == ("parked", False)
    assert (ended["state"], [_there(host) for host in planted.lab]) == ("succeeded", [[], []])


@pytest.mark.slow
@pytest.mark.parametrize("events", range(2, 33, 6))
def test_i2_i6_a_run_whose_controller_is_killed_goes_on_and_does_nothing_twice(planted: Fleet, events: int) -> None:
    """A file that was put aside can't be put aside again: a second application would fail."""
    run_id = _killed_at(planted, events)

    ended = planted.json("runbook", "resume", run_id)

    assert ended["state"] == "succeeded"
    assert [_there(host) for host in planted.lab] == [[], []]
    assert len({(m["step"], m["part"], m["batch"], m["attempt"]) for m in ended["moves"]}) == len(ended["moves"])
    planted.fireline("journal", "verify")


@pytest.mark.slow
def test_a_daemon_that_starts_takes_up_the_run_of_a_killed_command(planted: Fleet) -> None:
    """Nobody has to ask it to."""
    run_id = _killed_at(planted, 14)
    planted.start_daemon()
    try:
        ended = planted.json("runbook", "resume", run_id)
    finally:
        planted.stop_daemon()

    assert ended["state"] == "succeeded"
    assert [_there(host) for host in planted.lab] == [[], []]
