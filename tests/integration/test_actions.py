"""Actions on real hosts by the real command: planned, done by that very plan, proved, taken back, cut short."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from fireline_controller.cli import session
from fireline_wire.status import Refusal, from_error
from fireline_wire.v1 import control_pb2
from tests.fleet import BIN, Fleet
from tests.lab import Host, eventually

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

STATE = "/var/lib/fireline-agent"
QUARANTINE = ("action", "run", "security.quarantine_file", "-p", "path=/srv/actions/bad")
KILL = ("action", "run", "system.process_kill", "-p", "command=stubborn", "-p", "grace=60s", "--reason", "r", "--yes")
RULE = '[[rules]]\nactions = ["remediate"]\ntarget = "role=web"\nabove = 1\noperators = ["bob"]\n'


def _planted(*hosts: Host) -> None:
    for host in hosts:
        host.run(["sh", "-c", "mkdir -p /srv/actions && echo evil > /srv/actions/bad && chmod 4711 /srv/actions/bad"])


def _is_there(host: Host) -> bool:
    return host.path("/srv/actions/bad").exists()


def _kinds(fleet: Fleet, operation: str) -> list[str]:
    lines = map(json.loads, fleet.fireline("journal", "export").splitlines())
    return [line["kind"] for line in lines if line["operation"] == operation]


@contextmanager
def host_policy(fleet: Fleet, host: Host, text: str) -> Iterator[None]:
    """The host's own rules while the block lasts."""
    host.write("/etc/fireline/policy.toml", text.encode())
    _restarted(fleet, host)
    try:
        yield
    finally:
        host.path("/etc/fireline/policy.toml").unlink()
        _restarted(fleet, host)


def _restarted(fleet: Fleet, host: Host) -> None:
    host.end_agent()
    host.start_agent()
    eventually(
        lambda: fleet.try_fireline("host", "ping", "-t", host.name).returncode == 0, within_s=20, what="the agent"
    )


@contextmanager
def _stubborn(host: Host) -> Iterator[None]:
    """A process that no TERM ends."""
    host.run(["cp", "/bin/sh", "/srv/stubborn"])
    process = host.spawn(["/srv/stubborn", "-c", 'trap "" TERM; while :; do sleep 0.2; done'], log="/dev/null")
    try:
        yield
        assert process.is_alive()
    finally:
        process.signal(signal.SIGKILL)


