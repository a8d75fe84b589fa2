"""Pausing, stopping, limiting, and looking into containers; each taken back where that is promised."""

from typing import Any

import pytest

from fireline_agent.remediation.action import ActionError
from fireline_agent.remediation.container import pause, processes, states, stop, top, unpause, update_limits
from tests.engine import eventually
from tests.remediation.container.stage import Stage

pytestmark = pytest.mark.docker

MIB = 1 << 20


def test_a_pause_is_proved_and_taken_back(stage: Stage) -> None:
    """Paused, seen so, and let go on."""
    stage.run("held")
    rehearsal = stage.rehearse(pause.ACTION, container="held")
    applied = rehearsal.apply()
    paused = stage.state("held")["Status"]
    left = rehearsal.undo(applied)

    assert (paused, applied.verified.is_good, left) == ("paused", True, [])
    assert stage.state("held")["Status"] == "running"


def test_one_paused_before_is_not_touched(stage: Stage) -> None:
    """A container that somebody else paused is no change, so that no undo can let it go on."""
    stage.run("theirs", labels={"tier": "x"})
    stage.run("ours", labels={"tier": "x"})
    stage.engine.client.pause("theirs")
    rehearsal = stage.rehearse(pause.ACTION, label="tier")
    rehearsal.undo(rehearsal.apply())

    assert (stage.state("theirs")["Status"], stage.state("ours")["Status"]) == ("paused", "running")


def test_a_paused_container_is_let_go_on(stage: Stage) -> None:
    """Unpaused, and paused again by the undo."""
    stage.run("held")
    stage.engine.client.pause("held")
    rehearsal = stage.rehearse(unpause.ACTION, container="held")
    applied = rehearsal.apply()
    after = stage.state("held")["Status"]
    rehearsal.undo(applied)

    assert (after, applied.verified.is_good, stage.state("held")["Status"]) == ("running", True, "paused")


@pytest.mark.slow
def test_a_stop_goes_against_the_dependencies_and_back(stage: Stage) -> None:
    """What needs others ends first; the undo starts what others need first; `always` is warned about."""
    stage.service("shop", "db", restart_policy={"Name": "always"})
    stage.service("shop", "web", needs="db:service_started:true")
    rehearsal = stage.rehearse(stop.ACTION, project="shop", stop_timeout=5)
    applied = rehearsal.apply()

    assert [change.data["name"] for change in applied.plan.changes] == ["shop-web-1", "shop-db-1"]
    assert applied.plan.warnings == ("restart policy always: comes back when the engine itself restarts: shop-db-1",)
    assert [stage.state(name)["Status"] for name in ("shop-web-1", "shop-db-1")] == ["exited", "exited"]
    assert rehearsal.undo(applied) == []
    order = stage.started_at("shop-db-1", "shop-web-1")
    assert order == sorted(order)


