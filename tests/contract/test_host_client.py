"""The promise of HostClient, kept over the real wire against an agent whose answers a test chooses."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fireline_controller import pki
from fireline_controller.config import Fanout
from fireline_controller.hosts import (
    CancelAnswer,
    CaptureAccepted,
    CaptureOrder,
    CaptureSealed,
    CollectorEnded,
    CollectorStarted,
    Fleet,
    HostClient,
)
from fireline_controller.model import Denied, HostError, HostFailed, TimedOut, Unreachable
from fireline_controller.profiles import CollectorOrder, Profile
from fireline_wire.status import Refusal
from fireline_wire.v1 import capture_pb2, host_pb2
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import ChunkRange, agent_credentials, authority, command, enrolled

PROFILE = Profile("initial", "", (CollectorOrder("clocks"), CollectorOrder("processes", {"mask": True})))
ORDER = CaptureOrder(command(), PROFILE, -5, 7, 3, "ab")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    """An authority for all tests here."""
    return authority(Path(tmp_path_factory.mktemp("ca")) / "pki")


@pytest.fixture
async def agent(ca: pki.Authority) -> AsyncIterator[FakeAgent]:
    """An honest agent, serving."""
    async with FakeAgent(agent_credentials(ca)).serving() as serving:
        yield serving


@pytest.fixture
async def fleet(ca: pki.Authority) -> AsyncIterator[Fleet]:
    """The controller's side."""
    made = Fleet(lambda: ca.controller, settings=Fanout())
    yield made
    await made.close()


@pytest.fixture
async def client(agent: FakeAgent, fleet: Fleet) -> HostClient:
    """The client of the agent."""
    return fleet.client(enrolled(agent.address))


async def failure_of(work: object) -> HostError:
    """The HostError that the work ends with; work is an awaitable or a stream."""
    with pytest.raises(HostError) as caught:
        if isinstance(work, AsyncIterator):
            async for _ in work:
                pass
        else:
            await work  # type: ignore[misc]  # an awaitable, by elimination
    return caught.value


async def test_a_ping_measures_the_clock(agent: FakeAgent, client: HostClient) -> None:
    """The offset is the host's clock less ours, bounded by the round trip."""
    agent.clock_ahead_ns = 90 * 10**9

    answer = await client.ping(command(), timeout_s=5)

    assert abs(answer.offset_ns - 90 * 10**9) <= answer.round_trip_ns
    assert not answer.replayed


async def test_a_command_carries_its_context(agent: FakeAgent, client: HostClient) -> None:
    """Everything of the command arrives."""
    sent = command("op-77")
    await client.ping(sent, timeout_s=5)

    (asked,) = agent.asked
    assert isinstance(asked, host_pb2.PingRequest)
    got = asked.context
    assert (got.request_id, got.operation_id, got.incident_id) == ("op-77", "op-77", "INC-20260101-000000")
    assert (got.operator, got.reason, got.fence_token, got.dry_run) == ("olga", "drill", 7, False)
    assert got.deadline.ToDatetime(sent.deadline.tzinfo) == sent.deadline


async def test_a_description_is_made_fit_to_show(client: HostClient) -> None:
    """Texts of an agent can't write control characters to a terminal."""
    described = await client.describe(timeout_s=5)

    assert described.name == "web-1"
    assert described.collectors == ("clocks", "processes")
    assert described.lacks == ("cgroup: no io controller\N{REPLACEMENT CHARACTER}[31m",)
    assert abs(described.clock_offset_ns) <= described.clock_round_trip_ns


async def test_a_capture_tells_its_news_and_ends_with_the_seal(agent: FakeAgent, client: HostClient) -> None:
    """Accepted, each collector's start and end, sealed."""
    news = [n async for n in client.capture(ORDER, idle_s=5)]

    digest = hashlib.sha256(agent.manifest).hexdigest()
    assert news == [
        CaptureAccepted(replayed=False),
        CollectorStarted("clocks", 0, 2),
        CollectorEnded("clocks", "ok", "", 1, 0, 0, 0),
        CollectorStarted("processes", 1, 2),
        CollectorEnded("processes", "ok", "", 1, 0, 0, 0),
        CaptureSealed(digest, len(agent.manifest), 0, 0, partial=False, partial_reason=""),
    ]
    (asked,) = agent.asked
    assert isinstance(asked, capture_pb2.CaptureRequest)
    assert asked.collectors[1].params_json == '{"mask": true}'
    assert (asked.clock_offset_ns, asked.clock_round_trip_ns, asked.journal_seq) == (-5, 7, 3)


