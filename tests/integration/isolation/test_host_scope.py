"""A whole host cut off and let back, on a real kernel."""

from collections.abc import Iterator

import pytest

from fireline_wire.v1 import isolation_pb2
from tests.integration.isolation.ground import Ground, ground, ruleset
from tests.lab import NETNS, default_backend

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(default_backend() != NETNS, reason="needs root for network namespaces"),
]


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two hosts with agents."""
    with ground(tmp_path_factory.mktemp("ground"), ("web-1", "web-2")) as made:
        yield made


async def test_the_whole_way_of_an_isolation(grounds: Ground) -> None:
    """Planned, armed, confirmed on a new connection, committed, released; and the ruleset is byte-equal after."""
    host = grounds.lab["web-1"]
    host.run(["nft", "add", "table", "inet", "theirs"])
    before = ruleset(host)
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        plan = await controller.plan(order)
        assert plan.refusal == ""
        assert plan.capability == "full"
        armed = await controller.arm(order)
        async with grounds.connected(host) as again:
            await again.confirm(order, armed.nonce)
        state = await controller.commit(order)
        status = await controller.status()
        async with grounds.connected(grounds.lab["web-2"]) as other:
            look = await other.witness.Look(isolation_pb2.LookRequest(addresses=[host.address], ports=[7700, 9]))
        released = await controller.release(order.order_id)

    assert state.phase == isolation_pb2.IsolationState.PHASE_COMMITTED
    assert [one.order_id for one in status.isolations] == [order.order_id]
    assert {seen.how for seen in look.seen} == {isolation_pb2.Seen.HOW_SILENT}
    assert (released.restored, released.difference) == (True, "")
    assert ruleset(host) == before
