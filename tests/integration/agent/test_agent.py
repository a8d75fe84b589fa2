"""The real agent process, called over mutual TLS as a controller calls it."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from fireline_agent.hands import facts
from fireline_agent.ledger import Ledger
from fireline_controller.model import Certificate
from fireline_wire.transfer import CHUNK_BYTES
from fireline_wire.v1 import capture_pb2, host_pb2
from tests.fakes.fleet_keys import certified_agent
from tests.integration.agent.agents import Agent, agent, context, descendants, is_gone, refusal, request


async def _until_collecting(events: object, name: str) -> None:
    async for event in events:  # type: ignore[attr-defined] # a gRPC call
        if event.started.name == name:
            return


async def test_a_capture_comes_over_the_wire_whole(tmp_path: Path) -> None:
    """Events, the signed manifest and every chunk, which match what the manifest says."""
    async with agent(tmp_path) as a, a.controller() as controller:
        events = await controller.run(request("r1", "well", 'die {"how":"raise"}'))
        manifest = await controller.manifest("r1")
        chunks = await controller.fetch("r1", chunks=[("well/big.bin", 0, 3), ("well/a.txt", 0, 1)])

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["accepted", "started", "ended", "started", "ended", "sealed"]
    assert [e.ended.status for e in events if e.HasField("ended")] == [
        capture_pb2.COLLECTOR_STATUS_OK,
        capture_pb2.COLLECTOR_STATUS_FAILED,
    ]
    assert events[-1].sealed.artifacts == len(manifest.artifacts) == 3
    assert [len(c) for c in chunks] == [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES // 2, 14]
    assert (manifest.host, manifest.operator, manifest.reason, manifest.incident_id) == (
        "web-1",
        "alice",
        "a test",
        "INC",
    )


async def test_a_repeat_gets_the_first_capture_and_collects_nothing_again(tmp_path: Path) -> None:
    """I2: at once, after a restart, and after the evidence was forgotten."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            first = await controller.run(request("r1", "well"))
            again = await controller.run(request("r1", "well", fence_token=0))
        await a.stop()
        await a.start()
        async with a.controller() as controller:
            restarted = await controller.run(request("r1", "well"))
            forget = capture_pb2.ForgetCaptureRequest(context=context("f1"), capture_request_id="r1")
            await controller.captures.Forget(forget)
            await controller.captures.Forget(forget)
            forgotten = await controller.run(request("r1", "well"))
            gone = await refusal(controller.fetch("r1"))

    assert not first[0].accepted.replayed
    for later in (again, restarted, forgotten):
        assert later[0].accepted.replayed
        assert later[-1] == first[-1]
    assert (gone.reason, gone.message) == ("not_found", "this host has no sealed capture 'r1'")


async def test_the_same_id_with_another_order_is_refused(tmp_path: Path) -> None:
    """I2: what was measured anew is no other order, another collector is."""
    async with agent(tmp_path) as a, a.controller() as controller:
        await controller.run(request("r1", "well"))
        measured = request("r1", "well")
        measured.clock_offset_ns = 99
        await controller.run(measured)

        found = await refusal(controller.captures.Run(request("r1", "hang")))

    assert found.reason == "request_mismatch"


async def test_a_broken_stream_stops_nothing_and_two_can_attach(tmp_path: Path) -> None:
    """I2: the second and the third call follow the capture that the first one started."""
    async with agent(tmp_path) as a, a.controller() as controller:
        first = controller.captures.Run(request("r1", "hang", "well", deadline_s=2))
        await _until_collecting(first, "hang")
        first.cancel()
        second, third = await asyncio.gather(
            controller.run(request("r1", "hang", "well", deadline_s=2)),
            controller.run(request("r1", "hang", "well", deadline_s=2)),
        )

    assert second == third
    assert second[0].accepted.replayed
    assert [e.ended.status for e in second if e.HasField("ended")] == [
        capture_pb2.COLLECTOR_STATUS_TIMED_OUT,
        capture_pb2.COLLECTOR_STATUS_OK,
    ]