async def test_evidence_comes_in_the_order_asked(agent: FakeAgent, client: HostClient) -> None:
    """The manifest goes on from an offset; chunks come range by range."""
    ranges = [ChunkRange("b", 2, 2), ChunkRange("a", 0, 1)]

    pieces = [p async for p in client.fetch_manifest(command(), "op-1", offset=1 << 20, idle_s=5)]
    chunks = [c async for c in client.fetch_chunks(command(), "op-1", ranges, idle_s=5)]

    assert b"".join(pieces) == agent.manifest[1 << 20 :]
    assert chunks == [agent.chunk("b", 2), agent.chunk("b", 3), agent.chunk("a", 0)]


async def test_evidence_has_a_connection_of_its_own(agent: FakeAgent, client: HostClient) -> None:
    """I9: commands share one connection, and no byte of evidence goes over it."""
    await client.ping(command(), timeout_s=5)
    await client.forget_capture(command(), "op-1", timeout_s=5)
    async for _ in client.fetch_chunks(command(), "op-1", [ChunkRange("a", 0, 1)], idle_s=5):
        pass

    assert agent.peers["PingRequest"] == agent.peers["ForgetCaptureRequest"]
    assert agent.peers["PingRequest"] != agent.peers["FetchRequest"]


async def test_the_small_calls(client: HostClient) -> None:
    """Cancel, forget, renewal and deny-list bring their answers home."""
    assert await client.cancel_capture(command(), "op-1", timeout_s=5) == CancelAnswer(True, (42,))
    await client.forget_capture(command(), "op-1", timeout_s=5)
    assert await client.prepare_renewal(command(), timeout_s=5) == b"csr"
    assert (await client.install_certificate(command(), b"chain", timeout_s=5)).serial == "ab"
    assert await client.set_deny_list(command(), 3, ["ab"], timeout_s=5) == 2


async def test_cancelling_what_the_host_does_not_know_is_no_error(agent: FakeAgent, client: HostClient) -> None:
    """A capture that never began, or was forgotten, is not running: that is what was wanted."""
    agent.refusal = Refusal("not_found", "no capture op-1")

    assert await client.cancel_capture(command(), "op-1", timeout_s=5) == CancelAnswer(False, ())


@pytest.mark.parametrize(
    ("reason", "kind", "retry_helps"),
    [
        ("policy_denied", Denied, False),
        ("certificate_revoked", Denied, False),
        ("fenced", Denied, False),
        ("disk_full", HostFailed, False),
        ("busy", HostFailed, True),
        ("draining", HostFailed, True),
        ("internal", HostFailed, False),
    ],
)
async def test_a_refusal_keeps_its_reason(
    agent: FakeAgent, client: HostClient, reason: str, kind: type[HostError], retry_helps: bool
) -> None:
    """The host's own word arrives with its reason, as one printable line."""
    agent.refusal = Refusal(reason, "because\nof this")

    error = await failure_of(client.ping(command(), timeout_s=5))

    assert type(error) is kind
    assert (error.reason, error.retry_helps) == (reason, retry_helps)
    assert str(error) == "web-1: because\N{REPLACEMENT CHARACTER}of this"


async def test_a_slow_host_is_timed_out_not_unreachable(agent: FakeAgent, client: HostClient) -> None:
    """It is connected, and that is said."""
    agent.delay_s = 30

    error = await failure_of(client.ping(command(), timeout_s=0.5))

    assert type(error) is TimedOut
    assert (error.reason, str(error)) == ("slow", "web-1: it is connected and gave no answer in time")


async def test_a_silent_stream_is_timed_out(agent: FakeAgent, client: HostClient) -> None:
    """The idle clock ends a capture that sends nothing, and starts again with each message."""
    agent.pause_s = 0.3
    assert len([n async for n in client.capture(ORDER, idle_s=1)]) == 6

    agent.pause_s = 30
    error = await failure_of(client.capture(ORDER, idle_s=0.3))
    assert type(error) is TimedOut
    assert (error.reason, str(error)) == ("slow", "web-1: it is connected and sent nothing for 0.3 s")


