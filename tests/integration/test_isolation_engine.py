"""Isolation as the controller does it, against agents and witnesses that fail, lie and are lost in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from fireline_controller.engine import IsolationWish, TargetSpec, Wish
from fireline_controller.hosts import vantage
from fireline_controller.isolation import Isolation, Phase
from fireline_controller.model import HostOutcome, Line, NotFound, Operation, Outcome, PolicyError
from fireline_controller.store import Transaction
from fireline_wire import envelope
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, code_sha256
from fireline_wire.status import Refusal
from fireline_wire.v1 import host_pb2, isolation_pb2
from tests.fakes.capturing import CapturingAgent
from tests.fakes.desk import Desk, desk, now, outcomes
from tests.fakes.isolating import FakeIsolation

SETTINGS = """
[isolation]
controllers = ["198.18.0.254", "2001:2::fe"]
lease_s = 5
look_s = 0.05
"""
NOW = IsolationWish(now=True)


@pytest.fixture
async def four(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with four hosts."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("web1", "web2", "web3", "web4"):
            await made.enrol(name)
        yield made


def wish(*terms: str, **fields: Any) -> Wish:
    """What alice wants."""
    return replace(Wish("alice", TargetSpec(terms), reason="drill"), **fields)


async def isolate(made: Desk, *terms: str, how: IsolationWish = NOW, **fields: Any) -> dict[str, HostOutcome]:
    """Isolate these hosts; the outcomes."""
    return outcomes([news async for news in made.engine.isolations.isolate(wish(*terms, **fields), how)])


async def release(made: Desk, *terms: str, **fields: Any) -> dict[str, HostOutcome]:
    """Release these hosts; the outcomes."""
    return outcomes([news async for news in made.engine.isolations.release(wish(*terms, **fields))])


def rules(made: Desk, name: str) -> FakeIsolation:
    """The rules of a host."""
    found = made.agents[name].isolation
    assert found is not None
    return found


async def lines(made: Desk, host: str = "") -> list[Line]:
    """The journal's lines about isolation."""
    found = await made.store.read(lambda tx: tx.lines(1))
    return [line for line in found if line.entry.kind.startswith("isolation.") and host in ("", line.entry.host)]


async def kinds(made: Desk, host: str) -> list[str]:
    """What the journal says of a host, in short."""
    return [line.entry.kind.removeprefix("isolation.") for line in await lines(made, host)]


async def until(claim: Callable[[], bool]) -> None:
    """Wait until a claim holds."""
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def move(made: Desk, name: str, address: str) -> None:
    """Let the record say that a host is somewhere else: at port 1 nobody answers."""
    await made.store.run(lambda tx: tx.put_host(replace(tx.host(name), address=address)))


async def record(made: Desk, host: str) -> Isolation:
    """The one isolation of a host on record."""
    (found,) = await made.store.read(lambda tx: tx.isolations(set(Phase), host))
    return found


async def test_a_host_is_isolated_proved_and_released(four: Desk) -> None:
    """I4, I6: plan, look, journal, arm, confirm and look, commit; each in its order, and back."""
    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK, found.detail
    assert found.detail.startswith("dark to web")
    assert rules(four, "web1").is_dark()
    assert rules(four, "web1").calls()[:5] == ["Status", "Plan", "Arm", "Confirm", "Commit"]
    times = found.isolation
    assert times is not None
    assert 0 < times.armed_ms <= times.confirmed_ms <= times.proved_ms <= times.committed_ms
    assert (times.captured_ms, times.applied_us, times.sockets_killed) == (0, 900, 3)
    assert len(times.witnesses) == 2
    assert await kinds(four, "web1") == ["arming", "committed"]

    back = (await release(four, "web1"))["web1"]
    assert back.outcome is Outcome.OK
    assert back.detail.startswith("restored; 4 ports that answered before are seen again by web")
    assert not rules(four, "web1").is_dark()
    assert (await record(four, "web1")).phase is Phase.RELEASED
    assert await kinds(four, "web1") == ["arming", "committed", "releasing", "released"]
    assert await four.problems() == []


async def test_many_hosts_go_dark_at_once_and_lean_on_the_others(four: Desk) -> None:
    """I1: one outcome each; hosts that are cut off themselves are nobody's witnesses."""
    found = await isolate(four, "web[1-3]")

    assert {o.outcome for o in found.values()} == {Outcome.OK}, found
    assert {o.isolation.witnesses for o in found.values() if o.isolation} == {("web4",)}


