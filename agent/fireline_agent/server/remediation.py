"""The Remediation service: plan an action, apply that very plan at most once, take it back, stop it."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from fireline_agent.config import Config
from fireline_agent.errors import RefusedError
from fireline_agent.ledger import Command
from fireline_agent.policy import Policy
from fireline_agent.remediation.order import APPLY, PLAN, UNDO, Order
from fireline_agent.remediation.records import Records, closed, order_of
from fireline_agent.remediation.runner import Progress, Runner, Running
from fireline_agent.server.commands import Commands, checked, refuse_dry_run, require_short
from fireline_agent.server.edge import Context, Places, streaming, unary
from fireline_wire import action_index
from fireline_wire.v1 import common_pb2, remediation_pb2, remediation_pb2_grpc

log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_PARAMS: Final = 256 << 10  # characters
_MAX_ID: Final = 100
_RESTARTED: Final = "the agent ended in the middle and was started again"


class RemediationService(remediation_pb2_grpc.RemediationServicer):
    """Actions on one host. Its places are its own: isolation and cancelling never wait behind an action (I9)."""

    def __init__(
        self,
        runner: Runner,
        records: Records,
        *,
        config: Config,
        policy: Policy,
        commands: Commands,
        threads: Executor,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._runner = runner
        self._records = records
        self._config = config
        self._policy = policy
        self._commands = commands
        self._threads = threads
        self._tasks = tasks
        self._slots = Places("actions", config.action_slots)
        self._following = Places("following actions", config.command_slots)
        self._cancelling = Places("stopping actions", config.command_slots)
        # One start at a time, so that a repeat finds what the first one started.
        self._starting = asyncio.Lock()
        self._is_draining = False

    async def drain(self, *, within_s: float) -> None:
        """Take no new actions and let those in work end; returns once all ends are on record."""
        self._is_draining = True
        await self._runner.drain(within_s=within_s)

    async def recover(self, unfinished: tuple[str, ...]) -> None:
        """Close what a crash cut short, never to be done again, and note the ends that were not noted any more."""
        # On the loop itself: nobody is served yet, and an agent at rest needs no thread for this.
        for left in list(self._records.unfinished()):
            end = await self._off_loop(closed, left, "interrupted", _RESTARTED)
            log.warning("an action was cut short", extra={"folder": str(left), "in_doubt": end["in_doubt"]})
        for request_id in unfinished:
            folder = self._records.find(request_id)
            if folder is not None:
                end = await self._off_loop(closed, folder, "interrupted", _RESTARTED)
                await self._commands.finish(request_id, _message(end).SerializeToString())

    @unary
    async def Plan(self, request: remediation_pb2.PlanActionRequest, context: Context) -> remediation_pb2.ActionPlan:
        """What it would do; of an action that only reads, what it found. Not remembered: it changes nothing."""
        self._policy.require_service("Remediation")
        checked("Plan", request)
        indexed = _indexed(request.action)
        self._policy.require_action(request.action, indexed.risk)
        order = _order(request.context, PLAN, request.action, _params(request.params_json))
        with self._slots.taken():
            self._require_serving()
            return _plan(await self._runner.plan(order, deadline_s=self._deadline_s(context)))

    @streaming
    async def Apply(
        self, request: remediation_pb2.ApplyActionRequest, context: Context
    ) -> AsyncGenerator[remediation_pb2.ActionEvent, None]:
        """Do what was planned, once, and tell how it goes."""
        self._policy.require_service("Remediation")
        refuse_dry_run(request)
        command = checked("Apply", request)
        require_short("plan_sha256", request.plan_sha256, 64)
        indexed = _indexed(request.action)
        if indexed.risk == action_index.READ:
            raise RefusedError("invalid_request", f"action: {request.action} only reads: its plan is what it found")
        self._policy.require_action(request.action, indexed.risk)
        order = replace(
            _order(request.context, APPLY, request.action, _params(request.params_json)),
            plan_sha256=request.plan_sha256,
            is_undoable=indexed.is_undoable,
        )
        async for event in self._told(command, order, context):
            yield event

    @streaming
    async def Undo(
        self, request: remediation_pb2.UndoActionRequest, context: Context
    ) -> AsyncGenerator[remediation_pb2.ActionEvent, None]:
        """Take back what an application did, once."""
        self._policy.require_service("Remediation")
        refuse_dry_run(request)
        command = checked("Undo", request)
        wanted = request.applied_request_id
        require_short("applied_request_id", wanted, _MAX_ID)
        applied = await self._applied(wanted)
        self._policy.require_action(applied.action, _indexed(applied.action).risk)
        order = replace(_order(request.context, UNDO, applied.action, applied.params), applied=wanted)
        async for event in self._told(command, order, context):
            yield event

    @unary
    async def Cancel(
        self, request: remediation_pb2.CancelActionRequest, _context: Context
    ) -> remediation_pb2.CancelActionReply:
        """Stop first and note it then: stopping twice does no harm, and a slow disk must not hold it up (I9)."""
        self._policy.require_service("Remediation")
        with self._cancelling.taken():
            command = checked("Cancel", request)
            wanted = request.action_request_id
            if request.context.dry_run:
                return remediation_pb2.CancelActionReply(stopped=self._runner.find(wanted) is not None)
            stopped = await self._runner.cancel(wanted, _why(request.context))
            if not stopped and self._records.find(wanted) is None:
                raise RefusedError("not_found", f"this host has no action {wanted[:_MAX_ID]!r}")
            reply = remediation_pb2.CancelActionReply(stopped=stopped)
            first = await self._commands.settle(command, reply.SerializeToString())
            return remediation_pb2.CancelActionReply.FromString(first)

    async def _told(
        self, command: Command, order: Order, context: Context
    ) -> AsyncGenerator[remediation_pb2.ActionEvent, None]:
        with self._following.taken():
            is_known, found = await self._attach(command, order, context)
            accepted = remediation_pb2.ActionAccepted(request_id=command.request_id, replayed=is_known)
            yield remediation_pb2.ActionEvent(accepted=accepted)
            if isinstance(found, Running):
                async for progress in found.follow():
                    yield _progress(progress)
                found = _message(await found.ended())
            if found.refusal:
                raise RefusedError(found.refusal, found.detail)
            yield remediation_pb2.ActionEvent(ended=found)

    async def _attach(
        self, command: Command, order: Order, context: Context
    ) -> tuple[bool, Running | remediation_pb2.ActionEnded]:
        """Whether the request id was known, and what to follow: the application in work, or how it ended."""
        async with self._starting:
            if not await self._commands.find(command):
                return False, await self._start(command, order, context)
            first = await self._commands.begin_with_room(command)
            if first is not None:
                return True, remediation_pb2.ActionEnded.FromString(first)
            running = self._runner.find(command.request_id)
            if running is not None:
                return True, running
            folder = self._records.find(command.request_id)
            if folder is None:  # it was noted and never ran
                return True, await self._start(command, order, context)
            end = _message(await self._off_loop(closed, folder, "interrupted", _RESTARTED))
            await self._commands.finish_with_room(command.request_id, end.SerializeToString())
            return True, end

    async def _start(self, command: Command, order: Order, context: Context) -> Running:
        """In a place that is held until it ends, whoever goes away meanwhile."""
        self._require_serving()
        if order.kind == UNDO and self._runner.is_undoing(order.applied):
            raise RefusedError("busy", f"the action {order.applied} is being taken back already; wait for its end")
        with ExitStack() as stack:
            stack.enter_context(self._slots.taken())
            await self._commands.begin_with_room(command)
            running = await self._runner.start(order, deadline_s=self._deadline_s(context))
            self._tasks.create_task(self._note_end(running, stack.pop_all()))
        return running

    async def _note_end(self, running: Running, place: ExitStack) -> None:
        request_id = running.order.request_id
        with place:
            end = _message(await running.ended())
        try:
            await self._commands.finish_with_room(request_id, end.SerializeToString())
        except (OSError, KeyError, RefusedError):
            # The record still knows it: the next start of the agent notes it.
            log.exception("end of an action could not be noted", extra={"request_id": request_id})

    async def _applied(self, request_id: str) -> Order:
        folder = self._records.find(request_id)
        if folder is None:
            raise RefusedError("not_found", f"this host has no record of an action {request_id!r}, so no way back")
        if self._runner.find(request_id) is not None:
            raise RefusedError("busy", f"the action {request_id} is still in work; cancel it, or wait for its end")
        applied = await self._off_loop(order_of, folder)
        if applied.kind != APPLY:
            raise RefusedError("invalid_request", f"applied_request_id: {request_id} is an undo itself")
        if not applied.is_undoable:
            raise RefusedError("unsupported", f"{applied.action} can't be taken back")
        return applied

    def _require_serving(self) -> None:
        if self._is_draining:
            raise RefusedError("draining", "the agent is stopping and takes no new actions")

    def _deadline_s(self, context: Context) -> float:
        ceiling = float(self._config.action_deadline_s)
        left = cast(float | None, context.time_remaining())  # the stubs forget calls without a deadline
        return ceiling if left is None else min(ceiling, max(0.0, left))

    async def _off_loop(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _indexed(name: str) -> action_index.Indexed:
    known = action_index.read()
    if name not in known:
        near = action_index.nearest(name[:100], known)
        raise RefusedError("not_found", f"this agent has no action {name[:100]!r}; {near}")
    return known[name]


def _params(params_json: str) -> dict[str, Any]:
    """The parameters as they came; the action's own process checks them."""
    require_short("params_json", params_json, _MAX_PARAMS)
    try:
        given = json.loads(params_json or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise RefusedError("invalid_request", "params_json: wanted a JSON object")
    return given


def _order(context: common_pb2.CommandContext, kind: str, action: str, params: Mapping[str, Any]) -> Order:
    return Order(
        request_id=context.request_id,
        kind=kind,
        action=action,
        params=params,
        operation_id=context.operation_id,
        incident_id=context.incident_id,
        operator=context.operator,
        reason=context.reason,
        fence_token=context.fence_token,
        ordered_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _why(context: common_pb2.CommandContext) -> str:
    who = f"cancelled by {context.operator}" if context.operator else "cancelled"
    return f"{who}: {context.reason}" if context.reason else who


def _plan(planned: Mapping[str, Any]) -> remediation_pb2.ActionPlan:
    return remediation_pb2.ActionPlan(
        plan_sha256=planned["plan_sha256"],
        risk=planned["risk"],
        summary=planned["summary"],
        changes=[remediation_pb2.ActionChange(**change) for change in planned["changes"]],
        change_count=planned["change_count"],
        total_bytes=planned["total_bytes"],
        warnings=planned["warnings"],
        result_json=json.dumps(planned["result"]),
    )


def _progress(progress: Progress) -> remediation_pb2.ActionEvent:
    told = remediation_pb2.ActionProgress(done=progress.done, count=progress.count, doing=progress.doing)
    return remediation_pb2.ActionEvent(progress=told)


def _message(end: Mapping[str, Any]) -> remediation_pb2.ActionEnded:
    status = f"ACTION_STATUS_{end.get('status', 'failed').upper()}"
    others = {name: value for name, value in end.items() if name not in ("status", "result")}
    return remediation_pb2.ActionEnded(
        status=remediation_pb2.ActionStatus.Value(status), result_json=json.dumps(end.get("result", {})), **others
    )