async def test_kill_9_in_a_capture_is_sealed_as_partial(tmp_path: Path) -> None:
    """After the restart the repeat gets what was gathered, and no collector is left running."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            running = controller.captures.Run(request("r1", "well", "hang", 'die {"how":"raise"}'))
            await _until_collecting(running, "hang")
            await asyncio.sleep(0.5)
            assert a.process is not None
            left = descendants(a.process.pid)
            await a.kill()
        await a.start()
        async with a.controller() as controller:
            events = await controller.run(request("r1", "well", "hang", 'die {"how":"raise"}'))
            manifest = await controller.manifest("r1")
            hang = b"".join(await controller.fetch("r1", chunks=[("hang.txt", 0, 1)]))

    assert len(left) >= 3
    assert all(is_gone(pid) for pid in left)
    assert events[0].accepted.replayed
    assert events[-1].sealed.partial
    assert manifest.partial_reason in ("the agent was restarted", "the agent ended")
    assert [c.status for c in manifest.collectors][0::2] == ["ok", "cancelled"]
    assert hang.startswith(b"tick\n")


async def test_a_capture_that_was_noted_and_never_ran_runs_at_the_repeat(tmp_path: Path) -> None:
    """I2: a crash between the note and the folder has applied nothing."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            await controller.run(request("r1", "well"))
        await a.kill()
        ledger = a.folder / "state/ledger"
        ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
        for path in (a.folder / "state/spool").iterdir():
            path.rename(tmp_path / "elsewhere")
        await a.start()
        async with a.controller() as controller:
            events = await controller.run(request("r1", "well"))

    assert events[-1].sealed.artifacts == 2