async def test_the_order_is_signed_and_its_code_is_nowhere_but_in_the_store(four: Desk) -> None:
    """What a host is told is the controller's, literal addresses and all; the journal knows the code's hash."""
    await isolate(four, "web1", how=replace(NOW, allowances=()), incident_id="")
    kept = await record(four, "web1")

    (armed,) = [asked for name, asked in rules(four, "web1").asked if name == "Arm"]
    assert isinstance(armed, isolation_pb2.ArmRequest)
    certificate = x509.load_pem_x509_certificate(armed.order.chain_pem)
    key = certificate.public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    order = IsolationOrder.parse(envelope.unseal(armed.order.envelope, PAYLOAD_TYPE, key))
    assert (order.host, str(order.scope), order.lease_s, order.operator) == ("web1", "host", 5, "alice")
    assert order.controllers == ("198.18.0.254", "2001:2::fe")
    assert order.fence_token == armed.context.fence_token == kept.fence_token
    assert order.code_sha256 == code_sha256(kept.code)
    assert len(kept.code) == 19
    assert not [line for line in await lines(four) if kept.code.encode() in line.canonical]


async def test_a_code_is_shown_only_with_a_reason_on_record(four: Desk) -> None:
    """Who has seen it is known."""
    await isolate(four, "web1")
    with pytest.raises(PolicyError, match="say --reason"):
        await four.engine.isolations.codes("web1", wish(operator="bob", reason=" "))
    with pytest.raises(NotFound, match="web2: nothing is in force there"):
        await four.engine.isolations.codes("web2", wish(operator="bob", reason="console"))

    (shown,), _ = await four.engine.isolations.codes("web1", wish(operator="bob", reason="console"))

    assert shown == await record(four, "web1")
    assert (await lines(four, "web1"))[-1].entry.summary == "the one-time code of web1 was shown to bob"


async def test_evidence_is_sealed_before_a_host_is_touched(four: Desk) -> None:
    """I3: volatile state first; and after, who was cut off."""
    agent = four.agents["web1"]
    assert isinstance(agent, CapturingAgent)
    rules(four, "web1").on_call = lambda name: order.append(name)
    order: list[str] = []
    contents = dict(agent.contents)

    class Watched(dict[str, bytes]):
        def get(self, *arguments: Any) -> Any:
            order.append("fetched")
            return contents.get(*arguments)

    agent.contents = Watched(contents)
    found = (await isolate(four, "web1", how=IsolationWish()))["web1"]

    assert found.outcome is Outcome.OK, found.detail
    assert order == ["Status", "Plan", "fetched", "Arm", "Confirm", "Commit"], "the same bytes are not fetched twice"
    sealed = await four.engine.records.list(incident_id="", host="web1")
    assert [e.profile for e in sealed] == ["volatile", "isolation"]
    assert found.evidence_id == sealed[0].id
    assert found.isolation is not None
    assert 0 < found.isolation.captured_ms <= found.isolation.armed_ms


async def test_a_host_whose_evidence_can_not_be_sealed_is_not_touched(four: Desk) -> None:
    """I3: unless the operator says so on record."""
    agent = four.agents["web1"]
    assert isinstance(agent, CapturingAgent)
    agent.announce = lambda sealed: setattr(sealed, "manifest_sha256", b"\0" * 32)

    found = (await isolate(four, "web1", how=IsolationWish()))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "tampered")
    assert found.detail.endswith("not isolated, for nothing is sealed; to isolate without evidence: --now")
    assert "Arm" not in rules(four, "web1").calls()
    assert (await isolate(four, "web1"))["web1"].outcome is Outcome.OK


async def test_who_was_cut_off_may_be_missing_from_the_evidence(four: Desk) -> None:
    """An isolation that stands is no failure because an agent lacks a collector; it is said."""
    agent = four.agents["web1"]
    rules(four, "web1").on_call = lambda name: setattr(agent, "refusal", REFUSED if name == "Commit" else None)

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert found.detail.endswith("who was cut off is not in evidence: web1: no such collector")


REFUSED = Refusal("invalid_request", "no such collector")


async def test_a_host_that_still_answers_is_let_back(four: Desk) -> None:
    """I4: one port that answers one witness is enough."""
    rules(four, "web1").leaks = (22,)

    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert "web1: not proved dark: it still answers: [2001:2:0:f00d::1]:22 (connected to web" in found.detail
    assert found.detail.endswith("; let back, restored")
    assert not rules(four, "web1").is_dark()
    assert (await record(four, "web1")).phase is Phase.LIFTED
    assert await kinds(four, "web1") == ["arming", "releasing", "lifted"]


