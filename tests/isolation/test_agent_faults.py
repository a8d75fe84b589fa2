"""Whatever happens to the agent, the host ends proved dark or exactly as it was, and nobody is locked out (I4, I6)."""

import random
import threading
import time
from contextlib import suppress

import grpc
import pytest

from tests.fleet import AGENT_CONFIG, BIN
from tests.isolation.glance import becomes_dark, becomes_open, is_dark, is_open, stays_dark
from tests.isolation.lone import COMMITTED, LAPSED_S, OWN_RULES, REPAIRED_S, Lone
from tests.isolation.ordering import Order, Ordering
from tests.lab import eventually

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("phase", ["arm", "confirm"])
def test_a_killed_agent_locks_nobody_out(lone: Lone, phase: str) -> None:
    """Killed before Commit: the kernel lifts the isolation within its lease, and the next agent clears it away."""
    order = lone.order()
    armed = lone.ordering.arm(order)
    if phase == "confirm":
        lone.ordering.confirm(order, armed)
    lone.host.kill_agent()

    assert is_dark(lone.host.vantage, lone.outsider)
    becomes_open(lone.host.vantage, lone.outsider, within_s=LAPSED_S)
    lone.restart()
    eventually(lone.is_former, within_s=REPAIRED_S, what="the former ruleset")
    status = lone.ordering.status()
    assert list(status.isolations) == []
    assert [(ended.order_id, ended.how) for ended in status.ended] == [(order.order_id, "lease ran out")]


def test_a_committed_isolation_outlives_its_agent(lone: Lone) -> None:
    """Killed after Commit: dark with nobody there and after the next start; the release restores every byte."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.host.kill_agent()

    assert stays_dark(lone.host.vantage, lone.outsider)
    lone.restart()
    assert lone.standing() == [(order.order_id, COMMITTED)]
    assert is_dark(lone.host.vantage, lone.outsider)
    assert lone.ordering.release(order).restored
    assert lone.is_former()


def test_an_agent_killed_after_the_release(lone: Lone) -> None:
    """The host is as it was, and stays so when the agent comes back."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.ordering.release(order)
    lone.host.kill_agent()

    assert lone.is_former()
    lone.restart()
    assert lone.is_former()
    assert list(lone.ordering.status().isolations) == []


def kill_at_random(lone: Lone, rounds: int, seed: int) -> None:
    """Kill agents at random moments of an isolation and its release; what is left is one thing or the other."""
    dice = random.Random(seed)
    for _ in range(rounds):
        order = lone.order()
        work = threading.Thread(target=_whole_life, args=(lone.ordering, order))
        work.start()
        time.sleep(dice.uniform(0, 1.2))  # the moment of the kill
        lone.host.kill_agent()
        work.join(60)
        lone.restart()
        eventually(lambda: _is_settled(lone), within_s=LAPSED_S, what="the lease to run out or not", every_s=0.1)
        if lone.ordering.status().isolations:
            assert is_dark(lone.host.vantage, lone.outsider)
            assert lone.ordering.release().restored
        assert is_open(lone.host.vantage, lone.outsider)
        eventually(lone.is_former, within_s=REPAIRED_S, what="the former ruleset")


def _whole_life(ordering: Ordering, order: Order) -> None:
    with suppress(grpc.RpcError):
        ordering.isolate(order)
        ordering.release(order)


def _is_settled(lone: Lone) -> bool:
    return all(state.phase == COMMITTED for state in lone.ordering.status().isolations)


@pytest.mark.timeout(120)
def test_an_agent_killed_at_any_moment(lone: Lone) -> None:
    """Three moments: committed and dark, or as it was."""
    kill_at_random(lone, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 6))
def test_an_agent_killed_at_many_moments(lone: Lone, seed: int) -> None:
    """The same, longer."""
    kill_at_random(lone, 12, seed)


def test_a_reboot_comes_back_dark(lone: Lone) -> None:
    """The rules are gone with the power, the state is kept: `rearm` brings them back before any service runs."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.host.power_cut()
    lone.host.boot(services=False)
    lone.host.run([str(BIN / "fireline-agent"), "rearm", "--config", lone.host.place(AGENT_CONFIG)])

    assert stays_dark(lone.host.vantage, lone.outsider)
    lone.restart()
    assert lone.standing() == [(order.order_id, COMMITTED)]
    lone.ordering.release(order)
    assert is_open(lone.host.vantage, lone.outsider)


def test_a_reboot_without_the_unit_is_mended_by_the_agent(lone: Lone) -> None:
    """An agent that finds its rules gone at its start puts them back."""
    lone.ordering.isolate(lone.order())
    lone.host.power_cut()
    lone.host.boot()

    becomes_dark(lone.host.vantage, lone.outsider, within_s=REPAIRED_S)


def test_rules_flushed_by_another_tool_come_back(lone: Lone) -> None:
    """A firewall's reload flushes all and loads its own: dark again within seconds, and the drift is told."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{OWN_RULES}")

    becomes_dark(lone.host.vantage, lone.outsider, within_s=REPAIRED_S)
    eventually(
        lambda: [state.drifts >= 1 for state in lone.ordering.status().isolations] == [True],
        within_s=REPAIRED_S, what="the drift to be told",
    )  # fmt: skip
    lone.ordering.release(order)
    lone.host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{OWN_RULES}")
