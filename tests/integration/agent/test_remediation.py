"""The Remediation service of a real agent over mutual TLS: at most once, refusals told apart, nothing waits for it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fireline_wire.v1 import remediation_pb2 as pb
from fireline_wire.v1 import remediation_pb2_grpc
from tests.integration.agent.agents import Agent, Controller, agent, context, refusal

QUARANTINE = "security.quarantine_file"


class Actions:
    """Calls about one file in the agent's own folder."""

    def __init__(self, controller: Controller, path: Path) -> None:
        self.stub: Any = remediation_pb2_grpc.RemediationStub(controller.channel)
        self.controller = controller
        self.path = path

    @property
    def params_json(self) -> str:
        """Which file."""
        return json.dumps({"path": str(self.path)})

    def plan(self, action: str = QUARANTINE, params_json: str = "") -> Any:
        """The call for a plan."""
        return self.stub.Plan(
            pb.PlanActionRequest(context=context("plan"), action=action, params_json=params_json or self.params_json),
            timeout=20,
        )

    def apply(self, request_id: str, plan_sha256: str, *, action: str = QUARANTINE, **changes: Any) -> Any:
        """The call that applies."""
        return self.stub.Apply(
            pb.ApplyActionRequest(
                context=context(request_id, **changes),
                action=action,
                params_json=self.params_json,
                plan_sha256=plan_sha256,
            ),
            timeout=20,
        )

    async def applied(self, request_id: str, plan_sha256: str) -> tuple[bool, pb.ActionEnded]:
        """Whether it was a repeat, and how it ended."""
        return await _end(self.apply(request_id, plan_sha256))

    async def undone(self, request_id: str, applied: str) -> tuple[bool, pb.ActionEnded]:
        """The same of an undo."""
        request = pb.UndoActionRequest(context=context(request_id), applied_request_id=applied)
        return await _end(self.stub.Undo(request, timeout=20))


async def _end(call: Any) -> tuple[bool, pb.ActionEnded]:
    events = [event async for event in call]
    return events[0].accepted.replayed, events[-1].ended


@asynccontextmanager
async def actions(folder: Path, *, policy: str = "", **settings: Any) -> AsyncIterator[tuple[Agent, Actions]]:
    """An agent, and a file to act on."""
    path = folder / "bad"
    path.write_bytes(b"evil")
    async with agent(folder, policy=policy, **settings) as made, made.controller() as controller:
        yield made, Actions(controller, path)


async def test_a_request_id_is_applied_once(tmp_path: Path) -> None:
    """A repeat gets the first end, after a restart too; another request under the same id is refused (I2)."""
    async with actions(tmp_path) as (made, calls):
        plan = (await calls.plan()).plan_sha256
        first = await calls.applied("a", plan)
        calls.path.write_bytes(b"another")
        second = await calls.applied("a", plan)
        other = await refusal(calls.apply("a", "00" * 32))
        await made.kill()
        await made.start()
        async with made.controller() as controller:
            third = await Actions(controller, calls.path).applied("a", plan)

        assert (first[0], second[0], third[0]) == (False, True, True)
        assert first[1].status == pb.ACTION_STATUS_OK
        assert first[1] == second[1] == third[1]
        assert calls.path.read_bytes() == b"another"
        assert other.reason == "request_mismatch"


async def test_two_calls_with_one_id_share_one_application(tmp_path: Path) -> None:
    """However close they come: one starts it, both hear its end."""
    async with actions(tmp_path) as (_, calls):
        plan = (await calls.plan()).plan_sha256

        found = await asyncio.gather(*(calls.applied("a", plan) for _ in range(5)))

        assert sorted(replayed for replayed, _ in found) == [False, True, True, True, True]
        assert len({ended.SerializeToString(deterministic=True) for _, ended in found}) == 1
        assert len(os.listdir(tmp_path / "state/quarantine")) == 1  # noqa: PTH208 -- counted


async def test_an_undo_is_done_once_and_by_its_own_record(tmp_path: Path) -> None:
    """A second one finds nothing left to take back, and an undo itself can't be taken back."""
    async with actions(tmp_path) as (_, calls):
        await calls.applied("a", (await calls.plan()).plan_sha256)

        first, again, second = (
            await calls.undone("u", "a"),
            await calls.undone("u", "a"),
            await calls.undone("v", "a"),
        )

        assert (first[1].changes_done, again[0], second[1].changes_done) == (1, True, 0)
        assert calls.path.read_bytes() == b"evil"
        request = pb.UndoActionRequest(context=context("w"), applied_request_id="u")
        assert (await refusal(calls.stub.Undo(request))).reason == "invalid_request"
        request = pb.UndoActionRequest(context=context("x"), applied_request_id="none")
        assert (await refusal(calls.stub.Undo(request))).reason == "not_found"


