"""Whatever happens to the agent, the host ends proved dark or exactly as it was, and nobody is locked out (I4, I6)."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import grpc
import pytest

from fireline_wire.v1 import isolation_pb2
from tests.fleet import AGENT_CONFIG, BIN, Fleet
from tests.integration.conftest import need
from tests.isolation.glance import becomes_dark, becomes_open, is_dark, is_open, stays_dark
from tests.isolation.ordering import Order, Ordering
from tests.lab import NETNS, Host, Vantage, default_backend, eventually

pytestmark = pytest.mark.netns

_LEASE_S = 6
_LAPSED_S = _LEASE_S + 4.0  # a loaded machine looks late
_REPAIRED_S = 8.0
_COMMITTED = isolation_pb2.IsolationState.PHASE_COMMITTED


@dataclass(frozen=True)
class Ground:
    """A host, the world, and orders to its agent."""

    host: Host
    outsider: Vantage
    ordering: Ordering
    former: str  # the ruleset of before

    def order(self) -> Order:
        """An order with a short lease."""
        return self.ordering.signed(lease_s=_LEASE_S)

    def ruleset(self) -> str:
        """The rules of now, without counters."""
        return self.host.vantage.run(["nft", "-s", "list", "ruleset"])

    def restart(self) -> None:
        """Start the agent, and wait until it answers."""
        self.host.start_agent()
        eventually(self._answers, within_s=20, what="the agent to answer", every_s=0.1)

    def _answers(self) -> bool:
        try:
            self.ordering.status()
        except grpc.RpcError:
            return False
        return True

    def is_former(self) -> bool:
        """Whether the rules are what they were, byte by byte."""
        return self.ruleset() == self.former


@pytest.fixture(scope="module")
def lone_fleet() -> Iterator[Fleet]:
    """One host without an engine."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(["web1"], listen="[::]:7700") as made:
        made.stop_daemon()  # nobody else asks the agent
        made.lab["web1"].vantage.run(["nft", "-f", "-"], text=_OWN_RULES)
        yield made


@pytest.fixture
def ground(lone_fleet: Fleet) -> Iterator[Ground]:
    """The host, healthy before and after."""
    host = lone_fleet.lab["web1"]
    outsider = lone_fleet.lab.outsider()
    found = Ground(host, outsider, Ordering.of(lone_fleet, host), host.vantage.run(["nft", "-s", "list", "ruleset"]))
    assert is_open(host.vantage, outsider)
    yield found
    if not host.is_up():
        host.boot()
    found.restart()
    found.ordering.release()
    assert is_open(host.vantage, outsider)


@pytest.mark.parametrize("phase", ["arm", "confirm"])
def test_a_killed_agent_locks_nobody_out(ground: Ground, phase: str) -> None:
    """Killed before Commit: the kernel lifts the isolation within its lease, and the next agent clears it away."""
    order = ground.order()
    armed = ground.ordering.arm(order)
    if phase == "confirm":
        ground.ordering.confirm(order, armed)
    ground.host.kill_agent()

    assert is_dark(ground.host.vantage, ground.outsider)
    becomes_open(ground.host.vantage, ground.outsider, within_s=_LAPSED_S)
    ground.restart()
    eventually(ground.is_former, within_s=_REPAIRED_S, what="the former ruleset")
    status = ground.ordering.status()
    assert list(status.isolations) == []
    assert [(ended.order_id, ended.how) for ended in status.ended] == [(order.order_id, "lease ran out")]


def test_a_committed_isolation_outlives_its_agent(ground: Ground) -> None:
    """Killed after Commit: dark with nobody there and after the next start; the release restores every byte."""
    order = ground.order()
    ground.ordering.isolate(order)
    ground.host.kill_agent()

    assert stays_dark(ground.host.vantage, ground.outsider)
    ground.restart()
    assert [(s.order_id, s.phase) for s in ground.ordering.status().isolations] == [(order.order_id, _COMMITTED)]
    assert is_dark(ground.host.vantage, ground.outsider)
    assert ground.ordering.release(order).restored
    assert ground.is_former()


def test_an_agent_killed_after_the_release(ground: Ground) -> None:
    """The host is as it was, and stays so when the agent comes back."""
    order = ground.order()
    ground.ordering.isolate(order)
    ground.ordering.release(order)
    ground.host.kill_agent()

    assert ground.is_former()
    ground.restart()
    assert ground.is_former()
    assert list(ground.ordering.status().isolations) == []


def test_an_unconfirmed_isolation_ends_by_itself(ground: Ground) -> None:
    """The agent lives, the controller never comes back: the kernel lifts it and the agent clears it away."""
    order = ground.order()
    ground.ordering.arm(order)

    assert is_dark(ground.host.vantage, ground.outsider)
    becomes_open(ground.host.vantage, ground.outsider, within_s=_LAPSED_S)
    eventually(ground.is_former, within_s=_REPAIRED_S, what="the former ruleset")
    with pytest.raises(grpc.RpcError, match=r"lease ran out|no isolation"):
        ground.ordering.commit(order)


