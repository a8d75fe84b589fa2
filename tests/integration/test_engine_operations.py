"""Operations from the wish to the record, when those around them leave, fail, retry, or are killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from fireline_controller.engine import Started, TargetSpec, Wish
from fireline_controller.engine.operations import Running
from fireline_controller.model import (
    ControllerExhausted,
    Host,
    HostOutcome,
    NotFound,
    Operation,
    Outcome,
    PolicyError,
)
from tests.fakes.capturing import CapturingAgent
from tests.fakes.desk import Desk, desk, now

ALL = Wish("alice", TargetSpec(("all",)), reason="drill")


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with two hosts."""
    async with desk(tmp_path / "state") as made:
        for name in ("db1", "web1"):
            await made.enrol(name)
        yield made


def agent_of(made: Desk, name: str) -> CapturingAgent:
    """The agent of a host."""
    agent = made.agents[name]
    assert isinstance(agent, CapturingAgent)
    return agent


async def ended(made: Desk) -> Operation:
    """The one operation on record, once it has ended."""
    async with asyncio.timeout(10):
        while True:
            (operation,) = await made.operations()
            if operation.finished_at is not None:
                return operation
            await asyncio.sleep(0.02)


def outcomes_of(operation: Operation) -> dict[str, Outcome]:
    """How each host ended, by the record."""
    return {o.host: o.outcome for o in operation.outcomes}


async def put_lost(made: Desk, **fields: object) -> Operation:
    """An operation on record whose process is gone."""
    hosts = tuple(made.agents)
    target, _ = await made.engine.operations.resolve(TargetSpec(hosts))
    operation = Operation("op-1", "capture", "", "alice", "drill", target, now(), profile="initial")
    operation = replace(operation, **fields)  # type: ignore[arg-type]  # the test's own names
    await made.store.run(lambda tx: tx.put_operation(operation))
    return operation


async def test_an_operation_goes_on_when_its_watcher_hangs_up_at_the_first_word(two: Desk) -> None:
    """I1, I6: what is on record is done and gets its end, though nobody listens after `Started`."""
    async with aclosing(two.engine.capture(ALL, "initial")) as news:  # type: ignore[type-var]  # it is a generator
        assert isinstance(await anext(news), Started)

    assert outcomes_of(await ended(two)) == {"db1": Outcome.OK, "web1": Outcome.OK}
    assert await two.problems() == []


async def test_an_operation_that_was_asked_is_on_record_whole_or_not_at_all(two: Desk) -> None:
    """I1: whoever asked is cancelled at any point: no operation stays on record without its end."""
    for steps in range(12):
        asking = asyncio.ensure_future(two.capture())
        await asyncio.sleep(steps * 0.004)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await two.engine.operations.close()

    assert [o.id for o in await two.operations() if o.finished_at is None] == []
    assert list((two.opened.folder / "running").iterdir()) == []
    assert await two.problems() == []


async def test_every_host_is_on_record_when_the_controller_itself_fails(two: Desk) -> None:
    """I1: out of file descriptors in mid-operation: that is what the operator hears, and each host has its outcome."""

    async def work(running: Running, host: Host) -> HostOutcome:
        if host.name == "web1":
            raise ControllerExhausted("no file descriptors left")
        await asyncio.sleep(30)
        raise AssertionError

    with pytest.raises(ControllerExhausted, match="no file descriptors left"):
        [_ async for _ in two.engine.operations.run("ping", ALL, work, commands_only=True)]

    operation = await ended(two)
    assert outcomes_of(operation) == {"db1": Outcome.CANCELLED, "web1": Outcome.CANCELLED}
    assert all("no file descriptors left" in o.detail for o in operation.outcomes)
    assert list((two.opened.folder / "running").iterdir()) == []


async def test_a_clock_that_ends_after_the_seal_makes_it_no_less_sealed(two: Desk) -> None:
    """I1: sealed evidence on record and the outcome `timed_out` would contradict each other."""
    agent = agent_of(two, "db1")

    def spoil(chunk: bytes) -> bytes:
        agent.delay_s = 5  # from here on: only Forget is left to be asked
        return chunk

    agent.spoil = spoil

    wish = replace(ALL, target=TargetSpec(("db1",)), host_deadline_s=1.5)
    told = [news async for news in two.engine.capture(wish, "initial") if isinstance(news, HostOutcome)]

    assert [o.outcome for o in told] == [Outcome.OK]
    assert told[0].evidence_id == (await two.engine.records.list(incident_id="", host="db1"))[0].id


