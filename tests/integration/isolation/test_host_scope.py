"""A whole host cut off and let back by calls to its real agent, on a real kernel."""

import json
import sys

import pytest

from fireline_wire.v1 import host_pb2, isolation_pb2
from tests.fakes.fleet_keys import new_authority
from tests.integration.agent.agents import refusal, request
from tests.integration.isolation.ground import STATE, Ground, changed, ruleset
from tests.lab import eventually

pytestmark = pytest.mark.netns

_COMMITTED = isolation_pb2.IsolationState.PHASE_COMMITTED
_THEIRS = """
table inet theirs {
  chain input { type filter hook input priority filter; policy accept; ct state invalid counter drop
  }
}
"""


async def test_the_whole_way_of_an_isolation(grounds: Ground) -> None:
    """Planned, armed, confirmed on a new connection, committed, released; and the ruleset is byte-equal after."""
    host = grounds.lab["web-1"]
    host.run(["nft", "-f", "-"], text=_THEIRS)
    before = ruleset(host)
    order = grounds.order(host)
    async with grounds.connected(host) as controller, grounds.connected(grounds.lab["web-2"]) as other:
        plan = await controller.plan(order)
        look = isolation_pb2.LookRequest(addresses=plan.addresses, ports=plan.ports)
        seen_before = await other.witness.Look(look)
        armed = await controller.arm(order)
        async with grounds.connected(host) as again:
            confirmed = await again.confirm(order, armed.nonce)
        state = await controller.commit(order)
        seen = await other.witness.Look(look)
        status = await controller.status()
        released = await controller.release(order.order_id)

    assert (plan.refusal, plan.capability) == ("", "full")
    assert (host.address in plan.addresses, plan.ports[0], plan.agent_port) == (True, 7700, 7700)
    assert {s.how for s in seen_before.seen if s.port == 7700} == {isolation_pb2.Seen.HOW_CONNECTED}
    assert {s.how for s in seen.seen} == {isolation_pb2.Seen.HOW_SILENT}
    assert confirmed.phase == isolation_pb2.IsolationState.PHASE_CONFIRMED
    assert 0 < confirmed.lease_left_ms <= 30_000
    assert (state.phase, state.lease_left_ms) == (_COMMITTED, 0)
    assert [(s.order_id, s.phase, s.scope) for s in status.isolations] == [(order.order_id, _COMMITTED, "host")]
    assert status.isolations[0].dropped_packets > 0
    assert (list(released.order_ids), released.restored, released.difference) == ([order.order_id], True, "")
    assert ruleset(host) == before


async def test_the_host_says_how_far_it_can_be_isolated(grounds: Ground) -> None:
    """It is known before the incident."""
    async with grounds.connected(grounds.lab["web-1"]) as controller:
        description = await controller.host.Describe(host_pb2.DescribeRequest())

    assert description.isolation == "full"


async def test_a_repeat_of_arm_gets_the_first_answer(grounds: Ground) -> None:
    """I2: the same nonce, and it says so; nothing is armed a second time."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        first = await controller.arm(order, request_id="arm-twice")
        again = await controller.arm(order, request_id="arm-twice")

    assert (first.replayed, again.replayed) == (False, True)
    assert again.nonce == first.nonce


async def test_an_order_that_would_cut_its_caller_off_is_refused(grounds: Ground) -> None:
    """Before anything is touched: the caller's own address is not among those that stay open."""
    host = grounds.lab["web-1"]
    before = ruleset(host)
    async with grounds.connected(host) as controller:
        found = await refusal(controller.arm(grounds.order(host, controllers=("198.18.0.77",))))

    assert found.reason == "lockout"
    assert found.message == (
        f"the call comes from {grounds.lab.controller_address}, which is not among the controllers that the order "
        "leaves open (198.18.0.77): it would cut the caller off; nothing was changed"
    )
    assert ruleset(host) == before