async def test_silence_proves_nothing_where_nothing_answered_before(four: Desk) -> None:
    """Nobody could see the host before: it is let back, or stays with a reason on record, and is not called proved."""
    for name in ("web2", "web3", "web4"):
        rules(four, name).sees = isolation_pb2.Seen.HOW_SILENT

    found = (await isolate(four, "web1"))["web1"]
    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert "before, so silence proves nothing; let back, restored" in found.detail

    kept = (await isolate(four, "web1", how=replace(NOW, unproved="it serves nothing")))["web1"]
    assert kept.outcome is Outcome.OK
    assert kept.detail.startswith("NOT PROVED dark: nothing answered")
    assert kept.isolation is not None
    assert kept.isolation.proved_ms == 0
    last = (await lines(four, "web1"))[-1].entry
    assert last.summary.startswith("web1 isolated, NOT PROVED (it serves nothing): nothing answered ")
    assert last.data["proved"] is False


async def test_a_closed_port_that_falls_silent_proves_it_too(four: Desk) -> None:
    """A host that serves nothing refuses connections: that is an answer, and its end is seen."""
    rules(four, "web1").ports = ()

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert "2 ports that answered before are silent" in found.detail


async def test_one_witness_that_is_lost_in_between_leaves_the_other(four: Desk) -> None:
    """Its word is missing, and is not needed."""
    for name in ("web2", "web3", "web4"):
        rules(four, name).looks_left = 1
    chosen = (await isolate(four, "web1", how=replace(NOW, unproved="look who it is")))["web1"].isolation
    assert chosen is not None
    assert (await release(four, "web1"))["web1"].outcome is Outcome.OK
    first, second = chosen.witnesses
    rules(four, first).looks_left, rules(four, second).looks_left = 1, 1000

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert found.detail.startswith(f"dark to {second}: ")


async def test_without_a_witness_left_to_look_again_the_host_is_let_back(four: Desk) -> None:
    """I4: witnesses that die between their two looks prove nothing."""
    for name in ("web2", "web3", "web4"):
        rules(four, name).looks_left = 1

    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert "could not look again" in found.detail
    assert not rules(four, "web1").is_dark()


async def test_a_dead_witness_is_replaced_before_it_is_needed(four: Desk) -> None:
    """Two of three are asked; one that does not answer gives its place to the next."""
    for name in ("web2", "web3"):
        rules(four, name).looks_left = 0

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert found.detail.startswith("dark to web4: ")


async def test_a_witness_that_lies_leaves_the_host_as_it_was(four: Desk) -> None:
    """It says that it sees what is dark: the host is let back, and the witness is named."""
    for name in ("web2", "web3", "web4"):
        rules(four, name).sees = isolation_pb2.Seen.HOW_CONNECTED

    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert "(connected to web" in found.detail
    assert not rules(four, "web1").is_dark()


async def test_a_host_that_does_not_confirm_is_let_back(four: Desk) -> None:
    """I4: reachable by the controller on a new connection, or not isolated."""
    rules(four, "web1").refusals["Confirm"] = Refusal("not_proved", "that is not the nonce")

    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert found.detail == "web1: that is not the nonce; let back, restored"
    assert not rules(four, "web1").is_dark()


async def test_the_confirmation_comes_on_a_connection_of_its_own(four: Desk) -> None:
    """What stood before the rules proves nothing about what gets through them."""
    await isolate(four, "web1")

    peers = rules(four, "web1").peers
    assert peers["Confirm"] != peers["Arm"] == peers["Commit"]


@pytest.mark.parametrize("reason", ["unsupported", "lockout", "policy_denied"])
async def test_a_host_that_refuses_is_left_as_it_is(four: Desk, reason: str) -> None:
    """What was refused before anything was touched needs no undoing."""
    rules(four, "web1").refusals["Arm"] = Refusal(reason, "no")

    found = (await isolate(four, "web1"))["web1"]

    assert (found.detail, found.reason) == ("web1: no", reason)
    assert "Release" not in rules(four, "web1").calls()
    assert (await record(four, "web1")).phase is Phase.WITHDRAWN
    assert await kinds(four, "web1") == ["arming", "withdrawn"]


async def test_a_host_that_can_not_be_isolated_says_why_in_its_plan(four: Desk) -> None:
    """Known before it is touched."""
    rules(four, "web1").plan = {"refusal": "nft is missing"}

    found = (await isolate(four, "web1"))["web1"]

    assert (found.reason, found.detail) == ("unsupported", "web1: can't be isolated: nft is missing")
    assert await kinds(four, "web1") == []


async def test_the_controllers_own_host_is_never_isolated(four: Desk) -> None:
    """Forced or not: it is known by the way there, which is nobody's word."""
    await move(four, "web1", f"{own_address()}:7700")

    found = (await isolate(four, "web1", how=replace(NOW, force="I know what I do")))["web1"]

    assert (found.outcome, found.reason) == (Outcome.DENIED, "lockout")
    assert found.detail == "web1: it is this controller's own host: it is never isolated"