async def test_an_answer_that_was_not_noted_any_more_is_found_in_the_spool(tmp_path: Path) -> None:
    """I2: a crash right after the sealing costs nothing."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            first = await controller.run(request("r1", "well"))
        await a.kill()
        ledger = a.folder / "state/ledger"
        ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
        await a.start()
        async with a.controller() as controller:
            again = await controller.run(request("r1", "well"))

    assert again[-1] == first[-1]


async def test_cancel_takes_two_seconds_at_most_and_seals(tmp_path: Path) -> None:
    """The stream ends with a partial seal; a repeat of the cancel gets the first answer."""
    async with agent(tmp_path) as a, a.controller() as controller:
        running = controller.captures.Run(request("r1", 'hang {"deaf":true}', "well"))
        await _until_collecting(running, "hang")
        cancel = capture_pb2.CancelCaptureRequest(context=context("c1"), capture_request_id="r1")
        began = time.monotonic()
        reply = await controller.captures.Cancel(cancel)
        took = time.monotonic() - began
        events = [event async for event in running]
        repeat = await controller.captures.Cancel(cancel)
        cancel.context.request_id, cancel.capture_request_id = "c2", "r9"
        unknown = await refusal(controller.captures.Cancel(cancel))

    assert took < 2.0
    assert reply.stopped
    assert repeat == reply
    assert events[-1].sealed.partial_reason == "cancelled by alice: a test"
    assert (unknown.reason, unknown.message) == ("not_found", "this host has no capture 'r9'")


async def test_a_call_with_a_deadline_gets_what_is_there_in_time(tmp_path: Path) -> None:
    """The host obeys the time-out of the call: it seals early enough to tell."""
    async with agent(tmp_path) as a, a.controller() as controller:
        events = await controller.run(request("r1", "well", "hang"), timeout_s=6)

    assert events[-1].sealed.partial_reason.startswith("its time of 5.")


async def test_sigterm_seals_what_runs_and_refuses_what_is_new(tmp_path: Path) -> None:
    """Followers get the seal before the agent ends, and it ends by itself with status 0."""
    async with agent(tmp_path, drain_s=1) as a:
        async with a.controller() as controller:
            watch = controller.host.Watch(host_pb2.WatchRequest())
            running = controller.captures.Run(request("r1", "hang"))
            await _until_collecting(running, "hang")
            stopping = asyncio.ensure_future(a.stop())
            kinds = [event.kind async for event in watch]
            refused = await refusal(controller.captures.Run(request("r2", "well")))
            events = [event async for event in running]
            status = await stopping
        assert status == 0

    assert kinds[0] == host_pb2.HostEvent.KIND_WATCHING
    assert kinds[-1] == host_pb2.HostEvent.KIND_DRAINING
    assert refused.reason == "draining"
    assert events[-1].sealed.partial_reason == "the agent was told to stop"


async def test_a_session_answers_in_order_and_ends_with_the_agent(tmp_path: Path) -> None:
    """Asks wait their turn, whatever their numbers; an idle session holds up no stop, and ends without an error."""
    async with agent(tmp_path) as a, a.controller() as controller:
        session = controller.host.Session(timeout=20)
        for number in (7, 3, 7):
            ping = host_pb2.PingRequest(context=context(f"p{number}"))
            await session.write(host_pb2.Ask(number=number, ping=ping))
        answers = [await session.read() for _ in range(3)]
        began = time.monotonic()
        status = await a.stop()
        took_s = time.monotonic() - began

        assert await session.read() is grpc.aio.EOF
    assert status == 0
    assert [(answer.number, answer.ping.replayed) for answer in answers] == [(7, False), (3, False), (7, True)]
    assert took_s < 1.5, "it waited for the session, until calls in work are cut"


async def test_a_session_that_asks_amiss_is_ended_with_a_reason(tmp_path: Path) -> None:
    """A command that the agent does not know, and a context that does not fit."""
    async with agent(tmp_path) as a, a.controller() as controller:
        session = controller.host.Session(timeout=20)
        await session.write(host_pb2.Ask(number=1))
        unknown = await refusal(session)
        misfit = await refusal(controller.ping(""))

    assert (unknown.reason, unknown.message[:8]) == ("invalid_request", "command:")
    assert (misfit.reason, misfit.message[:18]) == ("invalid_request", "context.request_id")


async def test_a_session_more_than_there_are_places_is_refused(tmp_path: Path) -> None:
    """It does not wait for one that may stay open for days."""
    async with agent(tmp_path, command_slots=1) as a, a.controller() as controller:
        held = controller.host.Session(timeout=20)
        await held.write(host_pb2.Ask(number=1, ping=host_pb2.PingRequest(context=context("p1"))))
        await held.read()
        # Nothing is asked on it: a request that meets the stream's end would hide why it ended.
        busy = await refusal(controller.host.Session(timeout=10))
        held.cancel()

    assert (busy.reason, busy.message) == ("busy", "this host has 1 places for sessions and all are taken")


async def test_places_for_captures_are_refused_and_not_queued(tmp_path: Path) -> None:
    """I9: what has a place of its own still goes through while all captures' places are taken."""
    async with agent(tmp_path, capture_slots=1) as a, a.controller() as controller:
        running = controller.captures.Run(request("r1", "hang"))
        await _until_collecting(running, "hang")
        busy = await refusal(controller.captures.Run(request("r2", "well")))
        await controller.ping("p1")
        cancel = capture_pb2.CancelCaptureRequest(context=context("c1"), capture_request_id="r1")
        await controller.captures.Cancel(cancel)
        [_ async for _ in running]
        after = await controller.run(request("r2", "well"))

    assert (busy.reason, busy.message) == ("busy", "this host has 1 places for captures and all are taken")
    assert after[-1].sealed.artifacts == 2


async def test_a_full_spool_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """The disk that is examined is never filled."""
    async with agent(tmp_path, spool_reserve_bytes=1 << 60) as a, a.controller() as controller:
        found = await refusal(controller.captures.Run(request("r1", "well")))

    assert found.reason == "disk_full"
    assert "nothing can be collected; forget old captures or free space" in found.message