def test_limits_are_set_without_a_restart_and_taken_back(stage: Stage) -> None:
    """Memory, swap, CPU and processes as wanted, then as free as they were; the container never ends."""
    stage.run("hungry")
    before = stage.started_at("hungry")
    rehearsal = stage.rehearse(update_limits.ACTION, container="hungry", memory=64 * MIB, cpus=0.5, pids=100)
    applied = rehearsal.apply()
    limited = stage.inspect("hungry")["HostConfig"]
    left = rehearsal.undo(applied)
    free = stage.inspect("hungry")["HostConfig"]

    assert applied.verified.sentence == "hungry: 64 MiB memory, 64 MiB memory and swap, 0.5 CPUs, 100 processes"
    assert (limited["Memory"], limited["MemorySwap"], limited["PidsLimit"]) == (64 * MIB, 64 * MIB, 100)
    assert limited["CpuQuota"] / limited["CpuPeriod"] == 0.5
    assert left == []
    assert (free["MemorySwap"], free["CpuQuota"], free["PidsLimit"]) == (-1, -1, 0)
    assert stage.run_in("hungry", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>&1 || true") != str(64 * MIB)
    assert stage.started_at("hungry") == before


def test_former_limits_come_back_exactly(stage: Stage) -> None:
    """A container that was limited has its own limits again, in the way in which it had them."""
    stage.run("tuned", mem_limit=32 * MIB, memswap_limit=48 * MIB, nano_cpus=250_000_000, pids_limit=50)
    rehearsal = stage.rehearse(
        update_limits.ACTION, container="tuned", memory=64 * MIB, memory_swap=128 * MIB, cpus=1, pids=80
    )
    applied = rehearsal.apply()
    raised = stage.inspect("tuned")["HostConfig"]
    left = rehearsal.undo(applied)
    back = stage.inspect("tuned")["HostConfig"]

    keys = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")
    assert [raised[key] for key in keys] == [64 * MIB, 128 * MIB, 1_000_000_000, 80]
    assert ([back[key] for key in keys], left) == ([32 * MIB, 48 * MIB, 250_000_000, 50], [])


@pytest.mark.slow
def test_a_limit_below_what_is_used_is_refused(stage: Stage) -> None:
    """The kernel would kill in it: refused with both figures, and planned with a warning where it was said."""
    stage.run("big", "x=$(busybox head -c 30000000 /dev/zero | busybox tr '\\0' x); while :; do sleep 0.1; done")
    eventually(
        lambda: stage.rehearse(top.ACTION, container="big").plan().result["memory_bytes"] > 25 * MIB,
        within_s=20,
        what="big fills its memory",
    )
    with pytest.raises(ActionError) as refused:
        stage.rehearse(update_limits.ACTION, container="big", memory=8 * MIB).plan()
    plan = stage.rehearse(update_limits.ACTION, container="big", memory=8 * MIB, below_use=True).plan()

    assert refused.value.reason == "refused"
    assert str(refused.value).startswith("big uses ")
    assert "more than 8 MiB: the kernel would kill in it; set a higher limit, or below_use" in str(refused.value)
    assert len(plan.changes) == len(plan.warnings) == 1


@pytest.mark.slow
def test_limits_that_are_so_already_are_nothing_to_do(stage: Stage) -> None:
    """A second run of the same wish changes nothing."""
    stage.run("steady")
    stage.rehearse(update_limits.ACTION, container="steady", memory=64 * MIB).apply()

    assert not stage.rehearse(update_limits.ACTION, container="steady", memory=64 * MIB).plan().changes


def test_the_engine_s_refusal_is_told(stage: Stage) -> None:
    """Swap without a memory limit is refused by the engine, in its own words."""
    stage.run("free")
    applied = stage.rehearse(update_limits.ACTION, container="free", memory_swap=64 * MIB).apply()

    assert applied.error.startswith("free (")
    assert "the engine answered" in applied.error


@pytest.mark.slow
def test_the_busiest_container_is_on_top(stage: Stage) -> None:
    """By CPU the one that loops leads, with about the share of a CPU that it takes."""
    stage.run("busy", "while :; do :; done", nano_cpus=500_000_000)
    stage.run("idle")
    result = stage.rehearse(top.ACTION, by="cpu").plan().result

    assert [row["name"] for row in result["containers"]] == ["busy", "idle"]
    assert 10 < result["containers"][0]["cpu_percent"] < 80


def test_processes_are_shown_without_their_command_lines(stage: Stage) -> None:
    """The processes of a container with the host's pids; a password in an argument is nowhere."""
    stage.run("inside", "sleep 1000 & busybox sleep 1001 & sh -c 'sleep 1002; : hunter2'; :")

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stage.rehearse(processes.ACTION, container="inside").plan().result["processes"]
        return found

    wanted = ["busybox", "sh", "sh", "sleep", "sleep"]  # busybox names its own processes a moment after their start
    eventually(lambda: sorted(row["name"] for row in rows()) == wanted, within_s=15, what=f"processes {wanted}")
    result = rows()

    assert stage.state("inside")["Pid"] in [row["pid"] for row in result]
    assert "hunter2" not in str(result)


def test_states_are_told_with_what_each_needs(stage: Stage) -> None:
    """What is not well comes first; health, dependencies and exit codes are told."""
    stage.service("shop", "web", needs="db:service_healthy:false")
    stage.service("shop", "db", script="exit 4")
    stage.until_state("shop-db-1", "exited")
    plan = stage.rehearse(states.ACTION).plan()

    assert plan.summary == "2 containers: 1 exited, 1 running; 0 unhealthy; to look at: shop-db-1"
    rows = [(row["name"], row["state"], row["needs"], row["exit_code"]) for row in plan.result["containers"]]
    assert rows == [("shop-db-1", "exited", [], 4), ("shop-web-1", "running", ["db"], 0)]


def test_nothing_runs_to_look_into(stage: Stage) -> None:
    """A container that is down has no processes; that is said."""
    stage.run("down", "exit 0")
    stage.until_state("down", "exited")
    with pytest.raises(ActionError, match="none of the selected containers runs"):
        stage.rehearse(processes.ACTION, container="down").plan()