def own_address() -> str:
    """An address of this machine that others could reach it at."""
    return min(a for a in vantage.own_addresses() if ":" not in a and not a.startswith("127."))


async def test_a_host_that_only_says_it_is_the_controllers_own_can_be_forced(four: Desk) -> None:
    """I8: whoever holds it could say so in order to be spared."""
    own = vantage.machine_id()
    rules(four, "web1").plan = {"machine_id": own}
    if not own:
        return  # a machine without an id has nothing to be mistaken for

    found = (await isolate(four, "web1"))["web1"]
    assert (found.outcome, found.reason) == (Outcome.DENIED, "lockout")
    assert "web1: it says that its machine id is " in found.detail

    forced = (await isolate(four, "web1", how=replace(NOW, force="it lies")))["web1"]
    assert forced.outcome is Outcome.OK, forced.detail


async def test_a_host_that_names_places_which_never_fall_silent_can_stay_cut_off(four: Desk) -> None:
    """I8: with somebody else's address as its own it would be let back each time; the operator may say otherwise."""
    rules(four, "web1").plan = {"addresses": [rules(four, "web1").address, rules(four, "web2").address]}

    found = (await isolate(four, "web1"))["web1"]
    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")

    kept = (await isolate(four, "web1", how=replace(NOW, unproved="that is web2's address")))["web1"]
    assert kept.outcome is Outcome.OK
    assert kept.detail.startswith("NOT PROVED dark: it still answers: [2001:2:0:f00d::2]:")


async def test_two_operators_can_not_take_both_members_of_a_group(tmp_path: Path) -> None:
    """Each of them saw the other member healthy; the second one to put it on record is refused."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "db2"):
            await made.enrol(name, service="orders")
        await made.enrol("web1")
        other: list[dict[str, HostOutcome]] = []

        async def first() -> None:
            other.append(await isolate(made, "db2", operator="bob"))

        rules(made, "db1").on_call = lambda name: first() if name == "Plan" and not other else None
        found = (await isolate(made, "db1"))["db1"]

        assert other[0]["db2"].outcome is Outcome.OK
        assert (found.outcome, found.reason) == (Outcome.DENIED, "policy_denied")
        assert "would lose its last healthy member db1" in found.detail
        assert not rules(made, "db1").is_dark()


async def test_what_a_host_can_not_close_is_said(four: Desk) -> None:
    """Never silently skipped."""
    rules(four, "web1").lacks = ("no bridge hook: containers on one bridge still reach one another",)

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert "; no bridge hook: containers on one bridge still reach one another" in found.detail


async def test_a_host_that_is_lost_while_armed_is_let_back_by_its_kernel(four: Desk) -> None:
    """I4: the outcome says so; with nobody confirming, the lease ends."""
    web1 = rules(four, "web1")
    web1.lost_at = "Arm"

    found = (await isolate(four, "web1", how=replace(NOW, lease_s=5)))["web1"]

    assert (found.outcome, found.reason) == (Outcome.UNREACHABLE, "broken")
    assert found.detail.endswith("its kernel does that within 5 s")
    await until(lambda: not web1.is_dark())
    web1.come_back()
    (shown,) = await four.engine.isolations.status(TargetSpec(("web1",)))
    assert shown.records == ()
    assert (await lines(four, "web1"))[-1].entry.summary == "web1: not isolated: its lease is over"


async def test_a_commit_whose_answer_is_lost_is_not_guessed_at(four: Desk) -> None:
    """It was proved dark: it is neither called isolated nor opened; what its kernel says later goes on record."""
    web1 = rules(four, "web1")
    web1.lost_at = "Commit"

    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.UNREACHABLE, "commit_unknown")
    assert "if it was committed it is dark until released" in found.detail
    assert web1.is_dark()
    web1.come_back()
    (shown,) = await four.engine.isolations.status(TargetSpec(("web1",)))
    assert [r.phase for r in shown.records] == [Phase.COMMITTED]
    assert (await release(four, "web1"))["web1"].outcome is Outcome.OK
    assert not web1.is_dark()


async def test_a_line_that_breaks_while_arming_is_taken_up_again(four: Desk) -> None:
    """I2: the same request again, and the host answers as it did."""
    web1 = rules(four, "web1")
    web1.breaks = ["Arm", "Commit"]

    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    arms = [asked for name, asked in web1.asked if name == "Arm"]
    assert len(arms) == 2
    assert arms[0] == arms[1]


async def test_what_is_cancelled_in_the_middle_is_let_back(four: Desk) -> None:
    """The operator's second thought finds the host as it was."""
    web1 = rules(four, "web1")
    reached = asyncio.Event()

    def hold(name: str) -> Any:
        if name == "Commit":
            reached.set()
            return asyncio.sleep(30)
        return None

    web1.on_call = hold
    running = asyncio.ensure_future(isolate(four, "web1"))
    await reached.wait()
    (operation,) = await four.operations()
    await four.engine.operations.cancel(operation.id)

    found = (await running)["web1"]

    assert found.outcome is Outcome.CANCELLED
    assert found.detail.endswith("stopped in the middle; let back, restored")
    assert not web1.is_dark()
    assert (await record(four, "web1")).phase is Phase.LIFTED