async def test_ping_and_describe_tell_the_host(tmp_path: Path) -> None:
    """A repeat of a ping gets the first answer, also after a restart."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            first = await controller.ping("p1")
            described = await controller.host.Describe(host_pb2.DescribeRequest())
        await a.kill()
        await a.start()
        async with a.controller() as controller:
            again = await controller.ping("p1")

    assert not first.replayed
    assert again.replayed
    assert again.received_at == first.received_at
    assert described.name == "web-1"
    assert "well" in described.collectors
    assert described.cgroup in ("v1", "v2", "none")
    assert described.boot_id == facts.read().boot_id


async def test_the_hosts_policy_stands_above_the_controller(tmp_path: Path) -> None:
    """A denied collector is told as such and the others run; a denied service is refused whole."""
    async with agent(tmp_path, policy='collectors = ["well"]') as a, a.controller() as controller:
        events = await controller.run(request("r1", "hang", "well"))
        described = await controller.host.Describe(host_pb2.DescribeRequest())
    assert [e.ended.status for e in events if e.HasField("ended")] == [
        capture_pb2.COLLECTOR_STATUS_DENIED,
        capture_pb2.COLLECTOR_STATUS_OK,
    ]
    assert list(described.collectors) == ["well"]

    (tmp_path / "second").mkdir()
    async with agent(tmp_path / "second", policy='services = ["Host"]') as b, b.controller() as controller:
        found = await refusal(controller.captures.Run(request("r1", "well")))
        fetched = await refusal(controller.fetch("r1"))
    assert found.reason == fetched.reason == "policy_denied"


async def test_a_dry_run_does_nothing_and_says_what_it_would_do(tmp_path: Path) -> None:
    """No capture, no request id spent."""
    async with agent(tmp_path, policy='collectors = ["well"]') as a, a.controller() as controller:
        events = await controller.run(request("r1", "well", "hang", dry_run=True))
        real = await controller.run(request("r1", "well"))

    assert events[1].ended.detail.startswith("would run for at most 20 s with 100 % of a core")
    assert events[2].ended.detail == "this host's policy does not allow the collector hang"
    assert not real[0].accepted.replayed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request_id": ""}, "context.request_id: wanted 1 to 100 printable characters, found ''"),
        ({"operator": "x" * 201}, "context.operator: wanted at most 200 characters, found 201"),
    ],
)
async def test_a_context_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The field is named."""
    async with agent(tmp_path) as a, a.controller() as controller:
        found = await refusal(controller.captures.Run(request("r1", "well", **change)))

    assert (found.reason, found.message) == ("invalid_request", message)


