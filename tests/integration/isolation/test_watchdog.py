"""What others change under an isolation is put back within seconds, counted and told; what is released is not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fireline_wire.isolation import IsolationOrder
from fireline_wire.v1 import host_pb2
from tests.integration.agent.agents import refusal
from tests.integration.isolation.ground import Controller, Ground, ruleset
from tests.lab import Host, eventually

pytestmark = pytest.mark.netns

_SOON_S = 10.0  # a second on a machine at rest


@asynccontextmanager
async def isolated(grounds: Ground, host: Host, **changes: Any) -> AsyncIterator[tuple[Controller, IsolationOrder]]:
    """A committed isolation."""
    order = grounds.order(host, **changes)
    async with grounds.connected(host) as controller:
        await controller.isolate(order, host)
        yield controller, order


async def drifts(controller: Controller) -> int:
    """How often it was put back."""
    return sum(state.drifts for state in (await controller.status()).isolations)


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table netdev {table}",
        "flush chain inet {table} output",
        "add rule inet {table} output accept",
        "insert rule inet {table} input accept",
        "flush set inet {table} armed",
        "add element inet {table} controllers4 {{ 198.18.0.66 }}",
    ],
)
async def test_rules_that_others_change_come_back(grounds: Ground, harm: str) -> None:
    """Flushed, weakened, opened to another: as they were within seconds, and counted."""
    host = grounds.lab["web-1"]
    async with isolated(grounds, host) as (controller, _):
        before = ruleset(host)
        table = before.partition("table inet ")[2].split()[0]
        host.run(["nft", harm.format(table=table)])
        eventually(lambda: ruleset(host) == before, within_s=_SOON_S, what="the rules")

        assert await drifts(controller) == 1


async def test_drift_is_told(grounds: Ground) -> None:
    """As an event of its own, with what changed."""
    host = grounds.lab["web-1"]
    async with isolated(grounds, host) as (controller, order):
        watching = controller.host.Watch(host_pb2.WatchRequest())
        await watching.read()
        host.run(["nft", "flush", "ruleset"])
        told = await watching.read()
        while order.order_id not in told.detail:  # what nobody heard before comes first
            told = await watching.read()
        watching.cancel()

    assert (told.kind, told.detail) == (
        host_pb2.HostEvent.KIND_ISOLATION_DRIFT,
        f"host (order {order.order_id}): it was not in force, or not all of it; put back",
    )


async def test_a_new_interface_is_closed_too(grounds: Ground) -> None:
    """A link that comes up while isolated gets the frame hooks within seconds."""
    host = grounds.lab["web-1"]
    async with isolated(grounds, host) as (controller, _):
        host.run(["ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1"])
        try:
            eventually(lambda: "late0" in ruleset(host), within_s=_SOON_S, what="the new link in the rules")
            count = await drifts(controller)
        finally:
            host.run(["ip", "link", "delete", "late0"])

    assert count >= 1


async def test_what_is_released_stays_released(grounds: Ground) -> None:
    """The watchdog sees the rules go and does not take it for harm."""
    host = grounds.lab["web-1"]
    async with isolated(grounds, host) as (controller, order):
        await controller.release(order.order_id)
        host.run(["nft", "add", "table", "inet", "theirs"])  # so that it looks again
        status = await controller.status()

        assert list(status.isolations) == []
        assert "fireline_" not in ruleset(host)


async def test_a_lease_that_ran_out_is_told_and_cleared_away(grounds: Ground) -> None:
    """By the kernel first; the agent takes the idle rules away, and says how it ended."""
    host = grounds.lab["web-1"]
    order = grounds.order(host, lease_s=5)
    async with grounds.connected(host) as controller:
        watching = controller.host.Watch(host_pb2.WatchRequest())
        armed = await controller.arm(order)
        told = await watching.read()
        while f"{order.order_id}: lease" not in told.detail:
            told = await watching.read()
        status = await controller.status()
        late = await refusal(controller.confirm(order, armed.nonce))
        watching.cancel()

    assert (told.kind, told.detail) == (
        host_pb2.HostEvent.KIND_ISOLATION_CHANGED,
        f"order {order.order_id}: lease ran out",
    )
    assert [e.how for e in status.ended if e.order_id == order.order_id] == ["lease ran out"]
    assert late.reason == "not_found"
    assert ruleset(host) == ""


async def test_rules_flushed_under_a_lease_come_back_with_what_is_left_of_it(grounds: Ground) -> None:
    """Somebody's flush is no way out, and gives no longer lease."""
    host = grounds.lab["web-1"]
    order = grounds.order(host, lease_s=30)
    async with grounds.connected(host) as controller:
        await controller.arm(order)
        host.run(["nft", "flush", "ruleset"])
        eventually(lambda: ruleset(host).count("timeout") == 6, within_s=_SOON_S, what="the rules")
        [state] = (await controller.status()).isolations

    assert 10_000 < state.lease_left_ms < 30_000