async def test_the_last_healthy_member_of_a_group_is_refused_unless_forced(tmp_path: Path) -> None:
    """Two databases: one may go, as long as the other can be reached; both never without a reason."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "db2"):
            await made.enrol(name, service="orders")
        await made.enrol("web1")
        with pytest.raises(PolicyError, match="service=orders would lose its last healthy members db1, db2: it has no"):
            await isolate(made, "db1", "db2")

        assert (await isolate(made, "db1"))["db1"].outcome is Outcome.OK
        with pytest.raises(PolicyError, match=r"last healthy member db2: it has no other; to do it .* --force REASON"):
            await isolate(made, "db2")
        assert (await isolate(made, "db2", how=replace(NOW, force="infected")))["db2"].outcome is Outcome.OK
        armed = [line.entry for line in await lines(made, "db2") if line.entry.kind == "isolation.arming"]
        assert [entry.data["force"] for entry in armed] == ["infected"]


async def test_a_member_that_can_not_be_reached_stands_in_for_nobody(tmp_path: Path) -> None:
    """Healthy is who answers."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "db2"):
            await made.enrol(name, service="orders")
        await move(made, "db2", "127.0.0.1:1")

        with pytest.raises(PolicyError, match=r"none of the others \(db2\) can be reached"):
            await isolate(made, "db1")


async def test_a_release_that_comes_before_an_older_order_wins(four: Desk) -> None:
    """Two operators at once: the older order is fenced off, and the record says so."""
    web1 = rules(four, "web1")
    released: list[dict[str, HostOutcome]] = []

    async def first() -> None:
        web1.on_call = lambda name: None
        released.append(await release(four, "web1", operator="bob"))

    web1.on_call = lambda name: first() if name == "Arm" else None
    found = (await isolate(four, "web1"))["web1"]

    assert released[0]["web1"].outcome is Outcome.OK
    assert (found.outcome, found.reason) == (Outcome.DENIED, "fenced")
    assert not web1.is_dark()
    assert (await record(four, "web1")).phase not in (Phase.ARMING, Phase.COMMITTED)
    assert await four.problems() == []


async def test_a_release_in_the_middle_of_an_isolation_ends_it(four: Desk) -> None:
    """The one who isolates hears that somebody released; nothing stays in force, on the host or on record."""
    web1 = rules(four, "web1")

    async def first() -> None:
        web1.on_call = lambda name: None
        await release(four, "web1", operator="bob")

    web1.on_call = lambda name: first() if name == "Commit" else None
    found = (await isolate(four, "web1"))["web1"]

    assert (found.outcome, found.reason) == (Outcome.FAILED, "superseded")
    assert "released by somebody else meanwhile" in found.detail
    assert not web1.is_dark()
    assert (await record(four, "web1")).phase is Phase.RELEASED


async def test_what_is_isolated_already_stays_as_it_is(four: Desk) -> None:
    """It is silent before and after: looked at again it would seem unproved, and be let back."""
    await isolate(four, "web1")
    first = await record(four, "web1")

    again = (await isolate(four, "web[1-2]", operator="bob"))["web1"]

    assert again.outcome is Outcome.OK
    assert again.detail.startswith(f"isolated already, by order {first.order_id} of alice: dark to web")
    assert rules(four, "web1").is_dark()
    assert await record(four, "web1") == first


async def test_a_host_that_only_says_it_is_isolated_is_not_believed(four: Desk) -> None:
    """I4, I8: neither without a record of ours, nor when it answers again what it did not answer then."""
    web1 = rules(four, "web1")
    await isolate(four, "web1")
    web1.leaks = (80,)
    found = (await isolate(four, "web1"))["web1"]
    assert (found.outcome, found.reason) == (Outcome.FAILED, "not_proved")
    assert "of alice: it still answers: [2001:2:0:f00d::1]:80 (connected to web" in found.detail

    (state,) = web1.orders.values()
    state.order_id = "op-9.web1"
    found = (await isolate(four, "web1"))["web1"]
    assert found.reason == "not_proved"
    assert found.detail.endswith("by order op-9.web1 of alice: this controller has no record of that; release it first")


