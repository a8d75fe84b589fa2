"""A person on the console ends an isolation with its code, whatever became of the agent and the network."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from fireline_wire.v1 import host_pb2, isolation_pb2
from tests.fleet import AGENT_CONFIG, BIN
from tests.integration.conftest import need
from tests.integration.isolation.ground import CODE, STATE, Ground, ground, ruleset
from tests.lab import NETNS, Host, default_backend

pytestmark = pytest.mark.netns


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Ground]:
    """One host."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with ground(tmp_path) as made:
        yield made


def console(host: Host, *arguments: str) -> tuple[int, str]:
    """What a command of the agent says on the host's console, and its exit status."""
    command = [str(BIN / "fireline-agent"), *arguments, "--config", AGENT_CONFIG]
    said = host.run(["bash", "-c", '"$@" 2>&1; echo "exit $?"', "console", *command])
    words, _, status = said.rstrip().rpartition("exit ")
    return int(status), words.strip()


async def test_the_code_ends_an_isolation_while_the_agent_runs(lone: Ground) -> None:
    """It is not put back, and the controller is told; a wrong code does nothing, a used one finds nothing."""
    host = lone.lab["web-1"]
    order = lone.order(host)
    async with lone.connected(host) as controller:
        nothing = console(host, "release", "--code", CODE)
        await controller.isolate(order, host)
        watching = controller.host.Watch(host_pb2.WatchRequest())
        await watching.read()
        wrong = console(host, "release", "--code", "wrong")
        right = console(host, "release", "--code", CODE)
        told = await watching.read()
        status = await controller.status()
        used = console(host, "release", "--code", CODE)
        watching.cancel()

    assert nothing == (3, "fireline-agent: nothing is isolated on this host")
    assert wrong == (4, "fireline-agent: no isolation of this host has this code")
    assert right == (0, f"released {order.order_id}")
    how = "released on the console with the code"
    assert (told.kind, told.detail) == (
        host_pb2.HostEvent.KIND_ISOLATION_BROKEN,
        f"order {order.order_id}: {how}",
    )
    assert (list(status.isolations), [(e.order_id, e.how) for e in status.ended]) == ([], [(order.order_id, how)])
    assert used[0] == 3
    assert ruleset(host) == ""


async def test_the_code_works_with_a_dead_agent_and_is_told_when_it_starts(lone: Ground) -> None:
    """The first controller that watches the next agent hears of it."""
    host = lone.lab["web-1"]
    order = lone.order(host)
    async with lone.connected(host) as controller:
        await controller.isolate(order, host)
    host.kill_agent()
    said = console(host, "release", "--code", CODE)
    lone.start(host)
    async with lone.connected(host) as controller:
        watching = controller.host.Watch(host_pb2.WatchRequest())
        await watching.read()
        told = await watching.read()
        status = await controller.status()
        watching.cancel()

    assert said[0] == 0
    assert told.kind == host_pb2.HostEvent.KIND_ISOLATION_BROKEN
    assert [e.order_id for e in status.ended] == [order.order_id]
    assert ruleset(host) == ""


async def test_the_boot_unit_puts_a_committed_isolation_back(lone: Ground) -> None:
    """After a power cut, before the agent runs; what was armed only is not put back."""
    host = lone.lab["web-1"]
    order = lone.order(host)
    async with lone.connected(host) as controller:
        await controller.isolate(order, host)
    host.power_cut()
    host.boot(services=False)
    said = console(host, "rearm")
    rules = ruleset(host)
    lone.start(host)
    async with lone.connected(host) as controller:
        status = await controller.status()
        await controller.release()
        await controller.arm(lone.order(host))
    host.power_cut()
    host.boot(services=False)
    again = console(host, "rearm")

    assert said == (0, "in force: host")
    assert rules.count("elements = { 0x00000000 }") == 3
    assert [s.phase for s in status.isolations] == [isolation_pb2.IsolationState.PHASE_COMMITTED]
    assert again == (0, "in force: nothing")
    assert ruleset(host) == ""


async def test_a_stopped_agent_does_not_keep_the_console_out(lone: Ground) -> None:
    """Neither one that stands still at rest, nor one that stands still in the middle of a change."""
    host = lone.lab["web-1"]
    order = lone.order(host)
    async with lone.connected(host) as controller:
        await controller.isolate(order, host)
    with (host.path(STATE) / "isolation/lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the agent does in a change
        host.stop_agent()
        try:
            said = console(host, "release", "--code", CODE)
        finally:
            host.cont_agent()

    assert said[0] == 0
    assert ruleset(host) == ""