async def test_orders_and_ranges_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Each names its field, and none leaves a trace."""
    async with agent(tmp_path) as a, a.controller() as controller:
        none = await refusal(controller.captures.Run(request("r1")))
        twice = await refusal(controller.captures.Run(request("r1", "well", "well")))
        params = await refusal(controller.captures.Run(request("r1", "well [1]")))
        await controller.run(request("r1", "well"))
        artifact = await refusal(controller.fetch("r1", chunks=[("../../ledger", 0, 1)]))
        beyond = await refusal(controller.fetch("r1", chunks=[("well/a.txt", 0, 2)]))
        offset = await refusal(controller.fetch("r1", offset=5))

    assert none.message == "collectors: wanted 1 to 200, found 0"
    assert twice.message == "collectors: well is there twice"
    assert params.message == "collectors.well.params_json: wanted a JSON object"
    assert (artifact.reason, artifact.message) == ("not_found", "the capture has no artifact '../../ledger'")
    assert beyond.message == "artifact well/a.txt: wanted a range within 1 chunks, found 2 from 0"
    assert offset.message.startswith("manifest_offset: wanted a multiple of 1048576")


async def test_only_a_controller_is_let_in(tmp_path: Path) -> None:
    """An operator's and another agent's certificate are refused at every door; health is behind it too."""
    async with agent(tmp_path) as a:
        other, _ = certified_agent(a.authority, "web-2")
        for credentials in (a.authority.operator, other):
            async with a.controller(credentials) as peer:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await peer.ping("p1")
                assert error.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)


async def test_a_certificate_is_renewed_while_the_agent_serves(tmp_path: Path) -> None:
    """The key never leaves the host; repeats of both steps get the first answers; an older fence token is refused."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            prepare = host_pb2.PrepareRenewalRequest(context=context("n1", fence_token=7))
            prepared = await controller.host.PrepareRenewal(prepare)
            issued, chain_pem = _issued(a, prepared.signing_request_pem)
            install = host_pb2.InstallCertificateRequest(context=context("n2", fence_token=7), chain_pem=chain_pem)
            installed = await controller.host.InstallCertificate(install)
            repeat = await controller.host.InstallCertificate(install)
            stale = host_pb2.PrepareRenewalRequest(context=context("n3", fence_token=6))
            fenced = await refusal(controller.host.PrepareRenewal(stale))
            # Observing commands may overtake one another.
            await controller.ping("p1", fence_token=6)
        async with a.controller() as controller:
            await controller.run(request("r1", "well"))
            manifest = await controller.manifest("r1")

    assert installed.serial_hex == issued.serial
    assert repeat == installed
    assert fenced.message == "fence token 6 is older than 7, which this host has seen"
    assert manifest.host == "web-1"


def _issued(a: Agent, signing_request_pem: bytes) -> tuple[Certificate, bytes]:
    from datetime import UTC, datetime, timedelta

    issued = a.authority.issue_agent(
        signing_request_pem, host="web-1", generation=1, now=datetime.now(UTC), lifetime=timedelta(days=7)
    )
    return issued, a.authority.chain_of(issued)


async def test_a_deny_list_cuts_and_survives_a_restart(tmp_path: Path) -> None:
    """Revoked controllers stay out; a list with a lower version changes nothing."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            await controller.host.SetDenyList(_deny("d1", 5, "abc"))
            older = await controller.host.SetDenyList(_deny("d2", 4))
            wrong = await refusal(controller.host.SetDenyList(_deny("d3", 6, "0xAB")))
        await a.kill()
        await a.start()
        async with a.controller() as controller:
            described = await controller.host.Describe(host_pb2.DescribeRequest())

    assert older.version == 5
    assert "wanted lower-case hexadecimal without leading zeros, found '0xAB'" in wrong.message
    assert described.deny_list_version == 5


def _deny(request_id: str, version: int, *serials: str) -> host_pb2.SetDenyListRequest:
    return host_pb2.SetDenyListRequest(context=context(request_id), version=version, serials_hex=serials)


async def test_a_fault_leaks_no_text_and_has_an_id_in_the_log(tmp_path: Path) -> None:
    """The caller gets an id; the agent's log explains it under that id."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            await controller.run(request("r1", "well"))
            for path in (a.folder / "state/spool").glob("*/places.json"):
                path.write_text("no JSON, secret")
            found = await refusal(controller.fetch("r1", chunks=[("well/a.txt", 0, 1)]))
        await a.stop()

    error_id = found.message.rpartition(" ")[2]
    assert found.reason == "internal"
    assert found.message == f"a fault in the agent; its log explains it under error_id {error_id}"
    assert any(line.get("error_id") == error_id and "JSONDecodeError" in line["traceback"] for line in a.log)


async def test_the_ledger_is_shared_with_nobody(tmp_path: Path) -> None:
    """What stands in it after a stop is what was answered."""
    async with agent(tmp_path) as a:
        async with a.controller() as controller:
            await controller.run(request("r1", "well"))
        await a.stop()
        ledger = Ledger.open(a.folder / "state/ledger", limit=10)

    assert ledger.unfinished() == ()
    ledger.close()