async def test_of_two_who_isolate_at_once_the_second_is_told_to_wait(four: Desk) -> None:
    """By the host's kernel, or before that by the record; the first one's proof is not disturbed."""
    web1 = rules(four, "web1")
    others: list[HostOutcome] = []

    async def second() -> None:
        others.append((await isolate(four, "web1", operator="bob"))["web1"])

    web1.on_call = lambda name: second() if name in ("Arm", "Confirm") and len(others) < 2 else None
    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK
    assert [(o.outcome, o.reason) for o in others] == [(Outcome.FAILED, "busy")] * 2
    assert "alice is isolating it too" in others[0].detail
    assert "it is being isolated now, by order" in others[1].detail
    assert (await record(four, "web1")).phase is Phase.COMMITTED


async def test_an_old_answer_undoes_nothing_that_was_done_since(four: Desk) -> None:
    """A status that waited for a slow host must not call another lifted which was isolated meanwhile."""
    web2 = rules(four, "web2")
    isolated: list[dict[str, HostOutcome]] = []

    async def meanwhile() -> None:
        isolated.append(await isolate(four, "web1"))

    web2.on_call = lambda name: meanwhile() if name == "Status" and not isolated else None
    await four.engine.isolations.status(TargetSpec(("web[1-2]",)))

    assert isolated[0]["web1"].outcome is Outcome.OK
    assert (await record(four, "web1")).phase is Phase.COMMITTED


async def test_a_release_says_what_is_not_as_it_was(four: Desk) -> None:
    """Another tool changed the rules meanwhile: told, and no failure of ours."""
    await isolate(four, "web1")
    web1 = rules(four, "web1")
    web1.difference = "a chain more"
    web1.ports = (22,)
    web1.closed = isolation_pb2.Seen.HOW_SILENT

    back = (await release(four, "web1"))["web1"]

    assert back.outcome is Outcome.OK
    assert back.detail.startswith("not as before: a chain more; does not answer web")
    assert "as before: [2001:2:0:f00d::1]:9, [2001:2:0:f00d::1]:80, [2001:2:0:f00d::1]:7700" in back.detail
    assert (await lines(four, "web1"))[-1].entry.data["restored"] is False


async def test_rules_that_stay_are_a_failed_release(four: Desk) -> None:
    """What the host says it released and its kernel still has."""
    await isolate(four, "web1")
    rules(four, "web1").keeps_rules = True

    back = (await release(four, "web1"))["web1"]

    assert (back.outcome, back.detail) == (Outcome.FAILED, "web1: released, and it says that host is still in force")
    assert (await record(four, "web1")).phase is Phase.COMMITTED


async def test_releasing_what_is_not_isolated_is_no_error(four: Desk) -> None:
    """It fences off what comes late."""
    back = (await release(four, "web1"))["web1"]

    assert (back.outcome, back.detail) == (Outcome.OK, "nothing was in force")
    assert await kinds(four, "web1") == ["releasing", "released"]


async def test_both_need_a_reason(four: Desk) -> None:
    """For the record."""
    with pytest.raises(PolicyError, match="isolate needs a reason"):
        await isolate(four, "web1", reason="")
    with pytest.raises(PolicyError, match="release needs a reason"):
        await release(four, "web1", reason=" ")


async def test_only_what_was_isolated_is_retried(four: Desk) -> None:
    """And only by the same command."""
    rules(four, "web1").leaks = (22,)
    await isolate(four, "web[1-2]")
    rules(four, "web1").leaks = ()
    (operation,) = await four.operations()

    with pytest.raises(NotFound, match=" is no release but of kind isolate"):
        await release(four, target=TargetSpec(retry_of=operation.id))
    again = await isolate(four, target=TargetSpec(retry_of=operation.id))

    assert {name: o.outcome for name, o in again.items()} == {"web1": Outcome.OK}


