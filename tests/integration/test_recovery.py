"""The recovery of a daemon over a real agent and a real Docker Engine: captured then restarted, or somebody called."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet import Fleet
from tests.lab import IMAGE, NETNS, default_backend, engine, eventually

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)]

_SETTINGS = """
[recovery]
enabled = true
services = ["sick", "looping", "observed"]
every_s = 1
failures = 2
backoff_s = 1
budget = 1
settled_s = 2
"""
_STAYS = "trap 'exit 0' TERM; touch /tmp/well; while :; do sleep 0.2; done"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host with an engine, and a daemon that watches three of its containers."""
    if default_backend() != NETNS or engine.lacks():
        pytest.skip("needs root, namespaces and a Docker Engine")
    with Fleet(["shop1"], engine=True, settings=_SETTINGS) as made:
        yield made


def run(fleet: Fleet, name: str, script: str, *options: str) -> None:
    """Start a container."""
    host = fleet.lab["shop1"]
    engine.docker(host, "run", "-d", "--pull", "never", "--name", name, *options, IMAGE, "sh", "-c", script)


def lines(fleet: Fleet, *kinds: str, container: str = "") -> list[dict[str, Any]]:
    """Lines of the journal of these kinds, of one container where it is named."""
    text = fleet.fireline("journal", "export")
    every = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [
        line for line in every
        if line["kind"] in kinds and container in ("", line.get("data", {}).get("container", ""))
    ]  # fmt: skip


def test_what_is_unhealthy_is_captured_then_restarted(fleet: Fleet) -> None:
    """The evidence is sealed before the restart is intended on the host; the container is healthy after."""
    check = ("--health-cmd", "[ -f /tmp/well ]", "--health-interval", "1s", "--health-retries", "1")
    run(fleet, "sick", _STAYS, *check)
    host = fleet.lab["shop1"]
    engine.docker(host, "exec", "sick", "/bin/busybox", "rm", "/tmp/well")
    eventually(lambda: bool(lines(fleet, "recovery.restarted", container="sick")), within_s=60, what="sick restarted")

    health = engine.docker(host, "inspect", "--format", "{{.State.Health.Status}}", "sick")
    order = [line["kind"] for line in lines(fleet, "recovery.restarting", "evidence.sealed", "action.applying")]
    assert health == "healthy"
    assert order[:3] == ["recovery.restarting", "evidence.sealed", "action.applying"]
    assert "1 running, 1 of them healthy" in lines(fleet, "recovery.restarted", container="sick")[0]["summary"]


def test_a_crash_loop_calls_somebody(fleet: Fleet) -> None:
    """Its one restart does not help: the breaker opens once, an incident is opened, and a page is asked for."""
    run(fleet, "looping", "sleep 0.2; exit 1", "--restart", "always")
    eventually(lambda: bool(lines(fleet, "page.requested", container="looping")), within_s=90, what="a page")

    (tripped,) = lines(fleet, "recovery.tripped", container="looping")
    (page,) = lines(fleet, "page.requested", container="looping")
    assert "1 restarts in 3600 s did not help: no more, somebody must look" in tripped["summary"]
    assert len(lines(fleet, "recovery.restarting", container="looping")) == 1
    incidents = fleet.json("incident", "list")["incidents"]
    assert [(one["incident"], one["title"]) for one in incidents] == [
        (page["incident"], "looping on shop1: restarts do not help")
    ]


def test_a_killed_daemon_s_budget_is_not_forgotten(fleet: Fleet) -> None:
    """A new one knows the restart that the old one did: the next failure calls somebody, and restarts nothing."""
    before = len(lines(fleet, "recovery.restarting"))
    fleet.kill_daemon()
    fleet.start_daemon()
    engine.docker(fleet.lab["shop1"], "exec", "sick", "/bin/busybox", "rm", "/tmp/well")
    eventually(lambda: bool(lines(fleet, "page.requested", container="sick")), within_s=60, what="a page")

    assert len(lines(fleet, "recovery.restarting")) == before
    assert len(lines(fleet, "page.requested", container="looping")) == 1


def test_observed_it_touches_nothing(fleet: Fleet) -> None:
    """What it would do is in the journal and in the log; the container keeps its start."""
    fleet.stop_daemon()
    host = fleet.lab["shop1"]
    run(fleet, "observed", "exit 1")
    before = engine.docker(host, "inspect", "--format", "{{.State.StartedAt}}", "observed")
    fleet.start_daemon("--observe")
    eventually(lambda: bool(lines(fleet, "recovery.observed")), within_s=60, what="an observation")

    first = lines(fleet, "recovery.observed", container="observed")[0]
    assert engine.docker(host, "inspect", "--format", "{{.State.StartedAt}}", "observed") == before
    assert first["summary"] == (
        "shop1: would capture and restart: observed is exited, 2 failures in a row; restart 1 of 1"
    )
    assert "recovery: observing" in (fleet.state / "serve.log").read_text()
