"""Processes and users that stand still: their lease outlives the agent, and nobody can stop the agent with it."""

from pathlib import Path

import pytest

from fireline_wire.isolation import Scope
from fireline_wire.v1 import isolation_pb2
from tests.integration.agent.agents import refusal
from tests.integration.isolation.ground import Ground
from tests.lab import Host, eventually

pytestmark = pytest.mark.netns

_BEAT = "/tmp/beat"
_HEART = f"while :; do echo beat >>{_BEAT}; sleep 0.02; done"
_NOBODY = 65534


def start_heart(host: Host, *, uid: int = _NOBODY) -> int:
    """A process of a user that writes on and on; its pid on the host."""
    host.run(["install", "-m", "666", "/dev/null", _BEAT])
    started = host.spawn(["setpriv", f"--reuid={uid}", "--clear-groups", "bash", "-c", _HEART], unit="heart")
    eventually(lambda: beats(host) > 0, within_s=5, what="the first beat")
    return pid_inside(started.pid)


def pid_inside(pid: int) -> int:
    """A process's pid as its own host knows it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def beats(host: Host) -> int:
    """How often it has written."""
    return host.path(_BEAT).stat().st_size


def goes_on(host: Host, within_s: float) -> None:
    """Wait until it writes."""
    before = beats(host)
    eventually(lambda: beats(host) > before, within_s=within_s, what="a beat")


async def test_a_process_stands_still_until_it_is_released(grounds: Ground) -> None:
    """With its children; a commit keeps it so, and it goes on where it was."""
    host = grounds.lab["web-1"]
    pid = start_heart(host)
    group = host.run(["cat", f"/proc/{pid}/cgroup"])
    order = grounds.order(host, scope=Scope("process", str(pid)))
    async with grounds.connected(host) as controller:
        state = await controller.isolate(order, host)
        before = beats(host)
        status = await controller.status()
        still = beats(host)
        released = await controller.release(order.order_id)

    assert state.phase == isolation_pb2.IsolationState.PHASE_COMMITTED
    assert [(s.scope, s.drifts) for s in status.isolations] == [(f"process:{pid}", 0)]
    assert still == before
    assert released.restored
    goes_on(host, 5)
    assert host.run(["cat", f"/proc/{pid}/cgroup"]) == group
    host.run(["kill", "-9", str(pid)])


async def test_the_lease_of_a_frozen_process_outlives_the_agent(grounds: Ground) -> None:
    """No kernel does it, so a small process of its own does: the agent is killed, and the process goes on in time."""
    host = grounds.lab["web-1"]
    pid = start_heart(host)
    order = grounds.order(host, scope=Scope("process", str(pid)), lease_s=5)
    async with grounds.connected(host) as controller:
        await controller.arm(order)
    host.kill_agent()
    before = beats(host)
    still = beats(host)
    goes_on(host, 15)
    grounds.start(host)
    async with grounds.connected(host) as controller:
        status = await controller.status()

    assert still == before
    assert list(status.isolations) == []
    assert [ended.how for ended in status.ended if ended.order_id == order.order_id] == ["lease ran out"]
    host.run(["kill", "-9", str(pid)])


async def test_what_a_user_starts_later_stands_still_too(grounds: Ground) -> None:
    """It is found within seconds."""
    host = grounds.lab["web-1"]
    first = start_heart(host)
    order = grounds.order(host, scope=Scope("user", "nobody"))
    async with grounds.connected(host) as controller:
        await controller.isolate(order, host)
        later = start_heart(host)
        eventually(lambda: _is_still(host), within_s=5, what="the later one to stand still")
        await controller.release(order.order_id)

    goes_on(host, 5)
    host.run(["kill", "-9", str(first), str(later)])


async def test_what_is_started_before_the_confirmation_keeps_nobody_from_it(grounds: Ground) -> None:
    """A service manager starts anew what stands still: that stands still too, and the order goes on."""
    host = grounds.lab["web-1"]
    first = start_heart(host)
    order = grounds.order(host, scope=Scope("user", "nobody"), lease_s=20)
    async with grounds.connected(host) as controller:
        armed = await controller.arm(order)
    later = start_heart(host)
    async with grounds.connected(host) as controller:
        state = await controller.confirm(order, armed.nonce)
        is_still = _is_still(host)
        await controller.release(order.order_id)
    goes_on(host, 5)
    host.run(["kill", "-9", str(first), str(later)])

    assert state.phase == isolation_pb2.IsolationState.PHASE_CONFIRMED
    assert is_still


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("user:root", "user root is the agent's own: it would stop the agent and the host; isolate the host"),
        ("user:nosuchuser", "this host has no user nosuchuser"),
        ("process:4000000", "there is no process 4000000"),
    ],
)
async def test_what_can_not_be_stopped_is_refused(grounds: Ground, scope: str, words: str) -> None:
    """Before anything is touched, with the reason."""
    host = grounds.lab["web-1"]
    order = grounds.order(host, scope=Scope.parse(scope))
    async with grounds.connected(host) as controller:
        plan = await controller.plan(order)
        found = await refusal(controller.arm(order))

    assert plan.refusal == words
    assert (found.reason, found.message) == ("unsupported", f"this host can't isolate {scope}: {words}")


async def test_the_agent_can_not_be_stopped(grounds: Ground) -> None:
    """Nor any process that it depends on."""
    host = grounds.lab["web-1"]
    assert host.agent is not None
    pid = pid_inside(host.agent.pid)
    async with grounds.connected(host) as controller:
        plan = await controller.plan(grounds.order(host, scope=Scope("process", str(pid))))

    assert plan.refusal.startswith(f"process:{pid} holds process {pid} (")
    assert plan.refusal.endswith("), which the agent depends on")


def _is_still(host: Host) -> bool:
    """Whether nothing is written between two looks that are some work apart."""
    before = beats(host)
    host.run(["sleep", "0.2"])
    return beats(host) == before