async def test_live_operations_are_not_settled(two: Desk) -> None:
    """A controller that starts beside a live one leaves its operations alone."""
    agent_of(two, "web1").pause_s = 0.2
    capturing = asyncio.ensure_future(two.capture())
    async with aclosing(two.engine.operations.run("ping", ALL, _nothing, commands_only=True)) as news:  # type: ignore[type-var]  # it is a generator
        await anext(news)
    async with desk(two.opened.folder) as beside:
        assert await beside.engine.operations.settle_interrupted() == []

    assert {o.outcome for o in (await capturing).values()} == {Outcome.OK}


async def _nothing(running: Running, host: Host) -> HostOutcome:
    return HostOutcome(host.name, Outcome.OK)


async def test_what_was_sealed_before_the_kill_counts(two: Desk) -> None:
    """I1: settling gives a sealed host `ok` with its evidence, the other one `unreachable`, and says how to go on."""
    sealed = (await two.capture("db1"))["db1"]
    (first,) = await two.operations()
    lost = await put_lost(two, retry_of=first.id)

    assert await two.engine.operations.settle_interrupted() == ["op-1"]
    assert await two.engine.operations.settle_interrupted() == []

    by_host = {o.host: o for o in (await two.store.read(lambda tx: tx.operation(lost.id))).outcomes}
    assert (by_host["db1"].outcome, by_host["db1"].evidence_id) == (Outcome.OK, sealed.evidence_id)
    assert (by_host["web1"].outcome, by_host["web1"].reason) == (Outcome.UNREACHABLE, "controller_stopped")
    assert by_host["web1"].detail == (
        "the controller was stopped before this host ended; take it up again: --retry-of op-1"
    )
    kinds = [line.entry.kind for line in await two.store.read(lambda tx: tx.lines())]
    assert kinds[-2:] == ["capture.outcome", "capture.interrupted"]


@pytest.mark.parametrize("when", ["in it", "before it"])
async def test_incomplete_evidence_settles_as_what_it_is(two: Desk, when: str) -> None:
    """I1: fetched by the lost operation: `failed`. There before it: the lost retry asked anew, which may lie there."""
    agent_of(two, "db1").lie = lambda statement: statement["predicate"].update(partial=True, partial_reason="full")
    sealed = (await two.capture("db1"))["db1"]
    (first,) = await two.operations()
    lost = await put_lost(two, retry_of=first.id, started_at=first.started_at if when == "in it" else now())

    await two.engine.operations.settle_interrupted()

    found = (await two.store.read(lambda tx: tx.operation(lost.id))).outcomes[0]
    if when == "in it":
        assert (found.outcome, found.reason, found.partial) == (Outcome.FAILED, "incomplete", True)
        words = "sealed before the controller was stopped, and something is missing of it: fireline evidence show "
        assert found.detail == words + sealed.evidence_id
    else:
        assert (found.outcome, found.reason) == (Outcome.UNREACHABLE, "controller_stopped")


async def test_a_retry_settles_what_it_retries(two: Desk) -> None:
    """An operator need not restart anything: `--retry-of` an operation whose controller was killed works at once."""
    lost = await put_lost(two)

    found = await two.capture(retry_of=lost.id)

    assert {o.outcome for o in found.values()} == {Outcome.OK}
    assert agent_of(two, "db1").captured == {lost.id: 1}, "it was asked for the capture that it may have had"


async def test_a_retry_beside_the_first_is_refused(two: Desk) -> None:
    """The same capture is never fetched by two operations at once: neither beside the first, nor beside a retry."""
    agent_of(two, "web1").pause_s = 0.4
    async with aclosing(two.engine.capture(ALL, "initial")) as news:  # type: ignore[type-var]  # it is a generator
        started = await anext(news)
        assert isinstance(started, Started)
        refused = rf"{started.operation_id} still runs \(alice's since \d\d:\d\d:\d\d UTC\): a retry would do the same"
        with pytest.raises(PolicyError, match=refused):
            await two.capture(retry_of=started.operation_id)

    lost = await put_lost(two, id="op-2")
    await two.engine.operations.settle_interrupted()
    first = asyncio.ensure_future(two.capture(retry_of=lost.id))
    await until_asked(agent_of(two, "web1"), lost.id)
    with pytest.raises(PolicyError, match=r"still runs .* wait for its end, or interrupt it"):
        await two.capture(retry_of=lost.id)
    assert {o.outcome for o in (await first).values()} == {Outcome.OK}
    assert agent_of(two, "web1").captured[lost.id] == 1


async def until_asked(agent: CapturingAgent, request_id: str) -> None:
    """Wait until an agent was asked for a capture."""
    async with asyncio.timeout(10):
        while request_id not in agent.captured:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)