@pytest.mark.parametrize("what", ["host", "authority"])
async def test_an_order_that_is_not_for_this_host_or_by_its_authority_is_refused(
    grounds: Ground, what: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An order is believed by its signature, and by the name in it."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    if what == "host":
        order = changed(order, host="web-2")
        signed, wanted = grounds.signed(order), ("invalid_request", "the order is for web-2, this is web-1")
    else:
        stranger = Ground(grounds.lab, new_authority(tmp_path_factory.mktemp("stranger")))
        signed, wanted = stranger.signed(order), ("tampered", "the order's signer is not believed: ")
    async with grounds.connected(host) as controller:
        found = await refusal(controller.isolation.Plan(isolation_pb2.PlanIsolationRequest(order=signed)))

    assert found.reason == wanted[0]
    assert found.message.startswith(wanted[1])


async def test_a_commit_needs_the_nonce_on_a_new_connection(grounds: Ground) -> None:
    """I4: not without Confirm, not with another nonce, not on the connection of Arm."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller, grounds.connected(host) as again:
        armed = await controller.arm(order)
        unconfirmed = await refusal(controller.commit(order))
        wrong = await refusal(again.confirm(order, b"another"))
        same = await refusal(controller.confirm(order, armed.nonce))

    assert [found.reason for found in (unconfirmed, wrong, same)] == ["not_proved"] * 3
    assert unconfirmed.message == f"order {order.order_id} is armed, wanted confirmed"
    assert wrong.message == f"order {order.order_id}: the nonce is not the one of Arm"
    assert "this is the connection of Arm" in same.message


async def test_a_late_order_after_a_release_is_refused(grounds: Ground) -> None:
    """The fence: an order older than the newest one seen, and one that has ended, stay refused."""
    host = grounds.lab["web-1"]
    early, order = grounds.order(host), grounds.order(host)
    async with grounds.connected(host) as controller:
        await controller.isolate(order, host)
        await controller.release(order.order_id)
        fenced = await refusal(controller.arm(early))
        ended = await refusal(controller.arm(changed(order, fence_token=next(grounds.tokens))))
        stale = await refusal(controller.release(token=early.fence_token))

    assert (fenced.reason, stale.reason) == ("fenced", "fenced")
    assert ended.message == f"order {order.order_id} has ended on this host: give a new one"


async def test_releasing_what_was_never_isolated_keeps_a_late_order_out(grounds: Ground) -> None:
    """No error, and noted."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        released = await controller.release(order.order_id)
        late = await refusal(controller.arm(order))

    assert (list(released.order_ids), released.restored) == ([], True)
    assert late.reason == "fenced"


async def test_who_was_connected_is_ended_and_told(grounds: Ground) -> None:
    """An open session from elsewhere dies at once, with its process named; the evidence has it too."""
    host, other = grounds.lab["web-1"], grounds.lab["web-2"]
    host.spawn([sys.executable, "-c", _SERVER.format(address="0.0.0.0")])
    eventually(lambda: ":4444" in host.run(["ss", "-tln"]), within_s=10, what="the server")
    other.spawn([sys.executable, "-c", _CLIENT.format(address=host.address)])
    eventually(lambda: ":4444" in host.run(["ss", "-tn"]), within_s=10, what="the session")
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        armed = await controller.arm(order)
        captured = await controller.capture(request("evidence", "isolation"))

    mine = [cut for cut in armed.cut if cut.local == f"{host.address}:4444"]
    assert [(cut.protocol, cut.state) for cut in mine] == [("tcp", "ESTABLISHED")]
    assert (mine[0].process.startswith("python"), mine[0].pid > 0) == (True, True)
    assert mine[0].remote.startswith(f"{other.address}:")
    assert "ESTAB" not in host.run(["ss", "-tn", "sport", "=", ":4444"])
    recorded = [json.loads(line) for line in captured["isolation/connections.jsonl"].splitlines()]
    assert mine[0].remote in [entry["remote"] for entry in recorded]


async def test_the_controller_keeps_its_connection(grounds: Ground) -> None:
    """A stream that was open before goes on: no upload is cut."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        watching = controller.host.Watch(host_pb2.WatchRequest())
        first = await watching.read()
        await controller.isolate(order, host)
        told = [await watching.read() for _ in range(2)]
        watching.cancel()

    assert first.kind == host_pb2.HostEvent.KIND_WATCHING
    assert [(event.kind, event.detail) for event in told] == [
        (host_pb2.HostEvent.KIND_ISOLATION_CHANGED, f"host (order {order.order_id}): armed"),
        (host_pb2.HostEvent.KIND_ISOLATION_CHANGED, f"host (order {order.order_id}): committed"),
    ]


async def test_a_release_says_what_others_changed_meanwhile(grounds: Ground) -> None:
    """Our tables alone are taken away; another's change stays, and is shown."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        await controller.isolate(order, host)
        host.run(["nft", "add", "table", "inet", "theirs"])
        released = await controller.release(order.order_id)

    assert not released.restored
    assert "+table inet theirs {" in released.difference
    assert "fireline_" not in ruleset(host)


async def test_another_address_is_left_open_ahead_of_a_failover(grounds: Ground) -> None:
    """Amend swaps the addresses in one transaction, and the isolation stands."""
    host, other = grounds.lab["web-1"], grounds.lab["web-2"]
    order = grounds.order(host)
    look = isolation_pb2.LookRequest(addresses=[host.address], ports=[7700])
    async with grounds.connected(host) as controller, grounds.connected(other) as elsewhere:
        await controller.isolate(order, host)
        dark = await elsewhere.witness.Look(look)
        both = (*order.controllers, other.address)
        state = await controller.amend(changed(order, controllers=both, fence_token=next(grounds.tokens)))
        seen = await elsewhere.witness.Look(look)

    assert (state.phase, list(state.controllers)) == (_COMMITTED, list(both))
    assert dark.seen[0].how == isolation_pb2.Seen.HOW_SILENT
    assert seen.seen[0].how == isolation_pb2.Seen.HOW_CONNECTED


async def test_rules_that_no_record_explains_are_told_and_released(grounds: Ground) -> None:
    """A record that was damaged or lost leaves nobody cut off for good: a release of everything takes them away."""
    host = grounds.lab["web-1"]
    order = grounds.order(host)
    async with grounds.connected(host) as controller:
        await controller.isolate(order, host)
        name = ruleset(host).partition("table inet ")[2].split()[0]
        host.run(["sed", "-i", "s/envelope_base64.: .e/&A/", f"{STATE}/isolation/{name}.json"])
        status = await controller.status()
        await controller.release()
        after = await controller.status()

    assert list(status.isolations) == []
    assert list(status.lacks) == [
        f"{name}: rules or a record of an isolation that can't be believed; a release of everything removes it"
    ]
    assert (list(after.lacks), ruleset(host)) == ([], "")


async def test_a_second_isolation_takes_the_place_of_the_first(grounds: Ground) -> None:
    """In one transaction: the host has one, and the first is superseded once the second is committed."""
    host = grounds.lab["web-1"]
    first, second = grounds.order(host), grounds.order(host)
    async with grounds.connected(host) as controller:
        await controller.isolate(first, host)
        await controller.isolate(second, host)
        status = await controller.status()
        released = await controller.release(second.order_id)

    assert [s.order_id for s in status.isolations] == [second.order_id]
    assert released.restored
    assert ruleset(host) == ""


async def test_the_first_isolation_comes_back_where_the_second_is_never_confirmed(grounds: Ground) -> None:
    """The former state of an isolated host is its isolation."""
    host = grounds.lab["web-1"]
    first, second = grounds.order(host), grounds.order(host, lease_s=5)
    async with grounds.connected(host) as controller:
        await controller.isolate(first, host)
        await controller.arm(second)
        eventually(lambda: ruleset(host).count("table inet fireline_") == 1, within_s=5, what="one isolation")
        eventually(lambda: "elements = { 0x00000000 }" in ruleset(host), within_s=15, what="the first one")
        status = await controller.status()

    assert [(s.order_id, s.phase) for s in status.isolations] == [(first.order_id, _COMMITTED)]
    assert [ended.how for ended in status.ended if ended.order_id == second.order_id] == ["lease ran out"]


_SERVER = """
import socket
s = socket.create_server(("{address}", 4444))
c, _ = s.accept()
c.recv(1)
"""
_CLIENT = """
import socket
s = socket.create_connection(("{address}", 4444))
s.recv(1)
"""