LIES: dict[str, tuple[dict[str, Any], Callable[[HostClient], object], str]] = {
    "garbage for an answer": (
        {"garbage": b"\xff\xff\xff"},
        lambda c: c.ping(command(), timeout_s=5),
        "it answered with bytes that are no Answer",
    ),
    "garbage for an event": (
        {"garbage": b"\xff\xff\xff"},
        lambda c: c.capture(ORDER, idle_s=5),
        "it answered with bytes that are no CaptureEvent",
    ),
    "an empty answer": (
        {"garbage": b""},
        lambda c: c.ping(command(), timeout_s=5),
        "it sent an answer that nobody asked for",
    ),
    "an empty event": ({"garbage": b""}, lambda c: c.capture(ORDER, idle_s=5), "a capture event of an unknown kind"),
    "another name": (
        {"name": "web-2\x07"},
        lambda c: c.describe(timeout_s=5),
        "it says that its name is 'web-2\N{REPLACEMENT CHARACTER}'",
    ),
    "an impossible time": (
        {"clock_ahead_ns": 10**19},
        lambda c: c.ping(command(), timeout_s=5),
        "ns since 1970 as a time",
    ),
    "events without end": (
        {"events_without_end": True},
        lambda c: c.capture(ORDER, idle_s=5),
        "its capture sends events without end",
    ),
    "no seal": ({"without_seal": True}, lambda c: c.capture(ORDER, idle_s=5), "its capture ended without a seal"),
    "chunks without end": (
        {"chunks_without_end": True},
        lambda c: c.fetch_chunks(command(), "op-1", [ChunkRange("a", 0, 3)], idle_s=5),
        "it sends more than the 3 chunks asked for",
    ),
    "missing chunks": (
        {"chunks_missing": 1},
        lambda c: c.fetch_chunks(command(), "op-1", [ChunkRange("a", 0, 3)], idle_s=5),
        "it sent 2 of the 3 chunks asked for",
    ),
    "a long chunk": (
        {"chunk_bytes": (1 << 20) + 1},
        lambda c: c.fetch_chunks(command(), "op-1", [ChunkRange("a", 0, 3)], idle_s=5),
        "it sent a chunk of 1048577 bytes, wanted 1 to 1048576",
    ),
    "a huge message": (
        {"chunk_bytes": 5 << 20},
        lambda c: c.fetch_chunks(command(), "op-1", [ChunkRange("a", 0, 3)], idle_s=5),
        "it sent a message over the limit",
    ),
    "a manifest without end": (
        {"manifest": bytes(94 << 20)},
        lambda c: c.fetch_manifest(command(), "op-1", offset=0, idle_s=5),
        "its manifest is longer than 89544020 bytes",
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_host_fails_alone_and_by_name(agent: FakeAgent, client: HostClient, lie: str) -> None:
    """I8: what fits no contract is that host's failure, with its reason, and nothing else is harmed."""
    knobs, ask, message = LIES[lie]
    for knob, value in knobs.items():
        setattr(agent, knob, value)

    error = await failure_of(ask(client))

    assert type(error) is HostFailed
    assert error.reason == "bad_data"
    assert str(error).startswith("web-1: ")
    assert message in str(error)


async def test_pings_share_a_session_until_one_is_not_answered(agent: FakeAgent, client: HostClient) -> None:
    """One stream for pings one after another; one that was given up on or refused ends its own, and no other."""
    for _ in range(3):
        await client.ping(command(), timeout_s=5)
    assert agent.sessions == 1

    agent.delay_s = 0.5
    patient = asyncio.create_task(client.ping(command(), timeout_s=5))
    await asyncio.sleep(0.1)
    impatient = asyncio.create_task(client.ping(command(), timeout_s=5))
    await asyncio.sleep(0.1)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert (await patient).round_trip_ns > 0
    agent.delay_s = 0
    assert abs((await client.ping(command(), timeout_s=5)).offset_ns) < 10**8
    assert agent.sessions == 2

    agent.refusal = Refusal("busy", "try again")
    await failure_of(client.ping(command(), timeout_s=5))
    agent.refusal = None
    await client.ping(command(), timeout_s=5)
    assert agent.sessions == 3


async def test_many_pings_at_once_leave_few_sessions(agent: FakeAgent, client: HostClient) -> None:
    """Each has a session of its own, so none waits for another; four are kept."""
    agent.delay_s = 0.3
    began = time.monotonic()
    await asyncio.gather(*(client.ping(command(f"op-{n}"), timeout_s=5) for n in range(20)))
    assert time.monotonic() - began < 2
    assert agent.sessions == 20

    agent.delay_s = 0
    await asyncio.gather(*(client.ping(command(f"op-{n}"), timeout_s=5) for n in range(5)))
    assert agent.sessions == 21


async def test_answers_that_nobody_asked_for_are_held_off(agent: FakeAgent, client: HostClient) -> None:
    """Flow control keeps them on the host; the next ping meets the first of them, says so and ends the session."""
    agent.answers_without_end = True
    await client.ping(command("op-1"), timeout_s=5)
    await _still(lambda: agent.unasked)

    error = await failure_of(client.ping(command("op-2"), timeout_s=5))
    assert (error.reason, str(error)) == ("bad_data", "web-1: it sent an answer that nobody asked for")

    agent.answers_without_end = False
    await client.ping(command("op-3"), timeout_s=5)


async def _still(count: Callable[[], int], *, within_s: float = 20) -> None:
    """Wait until a number no longer grows: it must have stayed the same for half a second."""
    until = time.monotonic() + within_s
    before = -1
    while (now := count()) != before:
        assert time.monotonic() < until, f"it still grows after {within_s} s: {now}"
        before = now
        await asyncio.sleep(0.5)


async def test_a_call_that_is_cut_off_says_so(agent: FakeAgent, client: HostClient, fleet: Fleet) -> None:
    """Dropping a host ends its calls as broken, and not as somebody's cancellation."""
    agent.delay_s = 30
    call = asyncio.create_task(failure_of(client.ping(command(), timeout_s=30)))
    await agent.called.wait()
    await fleet.drop("web-1")

    error = await call
    assert type(error) is Unreachable
    assert (error.reason, str(error)) == ("broken", "web-1: the connection was lost (cut off by the controller)")


async def test_an_agent_that_goes_away_breaks_the_call(ca: pki.Authority, fleet: Fleet) -> None:
    """A connection that is lost in the middle is `broken` and worth another try; the next call says what is there."""
    agent = FakeAgent(agent_credentials(ca), delay_s=30)
    async with agent.serving():
        client = fleet.client(enrolled(agent.address))
        call = asyncio.create_task(failure_of(client.ping(command(), timeout_s=30)))
        await agent.called.wait()
    error = await call
    assert (type(error), error.reason, error.retry_helps) == (Unreachable, "broken", True)

    error = await failure_of(client.ping(command(), timeout_s=30))
    assert (type(error), error.reason) == (Unreachable, "refused")


async def test_a_host_that_is_back_is_reached_at_once(ca: pki.Authority, fleet: Fleet) -> None:
    """An operator's next call dials at once, whatever pause gRPC would still make."""
    agent = FakeAgent(agent_credentials(ca))
    async with agent.serving():
        client = fleet.client(enrolled(agent.address))
        await client.ping(command(), timeout_s=5)
    for _ in range(3):
        await failure_of(client.ping(command(), timeout_s=5))
    async with agent.serving(agent.address):
        began = time.monotonic()
        await client.ping(command(), timeout_s=5)

        assert time.monotonic() - began < 1


async def test_watching_ends_when_the_host_goes(ca: pki.Authority, fleet: Fleet) -> None:
    """A watch gives an event at once, and ends with Unreachable."""
    agent = FakeAgent(agent_credentials(ca))
    async with agent.serving():
        events = fleet.client(enrolled(agent.address)).watch()
        assert (await anext(aiter(events))).kind == "watching"
    error = await failure_of(events)

    assert (type(error), error.reason) == (Unreachable, "broken")


async def test_a_client_is_kept_until_the_host_is_another(fleet: Fleet, ca: pki.Authority) -> None:
    """One enrolment, one client; a new generation or address is a new one, and the old one's calls are cut."""
    agent = FakeAgent(agent_credentials(ca), delay_s=30)
    async with agent.serving():
        client = fleet.client(enrolled(agent.address))
        assert fleet.client(enrolled(agent.address)) is client

        call = asyncio.create_task(failure_of(client.ping(command(), timeout_s=30)))
        await agent.called.wait()
        assert fleet.client(enrolled(agent.address, generation=2)) is not client
        assert (await call).reason == "broken"


async def test_a_renewed_certificate_of_ours_is_used_by_new_connections(ca: pki.Authority, agent: FakeAgent) -> None:
    """The standing connection goes on; the next dial shows the new certificate."""
    held = [ca.controller]
    fleet = Fleet(lambda: held[0], settings=Fanout())
    try:
        await fleet.client(enrolled(agent.address)).ping(command(), timeout_s=5)
        held[0] = type(ca.controller)(ca.controller.key_pem, ca.controller.chain_pem, ca.ca_pem)
        await fleet.client(enrolled(agent.address)).ping(command(), timeout_s=5)
        await fleet.drop("web-1")
        await fleet.client(enrolled(agent.address)).ping(command(), timeout_s=5)
    finally:
        await fleet.close()