@contextmanager
def _running(fleet: Fleet, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    environment = {**os.environ, "FIRELINE_STATE": str(fleet.state), "NO_COLOR": "1"}
    with subprocess.Popen(
        [BIN / "fireline", *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, stdin=subprocess.DEVNULL,
    ) as command:  # fmt: skip
        try:
            yield command
        finally:
            command.kill()


def _records(host: Host) -> set[Path]:
    return set(host.path(f"{STATE}/remediations").glob("*/record"))


def _await_start(host: Host, before: set[Path]) -> None:
    """Until the first change of a new application is begun."""
    eventually(
        lambda: any("starting" in path.read_text() for path in _records(host) - before),
        within_s=20,
        what="the action to begin its change",
    )


def _document(command: "subprocess.Popen[str]") -> Any:
    out, error = command.communicate(timeout=40)
    assert out, error
    return json.loads(out)


def _acting(host: Host) -> str:
    return host.run(["pgrep", "-f", "remediation[.]child"], check=False).strip()


def test_what_is_planned_is_done_proved_and_taken_back(fleet: Fleet) -> None:
    """On every host of the target, with the intent on record before the host was told, and the proof after."""
    web1, web2 = fleet.lab["web1"], fleet.lab["web2"]
    _planted(web1, web2)

    plan = fleet.json(*QUARANTINE, "-t", "web[1-2]", "--plan")
    assert [h["action"]["change_count"] for h in plan["hosts"]] == [1, 1]
    assert _is_there(web1)
    refused = fleet.try_fireline(*QUARANTINE, "-t", "web[1-2]", "--reason", "r")
    assert (refused.returncode, _is_there(web1)) == (4, True), refused.stderr

    done = fleet.json("action", "apply", plan["operation"], "--reason", "r", "--yes")

    assert done["counts"] == {"ok": 2}, done
    assert not _is_there(web1)
    assert "lies in" in done["hosts"][0]["action"]["verified"]
    kinds = _kinds(fleet, done["operation"])
    assert kinds[0] == "remediate.ordered"
    assert max(i for i, k in enumerate(kinds) if k == "action.applying") < kinds.index("action.applied")
    assert kinds.count("action.applied") == 2

    back = fleet.json("action", "undo", done["operation"], "--reason", "r")

    assert back["counts"] == {"ok": 2}, back
    assert web1.path("/srv/actions/bad").stat().st_mode & 0o7777 == 0o4711
    again = fleet.json("action", "undo", done["operation"], "--reason", "r")
    assert [h["action"]["changes_done"] for h in again["hosts"]] == [0, 0]


def test_a_host_that_has_changed_since_refuses(fleet: Fleet) -> None:
    """It says so and does nothing; the other one does what was planned."""
    web1, web2 = fleet.lab["web1"], fleet.lab["web2"]
    _planted(web1, web2)
    plan = fleet.json(*QUARANTINE, "-t", "web[1-2]", "--plan")
    web1.run(["sh", "-c", "echo more >> /srv/actions/bad"])

    done = fleet.json("action", "apply", plan["operation"], "--reason", "r", "--yes", status=1)

    outcomes = {h["host"]: (h["outcome"], h["reason"]) for h in done["hosts"]}
    assert outcomes == {"web1": ("failed", "plan_changed"), "web2": ("ok", "")}
    assert (_is_there(web1), _is_there(web2)) == (True, False)


@pytest.mark.slow
def test_what_a_host_forbids_is_denied(fleet: Fleet) -> None:
    """By its own policy file: an action by its risk, a path by `writable`."""
    denied = fleet.json("action", "run", "disk.clean_logs", "-t", "web1", "-p", "roots=/srv", "--plan", status=1)
    assert [(h["outcome"], h["reason"]) for h in denied["hosts"]] == [("denied", "policy_denied")]
    assert "risk:" not in denied["hosts"][0]["detail"]

    web1 = fleet.lab["web1"]
    _planted(web1)
    with host_policy(fleet, web1, 'writable = ["/var/log"]\ndeny_actions = ["system.*"]\n'):
        path = fleet.json(*QUARANTINE, "-t", "web1", "--plan", status=1)
        own = fleet.json("action", "run", "system.process_kill", "-t", "web1", "-p", "pid=2", "--plan", status=1)
        shown = fleet.json("host", "show", "web1")["actions"]

    assert [h["outcome"] for h in (*path["hosts"], *own["hosts"])] == ["denied", "denied"]
    assert "security.quarantine_file" in shown
    assert not [name for name in shown if name.startswith("system.")]


async def _applied_bare(fleet: Fleet, plan: str) -> Refusal | None:
    options = control_pb2.OperationOptions(reason="r")
    async with session.connect(fleet.state) as control:
        try:
            async for _ in control.ApplyPlan(control_pb2.ApplyPlanRequest(options=options, plan_operation_id=plan)):
                pass
        except grpc.aio.AioRpcError as error:
            return from_error(error)
    return None


@pytest.mark.slow
def test_nothing_is_destroyed_before_it_is_sealed(fleet: Fleet) -> None:
    """Without such evidence it is refused (I3); the command makes it first; on one's word a full disk is cleaned."""
    db1 = fleet.lab["db1"]
    clean = ("action", "run", "disk.clean_logs", "-t", "db1", "-p", "roots=/srv/logs", "-p", "older_than=0")
    db1.run(["sh", "-c", "mkdir -p /srv/logs && echo old > /srv/logs/a.log"])
    with host_policy(fleet, db1, 'actions = ["risk:read", "disk.*"]\n'):
        plan = fleet.json(*clean, "--plan")
        refusal = asyncio.run(_applied_bare(fleet, plan["operation"]))
        assert refusal is not None
        assert (refusal.reason, "selected_files" in refusal.message) == ("no_evidence", True)
        assert db1.path("/srv/logs/a.log").exists()

        fleet.fireline("capture", "-t", "db1")  # another capture is not the one that is wanted
        refusal = asyncio.run(_applied_bare(fleet, plan["operation"]))
        assert refusal is not None
        done = fleet.json("action", "apply", plan["operation"], "--reason", "r", "--yes")
        assert done["counts"] == {"ok": 1}, done
        assert not db1.path("/srv/logs/a.log").exists()

        db1.run(["sh", "-c", "mkdir /srv/more; head -c 1000000 /dev/urandom > /srv/more/b.log"])
        more = ["roots=/srv/more" if word == "roots=/srv/logs" else word for word in clean]
        db1.disk_full()
        try:
            full = fleet.json(*more, "--reason", "r", "--yes", "--without-evidence", "the disk is full")
        finally:
            db1.disk_free()

    assert full["counts"] == {"ok": 1}, full
    assert not db1.path("/srv/more/b.log").exists()
    assert "action.without_evidence" in _kinds(fleet, full["operation"])


def test_an_agent_killed_in_the_middle_says_what_is_in_doubt(fleet: Fleet) -> None:
    """Its action dies with it, nothing is done again, and the controller, which waits, hears how it ended."""
    web3 = fleet.lab["web3"]
    before = _records(web3)
    with _stubborn(web3), _running(fleet, *KILL, "-t", "web3") as command:
        _await_start(web3, before)
        web3.kill_agent()
        eventually(lambda: not _acting(web3), within_s=5, what="the action to die with its agent")
        web3.start_agent()
        done = _document(command)
        (host,) = done["hosts"]
        assert (host["outcome"], host["reason"]) == ("failed", "action_interrupted"), host
        assert len(host["action"]["in_doubt"]) == 1
        assert "stubborn" in host["action"]["in_doubt"][0]
        assert not _acting(web3)


def test_an_interrupt_stops_the_action_on_the_host(fleet: Fleet) -> None:
    """Within seconds; what was begun is told, and the host forgets nothing of it."""
    web4 = fleet.lab["web4"]
    before = _records(web4)
    with _stubborn(web4), _running(fleet, *KILL, "-t", "web4") as command:
        _await_start(web4, before)
        began = time.monotonic()
        command.send_signal(signal.SIGINT)
        done = _document(command)
        took_s = time.monotonic() - began
        assert command.returncode == 130
        (host,) = done["hosts"]
        assert (host["outcome"], done["still_running"]) == ("cancelled", []), done
        assert "0 of 1 changes were done" in host["detail"]
        assert len(host["action"]["in_doubt"]) == 1
        assert took_s < 6
        assert not _acting(web4)


@pytest.fixture
def two_people(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a second operator and a rule, which are gone afterwards."""
    fleet.fireline("operator", "add", "bob")
    (fleet.state / "policy.toml").write_text(RULE)
    try:
        yield fleet
    finally:
        (fleet.state / "policy.toml").unlink()
        fleet.fireline("operator", "remove", "bob", "--reason", "drill is over")


def test_a_plan_is_applied_once_a_second_person_agrees(two_people: Fleet) -> None:
    """Refused and untouched before; the same plan made anew counts as the same; another one does not."""
    web1, web2 = two_people.lab["web1"], two_people.lab["web2"]
    _planted(web1, web2)
    command = (*QUARANTINE, "-t", "web[1-2]", "--reason", "r", "--yes")
    refused = two_people.try_fireline(*command)
    request = refused.stderr.partition("approval approve ")[2].partition(";")[0]
    assert (refused.returncode, _is_there(web1)) == (4, True), refused.stderr

    two_people.fireline("--as", "bob", "approval", "approve", request)
    web1.run(["sh", "-c", "echo more >> /srv/actions/bad"])
    assert two_people.try_fireline(*command).returncode == 4
    _planted(web1)  # as it was when bob agreed, but for its times: another plan
    other = two_people.try_fireline(*command)
    wanted = other.stderr.partition("approval approve ")[2].partition(";")[0]
    two_people.fireline("--as", "bob", "approval", "approve", wanted)
    done = two_people.json(*command)

    assert done["counts"] == {"ok": 2}, done
    assert two_people.json("approval", "show", wanted)["used_by"] == done["operation"]


@pytest.mark.slow
def test_a_killed_controller_leaves_what_a_retry_takes_up(fleet: Fleet) -> None:
    """The host goes on by itself; the retry hears its first end, and nothing is done twice (I2)."""
    web2 = fleet.lab["web2"]
    before = _records(web2)
    kill = tuple("grace=3s" if word == "grace=60s" else word for word in KILL)
    web2.run(["cp", "/bin/sh", "/srv/stubborn"])
    process = web2.spawn(["/srv/stubborn", "-c", 'trap "" TERM; while :; do sleep 0.2; done'], log="/dev/null")
    try:
        with _running(fleet, *kill, "-t", "web2") as command:
            _await_start(web2, before)
            fleet.kill_daemon()
            command.wait(20)
        fleet.start_daemon()
        lines = [json.loads(line) for line in fleet.fireline("journal", "export").splitlines()]
        lost = [line for line in lines if line["kind"] == "remediate.interrupted"][-1]
        plan = next(
            line["data"]["plan_operation"]
            for line in lines
            if line["operation"] == lost["operation"] and line["kind"] == "remediate.ordered"
        )
        again = fleet.json("action", "apply", plan, "--reason", "r", "--yes", "--retry-of", lost["operation"])
    finally:
        with suppress(ProcessLookupError):
            process.signal(signal.SIGKILL)

    assert again["counts"] == {"ok": 1}, again
    assert again["hosts"][0]["action"]["changes_done"] == 1
    assert not process.is_alive()
    assert len(_records(web2) - before) == 1
