"""The Capture service: start a capture once, follow it, stop it, forget it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final, TypeVar, cast

from fireline_agent.capture.order import Folder, Order
from fireline_agent.capture.runner import CollectorEnded, CollectorStarted, News, Runner, Running
from fireline_agent.capture.spool import Sealed, Spool, read_sealed
from fireline_agent.errors import RefusedError
from fireline_agent.ledger import Command
from fireline_agent.server.commands import Commands, checked, require_short
from fireline_agent.server.edge import Context, Places, streaming, unary
from fireline_agent.server.keyring import Keyring
from fireline_agent.server.orders import Terms, order_from
from fireline_wire.v1 import capture_pb2, capture_pb2_grpc

log = logging.getLogger(__name__)
T = TypeVar("T")

_SEALING_SHARE: Final = 0.9  # of a call's time for collecting; the rest is for sealing and telling
_STATUSES: Final = {
    "ok": capture_pb2.COLLECTOR_STATUS_OK,
    "failed": capture_pb2.COLLECTOR_STATUS_FAILED,
    "timed_out": capture_pb2.COLLECTOR_STATUS_TIMED_OUT,
    "cancelled": capture_pb2.COLLECTOR_STATUS_CANCELLED,
    "denied": capture_pb2.COLLECTOR_STATUS_DENIED,
    "absent": capture_pb2.COLLECTOR_STATUS_ABSENT,
}


class CaptureService(capture_pb2_grpc.CaptureServicer):
    """Captures of one host."""

    def __init__(
        self,
        terms: Terms,
        *,
        keys: Keyring,
        spool: Spool,
        runner: Runner,
        commands: Commands,
        threads: Executor,
        tasks: asyncio.TaskGroup,
        streams: Places,
        places: Places,
    ) -> None:
        self._terms = terms
        self._keys = keys
        self._spool = spool
        self._runner = runner
        self._commands = commands
        self._threads = threads
        self._tasks = tasks
        self._streams = streams
        self._places = places
        # One start at a time, so that a repeat finds what the first one started.
        self._starting = asyncio.Lock()
        self._is_draining = False

    async def drain(self, *, within_s: float) -> None:
        """Take no new captures and let those in work end; returns once all are sealed and told."""
        self._is_draining = True
        await self._runner.drain(within_s=within_s)

    async def recover(self, unfinished: tuple[str, ...]) -> None:
        """Take up what a crash left: seal unsealed captures, and note answers that were not noted any more."""
        for folder, order in await self._off_loop(self._spool.unsealed):
            log.warning("sealing what a former agent left", extra={"request_id": order.request_id})
            self._remember(self._runner.recover(order, folder))
        for request_id in unfinished:
            sealed = await self._off_loop(_find_sealed, self._spool, request_id)
            if sealed is not None:
                await self._commands.finish(request_id, _event(sealed).SerializeToString())

    @streaming
    async def Run(
        self, request: capture_pb2.CaptureRequest, context: Context
    ) -> AsyncGenerator[capture_pb2.CaptureEvent, None]:
        """Collect, spool and seal, and tell how it goes."""
        self._terms.policy.require_service("Capture")
        with self._streams.taken():
            if request.context.dry_run:
                for event in self._rehearsal(request):
                    yield event
                return
            known, running = await self._attach(request, context)
            yield _accepted(request, replayed=known)
            if isinstance(running, Running):
                async for news in running.follow():
                    yield _event(news)
            else:
                yield running

    @unary
    async def Cancel(
        self, request: capture_pb2.CancelCaptureRequest, _context: Context
    ) -> capture_pb2.CancelCaptureReply:
        """Stop first and note it then: stopping twice does no harm, and a slow disk must not hold it up (I9)."""
        self._terms.policy.require_service("Capture")
        with self._places.taken():
            command = checked("Cancel", request)
            wanted = request.capture_request_id
            if request.context.dry_run:
                return capture_pb2.CancelCaptureReply(stopped=self._runner.find(wanted) is not None)
            asker = request.context
            stopped = await self._runner.cancel(wanted, _why(asker.operator, asker.reason))
            if stopped is None:
                await self._require_known(wanted)
            pids = sorted(stopped.unkillable_pids) if stopped is not None else []
            reply = capture_pb2.CancelCaptureReply(stopped=stopped is not None, unkillable_pids=pids)
            first = await self._commands.settle(command, reply.SerializeToString())
            return capture_pb2.CancelCaptureReply.FromString(first)

    @unary
    async def Forget(
        self, request: capture_pb2.ForgetCaptureRequest, _context: Context
    ) -> capture_pb2.ForgetCaptureReply:
        """Delete a sealed capture."""
        self._terms.policy.require_service("Capture")
        with self._places.taken():
            command = checked("Forget", request)
            wanted = request.capture_request_id
            if self._runner.find(wanted) is not None:
                raise RefusedError("invalid_request", f"capture {wanted[:100]} is still in work; cancel it first")
            reply = capture_pb2.ForgetCaptureReply()
            if not request.context.dry_run:
                await self._off_loop(self._spool.forget, wanted)
                await self._commands.settle(command, reply.SerializeToString())
            return reply

    async def _attach(
        self, request: capture_pb2.CaptureRequest, context: Context
    ) -> tuple[bool, Running | capture_pb2.CaptureEvent]:
        """Whether the request id was known, and what to follow: the capture in work, or its last event."""
        command = checked("Run", request, unmeasured=_unmeasured(request))
        async with self._starting:
            if not await self._commands.find(command):
                return False, await self._start(command, request, context)
            first = await self._commands.begin(command)
            if first is not None:
                return True, capture_pb2.CaptureEvent.FromString(first)
            running = self._runner.find(command.request_id) or await self._taken_up(command.request_id)
            # Nothing of it on the disk: it was noted and never ran.
            return True, running or await self._start(command, request, context)

    async def _start(self, command: Command, request: capture_pb2.CaptureRequest, context: Context) -> Running:
        self._require_free_place()
        room = await self._off_loop(self._spool.room_bytes)
        # Each place has its share of the room, so that one capture can't take it from another.
        budget = room // (self._terms.config.capture_slots - len(self._runner))
        self._spool.require_room(budget)
        order = order_from(request, self._terms, host=self._keys.held.name, budget_bytes=budget)
        await self._commands.begin(command)
        folder = await self._off_loop(self._spool.create, order)
        running = self._runner.start(order, folder, deadline_s=self._deadline_s(context))
        self._remember(running)
        return running

    async def _taken_up(self, request_id: str) -> Running | None:
        """A capture that is on the disk and neither in work nor answered: sealing it failed, and is tried again."""
        folder = await self._off_loop(self._spool.find, request_id)
        if folder is None:
            return None
        running = self._runner.recover(await self._off_loop(_read_order, folder), folder)
        self._remember(running)
        return running

    def _require_free_place(self) -> None:
        slots = self._terms.config.capture_slots
        if self._is_draining:
            raise RefusedError("draining", "the agent is stopping and takes no new captures")
        if len(self._runner) >= slots:
            raise RefusedError("busy", f"this host has {slots} places for captures and all are taken")

    def _deadline_s(self, context: Context) -> float:
        ceiling = float(self._terms.config.capture_deadline_s)
        left = cast(float | None, context.time_remaining())  # the stubs forget calls without a deadline
        return ceiling if left is None else min(ceiling, max(0.0, left * _SEALING_SHARE))

    def _remember(self, running: Running) -> None:
        self._tasks.create_task(self._note_end(running))

    async def _note_end(self, running: Running) -> None:
        request_id = running.order.request_id
        try:
            with suppress(RefusedError):
                async for news in running.follow():
                    if isinstance(news, Sealed):
                        await self._commands.finish(request_id, _event(news).SerializeToString())
        except (OSError, KeyError):
            # The spool still knows it: the next start of the agent notes it.
            log.exception("end of a capture could not be noted", extra={"request_id": request_id})

    async def _require_known(self, request_id: str) -> None:
        if await self._off_loop(self._spool.find, request_id) is None:
            raise RefusedError("not_found", f"this host has no capture {request_id[:100]!r}")

    def _rehearsal(self, request: capture_pb2.CaptureRequest) -> list[capture_pb2.CaptureEvent]:
        """What would be done, collector by collector, and nothing done."""
        require_short("context.request_id", request.context.request_id, 100)
        order = order_from(request, self._terms, host=self._keys.held.name, budget_bytes=0)
        ended = [_event(_rehearsed(order, index)) for index in range(len(order.collectors))]
        return [_accepted(request, replayed=False), *ended]

    async def _off_loop(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _find_sealed(spool: Spool, request_id: str) -> Sealed | None:
    folder = spool.find(request_id)
    return read_sealed(folder) if folder is not None else None


def _read_order(folder: Folder) -> Order:
    return Order.from_json(folder.order.read_bytes())


def _why(operator: str, reason: str) -> str:
    who = f"cancelled by {operator}" if operator else "cancelled"
    return f"{who}: {reason}" if reason else who


def _unmeasured(request: capture_pb2.CaptureRequest) -> capture_pb2.CaptureRequest:
    """The request without what is measured anew at each try."""
    return capture_pb2.CaptureRequest(profile=request.profile, collectors=request.collectors)


def _rehearsed(order: Order, index: int) -> CollectorEnded:
    collector = order.collectors[index]
    limits = collector.limits
    if collector.denial or not collector.module:
        status, detail = "denied", collector.denial or f"this agent has no collector {collector.name!r}"
    else:
        status = "ok"
        detail = (
            f"would run for at most {limits.deadline_s:g} s with {limits.cpu_percent} % of a core, "
            f"{limits.memory_bytes} bytes of memory and {limits.output_bytes} bytes of output"
        )
    return CollectorEnded(collector.name, status, detail, artifacts=0, total_bytes=0, wall_ms=0, cpu_ms=0)


def _accepted(request: capture_pb2.CaptureRequest, *, replayed: bool) -> capture_pb2.CaptureEvent:
    accepted = capture_pb2.CaptureAccepted(request_id=request.context.request_id, replayed=replayed)
    return capture_pb2.CaptureEvent(accepted=accepted)


def _event(news: News) -> capture_pb2.CaptureEvent:
    if isinstance(news, CollectorStarted):
        started = capture_pb2.CollectorStarted(name=news.name, index=news.index, count=news.count)
        return capture_pb2.CaptureEvent(started=started)
    if isinstance(news, CollectorEnded):
        ended = capture_pb2.CollectorEnded(
            name=news.name,
            status=_STATUSES[news.status],
            detail=news.detail,
            artifacts=news.artifacts,
            total_bytes=news.total_bytes,
            wall_ms=news.wall_ms,
            cpu_ms=news.cpu_ms,
        )
        return capture_pb2.CaptureEvent(ended=ended)
    sealed = capture_pb2.CaptureSealed(
        manifest_sha256=bytes.fromhex(news.manifest_sha256),
        manifest_bytes=news.manifest_bytes,
        artifacts=news.artifacts,
        total_bytes=news.total_bytes,
        partial=news.partial,
        partial_reason=news.partial_reason,
    )
    return capture_pb2.CaptureEvent(sealed=sealed)