async def test_an_order_waits_for_a_host_that_is_away(four: Desk) -> None:
    """It is carried out once the host is seen, as an operation of its own, and then waits no more."""
    here = four.agents["web1"].address
    await move(four, "web1", "127.0.0.1:1")
    found = (await isolate(four, "web1", how=replace(NOW, hold_s=3600)))["web1"]
    assert found.outcome is Outcome.UNREACHABLE
    assert "carried out by the daemon once the host is seen" in found.detail
    (shown,) = await four.engine.isolations.status(TargetSpec(("web1",)))
    assert [r.phase for r in shown.records] == [Phase.PENDING]

    await move(four, "web1", here)
    watching = asyncio.ensure_future(four.engine.upkeep.watch(await four.engine.hosts.get("web1")))
    await until(rules(four, "web1").is_dark)
    await until(lambda: _is_finished(four))
    watching.cancel()

    phases = [i.phase for i in await four.store.read(lambda tx: tx.isolations(set(Phase), "web1"))]
    assert phases == [Phase.WITHDRAWN, Phase.COMMITTED]
    assert await kinds(four, "web1") == ["held", "arming", "committed", "withdrawn"]
    carried = (await four.operations())[-1]
    assert (carried.kind, carried.operator, carried.reason) == ("isolate", "alice", "drill")


def _is_finished(made: Desk) -> bool:
    return not made.store.read_now(lambda tx: tx.operations(unfinished=True))


async def test_a_release_withdraws_an_order_that_waits(four: Desk) -> None:
    """The host is still away; when it comes back, nothing happens to it."""
    here = four.agents["web1"].address
    await move(four, "web1", "127.0.0.1:1")
    await isolate(four, "web1", how=replace(NOW, hold_s=3600))

    back = (await release(four, "web1"))["web1"]

    assert back.outcome is Outcome.UNREACHABLE
    assert back.detail.endswith("the order that waited for it is withdrawn")
    await move(four, "web1", here)
    await four.engine._returning.seen(await four.engine.hosts.get("web1"))
    assert "Arm" not in rules(four, "web1").calls()
    assert await kinds(four, "web1") == ["held", "withdrawn", "releasing"]


async def test_an_order_waits_no_longer_than_it_may(four: Desk) -> None:
    """Whoever looks next puts its end on record."""
    await move(four, "web1", "127.0.0.1:1")
    await isolate(four, "web1", how=replace(NOW, hold_s=0.01))
    await asyncio.sleep(0.02)

    (shown,) = await four.engine.isolations.status(TargetSpec(("web1",)))

    assert shown.records == ()
    assert (await record(four, "web1")).phase is Phase.WITHDRAWN


async def test_a_waiting_order_that_is_refused_says_so_and_goes_on_waiting(tmp_path: Path) -> None:
    """When its host came back, it was the last healthy member of its group."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("db1", "db2"):
            await made.enrol(name, service="orders")
        here = made.agents["db1"].address
        await move(made, "db1", "127.0.0.1:1")
        await isolate(made, "db1", how=replace(NOW, hold_s=3600))
        await move(made, "db1", here)
        await move(made, "db2", "127.0.0.1:1")

        await made.engine._returning.seen(await made.engine.hosts.get("db1"))

        await until(lambda: _kinds_now(made, "db1") == ["held", "changed"])
        assert "is not carried out: service=orders would lose" in (await lines(made, "db1"))[-1].entry.summary
        assert (await record(made, "db1")).phase is Phase.PENDING


def _kinds_now(made: Desk, host: str) -> list[str]:
    found = [line.entry for line in made.store.read_now(lambda tx: tx.lines(1)) if line.entry.host == host]
    return [entry.kind.removeprefix("isolation.") for entry in found if entry.kind.startswith("isolation.")]


async def test_a_host_that_is_isolated_is_not_removed(four: Desk) -> None:
    """Nobody could let it back; one that is gone for good can go, and its order with it."""
    await isolate(four, "web1")
    with pytest.raises(
        PolicyError, match=r"web1 is isolated, and nobody could let it back .* fireline release -t web1"
    ):
        await four.engine.hosts.remove("web1", operator="alice", reason="scrapped")

    await move(four, "web1", "127.0.0.1:1")
    assert (await four.engine.hosts.remove("web1", operator="alice", reason="scrapped")).removed
    assert (await record(four, "web1")).phase is Phase.WITHDRAWN


async def test_a_new_controller_is_let_in_before_it_is_needed(tmp_path: Path) -> None:
    """The setting changed: hosts that are isolated learn of it when the controller sees them next."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("web1", "web2"):
            await made.enrol(name)
        await isolate(made, "web1")
        (made.opened.folder / "fireline.toml").write_text(SETTINGS.replace('"2001:2::fe"', '"198.18.0.253"'))
        async with desk(made.opened.folder) as later:
            host = await later.engine.hosts.get("web1")
            await later.engine._returning.seen(host)
            await later.engine._returning.seen(host)

        wanted = ["198.18.0.254", "198.18.0.253", "2001:2::fe"]
        (state,) = rules(made, "web1").orders.values()
        assert list(state.controllers) == wanted, "none is closed: another controller may need it"
        assert list((await record(made, "web1")).controllers) == wanted
        assert await kinds(made, "web1") == ["arming", "committed", "amending", "amended"]