async def test_a_retry_of_another_incident_or_of_no_capture_is_refused(two: Desk) -> None:
    """The capture on the host belongs to one incident, and only captures are retried."""
    capture = await put_lost(two)
    incident = await two.engine.incidents.open("P3", "other", target="", operator="alice", reason="")
    with pytest.raises(PolicyError, match="op-1 belongs to no incident: its retry does too"):
        await two.capture(retry_of=capture.id, incident=incident.id)

    ping = await put_lost(two, id="op-2", kind="ping")
    with pytest.raises(NotFound, match="operation op-2 is no capture but a ping"):
        await two.capture(retry_of=ping.id)


async def test_a_host_that_a_retry_left_out_is_asked_for_the_first_capture(two: Desk) -> None:
    """I2: unreachable, then skipped by the failure budget, then asked again: it is still the first capture."""
    lost = await put_lost(two)
    await two.engine.operations.settle_interrupted()
    agent_of(two, "db1").without_seal = True
    wish = Wish("alice", TargetSpec(retry_of=lost.id), max_fail="0", concurrency=1)
    told = [news async for news in two.engine.capture(wish, "initial") if isinstance(news, HostOutcome)]
    assert [o.outcome for o in told] == [Outcome.FAILED, Outcome.SKIPPED]
    agent_of(two, "db1").without_seal = False

    found = await two.capture(retry_of=(await two.operations())[-1].id)

    assert {o.outcome for o in found.values()} == {Outcome.OK}
    assert agent_of(two, "web1").captured == {lost.id: 1}
    assert len(agent_of(two, "db1").captured) == 2, "its capture failed there: it is asked for a new one"


async def test_a_budget_does_what_was_said(tmp_path: Path) -> None:
    """I10: with unreachable hosts and `--max-fail 1`, as many end not ok as the worst case says."""
    async with desk(tmp_path / "state") as made:
        await made.enrol("ok1")
        gone = await made.store.read(lambda tx: tx.host("ok1"))
        for n in range(8):
            dead = replace(gone, name=f"dead{n}", address="127.0.0.1:1")
            await made.store.run(lambda tx, host=dead: tx.put_host(host))  # type: ignore[misc]  # mypy and defaults
        told = [news async for news in made.engine.ping(replace(ALL, max_fail="1"))]

    started, outcomes = told[0], [news for news in told if isinstance(news, HostOutcome)]
    assert isinstance(started, Started)
    assert started.worst_case.startswith("at most 2 of 9 hosts can end not ok before it stops")
    assert [o.outcome for o in outcomes].count(Outcome.UNREACHABLE) == 2
    assert [o.outcome for o in outcomes].count(Outcome.SKIPPED) == 9 - len(
        [o for o in outcomes if o.outcome is not Outcome.SKIPPED]
    )
    assert {o.reason for o in outcomes if o.outcome is Outcome.SKIPPED} == {"budget"}


async def test_a_removed_host_is_cut_off_in_mid_capture(two: Desk) -> None:
    """A capture under way ends at once, the host is not dialled again, and what it sent does not count."""
    agent = agent_of(two, "web1")
    agent.pause_s = 0.3
    capturing = asyncio.ensure_future(two.capture())
    async with asyncio.timeout(10):
        while not agent.captured:  # noqa: ASYNC110 - it has no event for this
            await asyncio.sleep(0.01)

    await two.engine.hosts.remove("web1", operator="alice", reason="taken over")
    asked = len(agent.asked)
    found = await asyncio.wait_for(capturing, 5)

    assert (found["web1"].outcome, found["web1"].reason) == (Outcome.DENIED, "certificate_revoked")
    assert found["web1"].detail == "web1: it was removed from the fleet"
    assert found["db1"].outcome is Outcome.OK
    assert len(agent.asked) == asked
    with pytest.raises(NotFound, match="host web1 was removed from the fleet; enrol it again"):
        await two.engine.hosts.get("web1")


async def test_a_removed_hosts_signature_does_not_count(two: Desk) -> None:
    """Even where the host is removed between the seal and the fetch, on the same connection."""
    agent = agent_of(two, "web1")
    serial = (await two.store.read(lambda tx: tx.host("web1"))).certificate_serial
    await two.store.run(lambda tx: tx.revoke(serial, now()))

    found = await two.capture()

    assert (found["web1"].outcome, found["web1"].reason) == (Outcome.DENIED, "certificate_revoked")
    assert found["web1"].detail.startswith("web1: its certificate was revoked at ")
    assert agent.captured