def kill_at_random(ground: Ground, rounds: int, seed: int) -> None:
    """Kill agents at random moments of an isolation and its release; what is left is one thing or the other."""
    dice = random.Random(seed)
    for _ in range(rounds):
        order = ground.order()
        work = threading.Thread(target=_whole_life, args=(ground.ordering, order))
        work.start()
        time.sleep(dice.uniform(0, 1.2))  # the moment of the kill
        ground.host.kill_agent()
        work.join(60)
        ground.restart()
        eventually(lambda: _is_settled(ground), within_s=_LAPSED_S, what="the lease to run out or not", every_s=0.1)
        if ground.ordering.status().isolations:
            assert is_dark(ground.host.vantage, ground.outsider)
            assert ground.ordering.release().restored
        assert is_open(ground.host.vantage, ground.outsider)
        eventually(ground.is_former, within_s=_REPAIRED_S, what="the former ruleset")


def _whole_life(ordering: Ordering, order: Order) -> None:
    with suppress(grpc.RpcError):
        ordering.isolate(order)
        ordering.release(order)


def _is_settled(ground: Ground) -> bool:
    return all(state.phase == _COMMITTED for state in ground.ordering.status().isolations)


@pytest.mark.timeout(120)
def test_an_agent_killed_at_any_moment(ground: Ground) -> None:
    """Three moments: committed and dark, or as it was."""
    kill_at_random(ground, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 6))
def test_an_agent_killed_at_many_moments(ground: Ground, seed: int) -> None:
    """The same, longer."""
    kill_at_random(ground, 12, seed)


def test_a_reboot_comes_back_dark(ground: Ground) -> None:
    """The rules are gone with the power, the state is kept: `rearm` brings them back before any service runs."""
    order = ground.order()
    ground.ordering.isolate(order)
    ground.host.power_cut()
    ground.host.boot(services=False)
    ground.host.run([str(BIN / "fireline-agent"), "rearm", "--config", ground.host.place(AGENT_CONFIG)])

    assert stays_dark(ground.host.vantage, ground.outsider)
    ground.restart()
    assert [(s.order_id, s.phase) for s in ground.ordering.status().isolations] == [(order.order_id, _COMMITTED)]
    ground.ordering.release(order)
    assert is_open(ground.host.vantage, ground.outsider)


def test_a_reboot_without_the_unit_is_mended_by_the_agent(ground: Ground) -> None:
    """An agent that finds its rules gone at its start puts them back."""
    ground.ordering.isolate(ground.order())
    ground.host.power_cut()
    ground.host.boot()

    becomes_dark(ground.host.vantage, ground.outsider, within_s=_REPAIRED_S)


def test_an_unproved_isolation_does_not_survive_a_reboot(ground: Ground) -> None:
    """What was armed and never committed is not armed again."""
    ground.ordering.arm(ground.order())
    ground.host.power_cut()
    ground.host.boot(services=False)
    ground.host.run([str(BIN / "fireline-agent"), "rearm", "--config", ground.host.place(AGENT_CONFIG)])

    assert is_open(ground.host.vantage, ground.outsider)


@pytest.mark.parametrize("tool", [["nft", "flush", "ruleset"], ["nft", "-f", "-"]])
def test_rules_flushed_by_another_tool_come_back(ground: Ground, tool: list[str]) -> None:
    """All rules flushed, or replaced by a firewall's reload: within seconds they are back, and the drift is told."""
    order = ground.order()
    ground.ordering.isolate(order)
    ground.host.vantage.run(tool, text=f"flush ruleset\n{_OWN_RULES}")

    becomes_dark(ground.host.vantage, ground.outsider, within_s=_REPAIRED_S)
    eventually(
        lambda: [state.drifts >= 1 for state in ground.ordering.status().isolations] == [True],
        within_s=_REPAIRED_S, what="the drift to be told",
    )  # fmt: skip
    ground.ordering.release(order)
    ground.host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{_OWN_RULES}")


def test_an_order_from_before_a_release_is_refused(ground: Ground) -> None:
    """A stale order that comes late changes nothing (fence)."""
    late = ground.order()
    order = ground.order()
    ground.ordering.isolate(order)
    ground.ordering.release(order)

    with pytest.raises(grpc.RpcError, match="older than"):
        ground.ordering.arm(late)
    assert ground.is_former()
    assert is_open(ground.host.vantage, ground.outsider)


_OWN_RULES = """
table inet own {
  set friends { type ipv4_addr; elements = { 198.18.0.1 } }
  chain input { type filter hook input priority filter; policy accept;
    ip saddr @friends counter accept
    tcp dport 1 drop
  }
}
"""