async def test_what_a_host_says_of_its_isolation_is_journaled_within_bounds(four: Desk) -> None:
    """I8: drift and break-glass are on record; a host that floods fills no journal."""
    await isolate(four, "web1")
    agent, pb = four.agents["web1"], host_pb2.HostEvent
    watching = asyncio.ensure_future(four.engine.upkeep.watch(await four.engine.hosts.get("web1")))
    agent.events.put_nowait(pb(kind=pb.KIND_ISOLATION_DRIFT, detail="ruleset flushed\x1b[31m, put back"))
    web1 = rules(four, "web1")
    web1.orders.clear()
    web1.ended = [isolation_pb2.EndedIsolation(order_id=(await record(four, "web1")).order_id, how="on the console")]
    for _ in range(100):
        agent.events.put_nowait(pb(kind=pb.KIND_ISOLATION_DRIFT, detail="again"))
    agent.events.put_nowait(pb(kind=pb.KIND_ISOLATION_BROKEN, detail="released with the code"))
    await until(lambda: "broken" in _kinds_now(four, "web1"))
    await until(lambda: "changed" in _kinds_now(four, "web1"))
    watching.cancel()

    told = [line.entry.summary for line in await lines(four, "web1")]
    assert "web1 says: ruleset flushed\N{REPLACEMENT CHARACTER}[31m, put back" in told
    assert "web1 says: released with the code" in told
    assert "web1: no longer isolated: on the console" in told
    assert (await record(four, "web1")).phase is Phase.BROKEN


async def test_an_isolation_that_lost_its_controller_is_settled_by_what_stands(four: Desk) -> None:
    """I1, I6: after kill -9 a committed host is ok; one in the middle is not known, and its kernel lets it back."""
    target, _ = await four.engine.operations.resolve(TargetSpec(("web[1-3]",)))
    lost = Operation("op-1", "isolate", "", "alice", "drill", target, now() - timedelta(minutes=1))
    host = await four.engine.hosts.get("web1")
    draft = await four.engine.isolations._orders.draft(host, NOW, now=now(), of=lost)
    kept_all = list[Isolation]()
    for number, phase in enumerate((Phase.COMMITTED, Phase.ARMING), 1):
        kept_all.append(replace(draft, order_id=f"op-1.web{number}", host=f"web{number}", phase=phase, proof="dark"))

    def put(tx: Transaction) -> None:
        tx.put_operation(lost)
        for kept in kept_all:
            tx.put_isolation(kept)

    await four.store.run(put)

    assert await four.engine.operations.settle_interrupted() == ["op-1"]

    ended = {o.host: o for o in (await four.operations())[0].outcomes}
    assert ended["web1"].detail == "isolated before the controller was stopped: dark"
    assert [ended[f"web{n}"].outcome for n in (1, 2, 3)] == [Outcome.OK, Outcome.UNREACHABLE, Outcome.UNREACHABLE]
    assert "its kernel lets the host back within 5 s" in ended["web2"].detail
    assert ended["web3"].detail.endswith("--retry-of op-1")


async def test_a_plan_changes_nothing_and_says_whom_it_hurts(tmp_path: Path) -> None:
    """What stays reachable, who looks, and what would be refused."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        await made.enrol("db1", service="orders")
        await made.enrol("web1")
        await made.enrol("web2")
        await move(made, "web2", "127.0.0.1:1")

        plan = await made.engine.isolations.plan(TargetSpec(("all",)), NOW, operator="alice")

        assert [p.outcome for p in plan.hosts] == [Outcome.OK, Outcome.OK, Outcome.UNREACHABLE]
        assert plan.hosts[0].open == ("198.18.0.254", "2001:2::fe")
        assert plan.hurts == ("service=orders would lose its last healthy member db1: it has no other",)
        assert not rules(made, "db1").is_dark()
        assert await lines(made) == []


async def test_a_part_of_a_host_is_known_by_its_kernel_alone(four: Desk) -> None:
    """The host's ports go on answering while a container of it is cut off: they prove nothing, and are no leak."""
    scope = type(NOW.scope)("container", "checkout")

    found = (await isolate(four, "web1", how=replace(NOW, scope=scope)))["web1"]

    assert found.outcome is Outcome.OK
    assert found.detail == "in force by its kernel; a part of a host is not looked at from outside"
    assert (await record(four, "web1")).scope == "container:checkout"
    assert (await lines(four, "web1"))[-1].entry.summary.startswith("container:checkout of web1 isolated: in force by")
