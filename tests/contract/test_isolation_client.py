"""What the controller asks a host about isolation, over the real wire, and what it takes for an answer (I8)."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fireline_controller import pki
from fireline_controller.config import Fanout
from fireline_controller.hosts import Fleet, HostClient, SignedOrder
from fireline_controller.isolation import How, Sight
from fireline_controller.model import HostFailed
from fireline_wire import envelope
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, Scope
from fireline_wire.v1 import isolation_pb2
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import agent_credentials, authority, command, enrolled
from tests.fakes.isolating import FakeIsolation, FakeNetwork

ADDRESS = "2001:2:0:f00d::1"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    """An authority for all tests here."""
    return authority(Path(tmp_path_factory.mktemp("ca")) / "pki")


@pytest.fixture
def rules() -> FakeIsolation:
    """The rules of the host."""
    network = FakeNetwork()
    found = network.hosts[ADDRESS] = FakeIsolation(network, ADDRESS, "web-1")
    return found


@pytest.fixture
async def client(ca: pki.Authority, rules: FakeIsolation) -> AsyncIterator[HostClient]:
    """The client of the host."""
    fleet = Fleet(lambda: ca.controller, settings=Fanout())
    async with FakeAgent(agent_credentials(ca), isolation=rules).serving() as agent:
        yield fleet.client(enrolled(agent.address))
        await fleet.close()


@pytest.fixture
def order(ca: pki.Authority) -> SignedOrder:
    """An order of the controller's."""
    plain = IsolationOrder("op-1.web-1", "web-1", Scope("host"), ("198.18.0.254",), 40, 7, "2026-05-01", "0" * 64)
    return SignedOrder(envelope.seal(plain.to_bytes(), PAYLOAD_TYPE, ca.journal_key), ca.controller.chain_pem)


async def test_the_way_of_one_isolation(client: HostClient, rules: FakeIsolation, order: SignedOrder) -> None:
    """Plan, arm, confirm on a connection of its own, commit, status, amend, release: each as the host tells it."""
    plan = await client.plan_isolation(order, timeout_s=5)
    assert (plan.addresses, plan.ports, plan.agent_port) == ((ADDRESS,), (22, 80, 7700), 7700)
    assert plan.transaction == "table inet fireline {\n}\n"

    armed = await client.arm(command("op-1-arm"), order, timeout_s=5)
    assert (armed.applied_us, armed.sockets_killed, armed.replayed) == (900, 3, False)
    confirmed = await client.confirm(command("op-1-confirm"), "op-1.web-1", armed.nonce, timeout_s=5)
    assert (confirmed.phase, confirmed.scope, confirmed.armed_at) == ("confirmed", "host", None)
    assert (await client.commit(command("op-1-commit"), "op-1.web-1", timeout_s=5)).phase == "committed"
    assert rules.peers["Confirm"] not in (rules.peers["Arm"], rules.peers["Commit"])

    status = await client.isolation_status(timeout_s=5)
    assert [(one.order_id, one.phase) for one in status.isolations] == [("op-1.web-1", "committed")]
    assert (await client.amend(command("op-2"), order, timeout_s=5)).controllers == ("198.18.0.254",)
    back = await client.release(command("op-3"), "", timeout_s=5)
    assert (back.order_ids, back.restored, back.applied_us) == (("op-1.web-1",), True, 500)


async def test_a_witness_tells_of_each_place(client: HostClient) -> None:
    """Connected, refused, silent."""
    elsewhere = "2001:2:0:f00d::2"

    seen = await client.look([ADDRESS, elsewhere], [22, 23], within_s=0.1, timeout_s=5)

    assert seen == (
        Sight(ADDRESS, 22, How.CONNECTED), Sight(ADDRESS, 23, How.REFUSED),
        Sight(elsewhere, 22, How.SILENT), Sight(elsewhere, 23, How.SILENT),
    )  # fmt: skip


Asked = Callable[[HostClient, SignedOrder], Any]


