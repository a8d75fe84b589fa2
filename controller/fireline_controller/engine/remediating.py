"""One host's action: planned, applied by that very plan, taken back; each told to the journal before the host (I6).

A host that was told goes on by itself when the connection breaks: the same request id attaches to it again (I2).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from fireline_controller.engine import remediation_entries as entries
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.grounds import require_enrolled
from fireline_controller.engine.operations import Running
from fireline_controller.engine.values import Progress
from fireline_controller.fanout import Stopped
from fireline_controller.hosts import (
    ActionEnded,
    ActionNews,
    ActionPlan,
    ActionProgress,
    Command,
    HostClient,
)
from fireline_controller.model import (
    ActionReport,
    Entry,
    Host,
    HostError,
    HostFailed,
    HostOutcome,
    Outcome,
    Unreachable,
)
from fireline_controller.runbooks.model import ActionCall
from fireline_controller.store import Transaction

# A host that is cut off in the middle may come back: its action goes on meanwhile.
_RECONNECT_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0)
# An action must have stopped on the host within two seconds; the rest is for the way there and back.
_CANCEL_S: Final = 3.0
_LAST_WORD_S: Final = 1.0
_OUTCOMES: Final = {
    "ok": Outcome.OK,
    "failed": Outcome.FAILED,
    "timed_out": Outcome.TIMED_OUT,
    "cancelled": Outcome.CANCELLED,
    "interrupted": Outcome.FAILED,
}

Asked = Callable[[Command], AsyncIterator[ActionNews]]


@dataclass(frozen=True)
class Subject:
    """One host within an operation."""

    rooms: Rooms
    running: Running
    host: Host
    client: HostClient


async def plan(subject: Subject, call: ActionCall, *, timeout_s: float) -> HostOutcome:
    """What the action would do on the host, or what it found where it only reads.

    Raises:
        HostError: it can't be planned there; the message says why.
    """
    subject.running.tell(Progress(subject.host.name, f"planning {call.action}"))
    planned = await subject.client.plan_action(subject.running.command, call.action, call.given, timeout_s=timeout_s)
    return HostOutcome(subject.host.name, Outcome.OK, planned.summary, action=_planned(call, planned))


class HostAction:
    """The application of a plan to one host, or its undo.

    Args:
        subject: the host.
        report: of the plan; for an undo, of the application.
        request_id: under which the host is to remember this.
        is_left: whether whoever ordered it leaves it to the host when it is cancelled here, to ask again later.
    """

    def __init__(
        self,
        subject: Subject,
        report: ActionReport,
        request_id: str,
        *,
        is_left: Callable[[], bool] = lambda: False,
    ) -> None:
        self._subject = subject
        self._report = report
        self._request_id = request_id
        self._is_left = is_left
        self._was_reached = False

    async def apply(self) -> HostOutcome:
        """Do what was planned; ok once the host has looked whether it helped."""
        report = self._report = replace(self._report, request_id=self._request_id)
        if not report.change_count:
            return HostOutcome(self._subject.host.name, Outcome.OK, f"nothing to do: {report.summary}", action=report)
        command = await self._intend(entries.applying)
        idle_s = self._subject.rooms.settings.fanout.idle_s
        return await self._carried_out(
            command,
            lambda asked: self._subject.client.apply_action(
                asked, report.action, report.params, report.plan_sha256, idle_s=idle_s
            ),
        )

    async def undo(self) -> HostOutcome:
        """Take back what was done."""
        command = await self._intend(entries.undoing)
        applied, idle_s = self._report.request_id, self._subject.rooms.settings.fanout.idle_s
        outcome = await self._carried_out(
            command, lambda asked: self._subject.client.undo_action(asked, applied, idle_s=idle_s)
        )
        is_known = self._report.can_undo or self._report.changes_done
        if outcome.reason == "not_found" and not is_known:  # it was cut off before the host heard of it
            return replace(
                outcome, outcome=Outcome.OK, reason="", detail="nothing was done there: nothing to take back"
            )
        return outcome

    async def _intend(self, entry: Callable[..., Entry]) -> Command:
        subject, now = self._subject, self._subject.rooms.now()

        def record(tx: Transaction) -> int:
            require_enrolled(tx, subject.host)
            fence = tx.next_fence_token()
            tx.append(entry(subject.host.name, subject.running.operation, self._report, now, fence))
            return fence

        fence = await subject.rooms.store.run(record)
        return replace(subject.running.command, request_id=self._request_id, fence_token=fence)

    async def _carried_out(self, command: Command, asked: Asked) -> HostOutcome:
        """Returns: the outcome, whatever it is, with what is known of the action."""
        try:
            ended = await self._again_when_cut(lambda: self._followed(asked(command)))
        except HostError as error:
            await self._record(str(error.outcome), str(error))
            return HostOutcome(self._subject.host.name, error.outcome, str(error), error.reason, action=self._report)
        except asyncio.CancelledError:
            if self._is_left():
                raise
            said = await asyncio.shield(self._stopped(command, asked))
            raise Stopped(said, self._report) from None
        self._take(ended)
        await self._record(ended.status, ended.detail)
        outcome = _OUTCOMES.get(ended.status, Outcome.FAILED)
        reason = "" if outcome is Outcome.OK else f"action_{ended.status}"
        return HostOutcome(self._subject.host.name, outcome, ended.detail, reason, action=self._report)

    async def _followed(self, news: AsyncIterator[ActionNews]) -> ActionEnded:
        async for one in news:
            self._was_reached = True
            if isinstance(one, ActionEnded):
                return one
            if isinstance(one, ActionProgress):
                counted = f" ({one.done} of {one.count})" if one.count > 1 else ""
                self._subject.running.tell(Progress(self._subject.host.name, f"{one.doing}{counted}"))
        raise HostFailed(f"{self._subject.host.name}: its action ended without saying how", reason="internal")

    async def _again_when_cut(self, step: Callable[[], Awaitable[ActionEnded]]) -> ActionEnded:
        for pause_s in _RECONNECT_PAUSES_S:
            try:
                return await step()
            except Unreachable as error:
                if not (self._was_reached and error.retry_helps):
                    raise
                self._subject.running.tell(
                    Progress(self._subject.host.name, f"cut off ({error.reason}), it goes on; asking again")
                )
                await asyncio.sleep(pause_s)
                await self._subject.rooms.store.read(lambda tx: require_enrolled(tx, self._subject.host))
        return await step()

    async def _stopped(self, command: Command, asked: Asked) -> str:
        """Stop it on the host; what is known then, as a text."""
        host, running = self._subject.host.name, self._subject.running
        also = replace(command, request_id=f"{command.request_id}-cancel")
        try:
            was_stopped = await self._subject.client.cancel_action(also, command.request_id, timeout_s=_CANCEL_S)
        except HostError as error:
            running.still_running.append(f"{host}: its action may go on: {error}")
            await self._record("cancelled", "the host could not be told")
            return "the host could not be told"
        with suppress(HostError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                self._take(await self._followed(asked(command)))
        done = f"{self._report.changes_done} of {self._report.change_count} changes were done"
        said = f"stopped on the host: {done}" if was_stopped else f"it had ended on the host: {done}"
        await self._record("cancelled", said)
        return said

    def _take(self, ended: ActionEnded) -> None:
        self._report = replace(
            self._report,
            changes_done=ended.changes_done,
            verified=ended.verified,
            result=ended.result or self._report.result,
            can_undo=ended.can_undo,
            in_doubt=ended.in_doubt,
        )

    async def _record(self, status: str, detail: str) -> None:
        subject = self._subject
        entry = entries.ended(
            subject.host.name,
            subject.running.operation,
            self._report,
            subject.rooms.now(),
            status=status,
            detail=detail,
        )
        await subject.rooms.store.run(lambda tx: tx.append(entry))


def _planned(call: ActionCall, planned: ActionPlan) -> ActionReport:
    return ActionReport(
        action=call.action,
        params=dict(call.given),
        plan_sha256=planned.plan_sha256,
        risk=planned.risk,
        summary=planned.summary,
        changes=planned.changes,
        change_count=planned.change_count,
        total_bytes=planned.total_bytes,
        warnings=planned.warnings,
        result=planned.result,
    )