async def test_nothing_is_taken_back_twice_at_once(tmp_path: Path) -> None:
    """While one undo of an application is in work, another is refused, whatever its request id."""
    async with actions(tmp_path) as (_, calls):
        await calls.applied("a", (await calls.plan()).plan_sha256)
        first, second = (
            pb.UndoActionRequest(context=context(name), applied_request_id="a") for name in ("first", "second")
        )

        undoing = aiter(calls.stub.Undo(first, timeout=20))
        accepted = await anext(undoing)
        refused = await refusal(calls.stub.Undo(second, timeout=20))
        ended = [event async for event in undoing][-1].ended

        assert accepted.accepted.request_id == "first"
        assert (refused.reason, ended.status) == ("busy", pb.ACTION_STATUS_OK)
        assert "is being taken back already" in refused.message


async def test_a_broken_record_keeps_no_agent_from_starting(tmp_path: Path) -> None:
    """The host can still be asked, and isolated, and act: what the record held is told as not known."""
    async with actions(tmp_path) as (made, calls):
        await calls.applied("a", (await calls.plan()).plan_sha256)
        await made.kill()
        [record] = (tmp_path / "state/remediations").glob("*/record")
        record.write_bytes(b'{"event":"star\n')
        await made.start()
        async with made.controller() as controller:
            calls = Actions(controller, calls.path)
            calls.path.write_bytes(b"another")

            assert (await calls.plan()).change_count == 1


async def test_a_refusal_is_remembered_as_one(tmp_path: Path) -> None:
    """A plan that is another one now: nothing is done, and the same id gets the same refusal."""
    async with actions(tmp_path) as (_, calls):
        first, second = await refusal(calls.apply("a", "00" * 32)), await refusal(calls.apply("a", "00" * 32))

        assert (first.reason, second) == ("plan_changed", first)
        assert "now it would be: quarantine" in first.message
        assert calls.path.exists()


REFUSALS = [
    ("security.quarantin_file", "{}", "not_found", "did you mean 'security.quarantine_file'?"),
    ("../../etc/passwd", "{}", "not_found", "no action"),
    (QUARANTINE, "[]", "invalid_request", "params_json: wanted a JSON object"),
    (QUARANTINE, "{" * 5000, "invalid_request", "params_json: wanted a JSON object"),
    (QUARANTINE, "{}", "invalid_request", "parameter 'path' lacks"),
    (QUARANTINE, '{"pathh": "/x"}', "invalid_request", "did you mean 'path'?"),
    (QUARANTINE, '{"path": "/x/../y"}', "invalid_request", "without '..'"),
    (QUARANTINE, '{"path": "/none/x"}', "not_found", "there is no such file"),
    (QUARANTINE, '{"path": "/tmp"}', "action_refused", "found a folder"),
    ("system.process_kill", "{}", "action_refused", "wanted a pid or a command"),
    ("disk.clean_logs", '{"roots": ["/none"]}', "policy_denied", "does not allow the action disk.clean_logs"),
]


async def test_refusals_say_what_is_wrong(tmp_path: Path) -> None:
    """Each with a reason of its own, and the nearest right name."""
    async with actions(tmp_path) as (_, calls):
        found = [await refusal(calls.plan(action, params)) for action, params, _, _ in REFUSALS]

    for one, (_, _, reason, words) in zip(found, REFUSALS, strict=True):
        assert (one.reason, words in one.message) == (reason, True), one


async def test_an_action_that_only_reads_is_never_applied(tmp_path: Path) -> None:
    """Its plan is what it found."""
    async with actions(tmp_path) as (_, calls):
        found = await refusal(calls.apply("a", "00" * 32, action="disk.usage"))
        dry = await refusal(calls.apply("b", "00" * 32, dry_run=True))

    assert (found.reason, dry.reason) == ("invalid_request", "invalid_request")


async def test_what_the_policy_forbids_is_denied(tmp_path: Path) -> None:
    """With the reason by which a controller tells it from a failure."""
    async with actions(tmp_path, policy='deny_actions = ["security.*"]') as (_, calls):
        found = await refusal(calls.plan())

    assert found.reason == "policy_denied"


async def test_the_agents_own_files_are_never_touched(tmp_path: Path) -> None:
    """Neither its state nor its rules, whatever `writable` says."""
    async with actions(tmp_path) as (_, calls):
        for name in ("state/ledger", "policy.toml"):
            found = await refusal(calls.plan(params_json=json.dumps({"path": str(tmp_path / name)})))
            assert found.reason == "policy_denied", found


async def test_one_more_than_there_are_places_is_refused(tmp_path: Path) -> None:
    """It is not queued: whoever asks hears at once."""
    async with actions(tmp_path, action_slots=1) as (_, calls):
        found = await asyncio.gather(*(calls.plan() for _ in range(3)), return_exceptions=True)

        assert sorted(isinstance(one, pb.ActionPlan) for one in found) == [False, False, True]
        assert (await calls.plan()).change_count == 1


async def test_cancelling_what_is_not_there_is_told(tmp_path: Path) -> None:
    """One that ended is no error; one that never was is."""
    async with actions(tmp_path) as (_, calls):
        await calls.applied("a", (await calls.plan()).plan_sha256)

        reply = await calls.stub.Cancel(pb.CancelActionRequest(context=context("c"), action_request_id="a"))
        found = await refusal(calls.stub.Cancel(pb.CancelActionRequest(context=context("d"), action_request_id="b")))

        assert (reply.stopped, found.reason) == (False, "not_found")