async def _plan(client: HostClient, order: SignedOrder) -> object:
    return await client.plan_isolation(order, timeout_s=5)


async def _arm(client: HostClient, order: SignedOrder) -> object:
    return await client.arm(command(), order, timeout_s=5)


async def _look(client: HostClient, order: SignedOrder) -> object:
    return await client.look([ADDRESS], [22, 23], within_s=0.1, timeout_s=5)


def _seen(*places: tuple[str, int]) -> isolation_pb2.LookReply:
    return isolation_pb2.LookReply(seen=[isolation_pb2.Seen(address=a, port=p) for a, p in places])


LIES: dict[str, tuple[str, Any, Asked, str]] = {
    "an address that is none": ("Plan", {"addresses": ["x\x1b[2J"]}, _plan, "it calls 'x\N{REPLACEMENT CHARACTER}"),
    "loopback": ("Plan", {"addresses": ["127.0.0.1"]}, _plan, "it says that others reach it at 127.0.0.1"),
    "link-local": ("Plan", {"addresses": ["fe80::1"]}, _plan, "it says that others reach it at fe80::1"),
    "too many addresses": (
        "Plan", {"addresses": [f"198.18.0.{n}" for n in range(65)]}, _plan, "it has 65 addresses, wanted at most 64",
    ),
    "port 0": ("Plan", {"ports": [0]}, _plan, "it names 1 ports: wanted at most 64, each from 1 to 65535"),
    "too many ports": ("Plan", {"ports": range(1, 66)}, _plan, "it names 65 ports"),
    "no nonce": ("Arm", isolation_pb2.Armed(), _arm, "its nonce has 0 bytes, wanted 16 to 64"),
    "a witness that leaves out a place": ("Look", _seen((ADDRESS, 22)), _look, "it told of 1 places, wanted each of 2"),
    "a witness that tells twice": ("Look", _seen((ADDRESS, 22), (ADDRESS, 22)), _look, "it told of 2 places"),
    "a witness that tells of others": ("Look", _seen((ADDRESS, 22), ("2001:2::2", 23)), _look, "it told of 2 places"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_host_fails_alone_and_by_name(
    client: HostClient, rules: FakeIsolation, order: SignedOrder, lie: str
) -> None:
    """I8: what fits no contract is refused before anybody builds on it."""
    call, said, ask, message = LIES[lie]
    if isinstance(said, dict):
        rules.plan = said
    else:
        rules.answers[call] = said

    with pytest.raises(HostFailed) as caught:
        await ask(client, order)

    assert str(caught.value).startswith("web-1: ")
    assert message in str(caught.value)
    assert caught.value.reason == "bad_data"


async def test_what_a_host_says_is_bounded_and_made_fit_to_show(
    client: HostClient, rules: FakeIsolation, order: SignedOrder
) -> None:
    """I8: no text of a host steers a terminal, and no list of it fills the memory."""
    rules.plan = {
        "transaction": "a\n\tb\x1b[2J" + "x" * (2 << 20), "lacks": ["no\x1b[31m"] * 3000, "capability": "full\r\n",
    }  # fmt: skip
    rules.answers["Status"] = isolation_pb2.IsolationStatus(
        isolations=[isolation_pb2.IsolationState(phase=99, reason="r" * 5000)] * 200  # type: ignore[arg-type]  # no phase
    )

    plan = await client.plan_isolation(order, timeout_s=5)
    status = await client.isolation_status(timeout_s=5)

    assert plan.transaction.startswith("a\n\tb\N{REPLACEMENT CHARACTER}[2J")
    assert (len(plan.transaction), len(plan.lacks)) == (1 << 20, 1000)
    assert plan.lacks[0] == "no\N{REPLACEMENT CHARACTER}[31m"
    assert plan.capability == "full\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert len(status.isolations) == 100
    assert (status.isolations[0].phase, len(status.isolations[0].reason)) == ("unspecified", 1000)
