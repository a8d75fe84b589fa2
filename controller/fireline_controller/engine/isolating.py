"""One host's isolation, from the plan to the proof: captured, armed, confirmed, seen dark, committed. Or let back.

Between Arm and Commit the host's kernel holds a lease, so whatever ends this in between leaves the host as it was.
Everything goes over the control line, never behind a capture (I9).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeVar

from fireline_controller import isolation as judging
from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.grounds import Subject, how_restored, require_enrolled, withdraw_waiting
from fireline_controller.engine.looking import Views
from fireline_controller.engine.preparing import Prepared, prepare, standing_already
from fireline_controller.hosts import Armed, Command
from fireline_controller.isolation import IN_FORCE, Isolation, Phase, Verdict
from fireline_controller.model import (
    HostError,
    HostFailed,
    HostOutcome,
    IsolationTimes,
    Outcome,
    TimedOut,
    Unreachable,
)
from fireline_controller.store import Transaction

_T = TypeVar("_T")

# A host that is cut off in the middle may come back: between these tries the lease runs.
_PAUSE_S: Final = 0.3
# What letting back may take: the fan-out gives five seconds to whoever is cancelled.
_UNDO_S: Final = 4.0
# Refusals of Arm after which nothing was touched on the host.
_UNTOUCHED: Final = frozenset(
    {
        "unsupported", "lockout", "fenced", "policy_denied", "role_refused", "certificate_revoked", "invalid_request",
        "request_mismatch", "superseded", "unimplemented",
    }
)  # fmt: skip
_UNKNOWN: Final = (
    "it was seen dark, and whether it stays so is not known: if it was committed it is dark until released, if not its"
    " kernel lets it back within the lease; see `fireline isolation status`"
)


class HostIsolation:
    """The isolation of one host within an operation."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._times = IsolationTimes()
        self._until_s = 0.0
        self._is_untouched = True
        self._lacks: tuple[str, ...] = ()

    async def run(self) -> HostOutcome:
        """Isolate the host.

        Returns:
            ok, with how it is known that the host is dark.

        Raises:
            HostError: it is not isolated, or that is not known; the message says which.
            FirelineError: the controller itself failed.
        """
        if (standing := await standing_already(self._subject)) is not None:
            return standing
        prepared = await prepare(self._subject)
        self._times = replace(self._times, captured_ms=prepared.captured_ms, witnesses=tuple(sorted(prepared.before)))
        order = await self._intend(prepared)
        try:
            verdict = await self._proved(order, prepared)
            await self._commit(replace(order, proof=verdict.sentence), is_proved=verdict.is_proved)
        except HostError as error:
            raise await asyncio.shield(self._undone(order, error)) from None
        except asyncio.CancelledError:
            stopped = self._subject.failed("stopped in the middle", "cancelled")
            raise asyncio.CancelledError(str(await asyncio.shield(self._undone(order, stopped)))) from None
        return self._outcome(prepared.captured, verdict, await self._captured_cut())

    async def _intend(self, prepared: Prepared) -> Isolation:
        """Put it on record before the host is told (I6), with a fence token drawn now."""
        subject, now = self._subject, self._subject.rooms.now()
        plan = prepared.plan
        told = {"ruleset_sha256": plan.ruleset_sha256, "capability": plan.capability, "lacks": list(plan.lacks)}
        seen = {name: len(judging.answered({name: sights})) for name, sights in prepared.before.items()}

        def record(tx: Transaction) -> Isolation:
            require_enrolled(tx, subject.host)
            waiting = {one.order_id for one in tx.isolations({Phase.PENDING}, subject.host.name)}
            if subject.ground.waiting and not waiting & subject.ground.waiting:
                raise subject.failed("its order was withdrawn meanwhile", "superseded")
            subject.require_alone(tx)
            subject.require_others(tx)
            places = judging.answered(prepared.before)
            order = replace(prepared.draft, fence_token=tx.next_fence_token(), places=places)
            tx.put_isolation(order)
            tx.append(entries.arming(order, now, witnesses=seen, plan=told))
            return order

        return await subject.record(record)

    async def _proved(self, order: Isolation, prepared: Prepared) -> Verdict:
        armed = await self._arm(order)
        self._subject.tell("armed; is it dark?")
        looking = asyncio.ensure_future(prepared.witnesses.again(prepared.before))
        try:
            await self._confirm(order, armed)
            verdict = self._judged(prepared.before, await looking)
        finally:
            looking.cancel()
        if verdict.is_proved:
            self._mark("proved_ms")
        elif self._subject.is_whole and not self._subject.wish.unproved:
            raise self._subject.failed(f"not proved dark: {verdict.sentence}", "not_proved")
        return verdict

    def _judged(self, before: Views, after: Views) -> Verdict:
        if self._subject.is_whole:
            return judging.judge(before, after)
        return Verdict(False, "in force by its kernel; a part of a host is not looked at from outside")

    async def _arm(self, order: Isolation) -> Armed:
        subject, command = self._subject, self._command(order, "arm")
        self._until_s = time.monotonic() + order.lease_s
        signed = subject.ground.orders.sign(order, subject.rooms.now())
        self._is_untouched = False
        try:
            armed = await self._again(lambda left_s: subject.client.arm(command, signed, timeout_s=left_s))
        except HostError as error:
            self._is_untouched = error.reason in _UNTOUCHED
            raise
        self._mark("armed_ms")
        self._times = replace(self._times, applied_us=armed.applied_us, sockets_killed=armed.sockets_killed)
        self._lacks = armed.lacks
        return armed

    async def _confirm(self, order: Isolation, armed: Armed) -> None:
        client, command = self._subject.client, self._command(order, "confirm")
        state = await self._again(lambda left_s: client.confirm(command, order.order_id, armed.nonce, timeout_s=left_s))
        if (state.order_id, state.phase) != (order.order_id, "confirmed"):
            raise self._subject.failed(f"not confirmed: it says {state.phase} of {state.order_id}", "not_proved")
        self._mark("confirmed_ms")

    async def _commit(self, order: Isolation, *, is_proved: bool) -> None:
        client, command = self._subject.client, self._command(order, "commit")
        try:
            state = await self._again(lambda left_s: client.commit(command, order.order_id, timeout_s=left_s))
        except (Unreachable, TimedOut) as error:
            raise Unreachable(f"{error}: {_UNKNOWN}", reason="commit_unknown", retry_helps=True) from None
        if (state.order_id, state.phase) != (order.order_id, "committed"):
            raise self._subject.failed(f"not committed: it says {state.phase} of {state.order_id}", "not_proved")
        self._mark("committed_ms")
        now = self._subject.rooms.now()
        armed_at = now - timedelta(milliseconds=self._times.committed_ms - self._times.armed_ms)
        done = replace(order, phase=Phase.COMMITTED, armed_at=armed_at, committed_at=now)

        def record(tx: Transaction) -> bool:
            if tx.isolation(order.order_id).phase is not Phase.ARMING:
                return False
            tx.put_isolation(done)
            tx.append(entries.committed(done, now, self._times, is_proved=is_proved))
            withdraw_waiting(tx, done, f"carried out as {done.order_id}")
            return True

        if not await self._subject.record(record):
            raise self._superseded()

    async def _undone(self, order: Isolation, error: HostError) -> HostError:
        """Let the host back after an error; the error that says what became of it."""
        if error.reason == "commit_unknown":
            return error  # seen dark and perhaps committed: taking it back on a guess could open a proved isolation
        if self._is_untouched:
            await self._end(order, Phase.WITHDRAWN, f"not armed: {error}")
            return error
        command = await self._intend_release(order, str(error))
        if command is None:
            return self._superseded()
        try:
            back = await self._subject.client.release(command, order.order_id, timeout_s=_UNDO_S)
        except HostError as lost:
            message = f"{error}; it could not be let back ({lost}): its kernel does that within {order.lease_s} s"
            return Unreachable(message, reason=lost.reason, retry_helps=True)
        await self._end(order, Phase.LIFTED, f"{order.host} let back, {how_restored(back)}: {error}")
        return type(error)(f"{error}; let back, {how_restored(back)}", reason=error.reason, retry_helps=True)

    async def _intend_release(self, order: Isolation, why: str) -> Command | None:
        """The command that lets back, with a token of its own; None when somebody else has released the host."""
        now = self._subject.rooms.now()

        def record(tx: Transaction) -> int:
            if tx.isolation(order.order_id).phase not in IN_FORCE:
                return 0
            fence = tx.next_fence_token()
            tx.append(entries.undoing(order, now, why, fence))
            return fence

        fence = await self._subject.record(record)
        return replace(self._command(order, "undo"), fence_token=fence) if fence else None

    async def _end(self, order: Isolation, phase: Phase, summary: str) -> None:
        now = self._subject.rooms.now()

        def record(tx: Transaction) -> None:
            if tx.isolation(order.order_id).phase in IN_FORCE:
                ended = replace(order, phase=phase, ended_at=now)
                tx.put_isolation(ended)
                tx.append(entries.ended(ended, now, summary))

        await self._subject.record(record)

    async def _captured_cut(self) -> str:
        """Seal who was connected; what is lacking of that, as a text. The isolation stands whatever comes of it."""
        try:
            lacks = (await self._subject.capture(self._subject.ground.cut)).detail
        except HostError as error:
            lacks = str(error)
        except asyncio.CancelledError:
            lacks = "stopped before"
        return f"who was cut off is not in evidence: {lacks}" if lacks else ""

    async def _again(self, step: Callable[[float], Awaitable[_T]]) -> _T:
        """Do the step until the lease is over; arming may break the very connection that it was asked on."""
        while True:
            left_s = self._until_s - time.monotonic()
            try:
                return await step(min(max(left_s, 0.1), self._subject.command_s))
            except (Unreachable, TimedOut) as error:
                if not error.retry_helps or left_s <= _PAUSE_S:
                    raise
                self._subject.tell(f"cut off ({error.reason}), trying again")
            await asyncio.sleep(_PAUSE_S)

    def _command(self, order: Isolation, verb: str) -> Command:
        """Each step is a request of its own for the host's ledger (I2)."""
        running = self._subject.running
        return replace(running.command, request_id=f"{running.operation.id}-{verb}", fence_token=order.fence_token)

    def _mark(self, name: str) -> None:
        now_ms: dict[str, int] = {name: self._subject.running.elapsed_ms()}
        self._times = replace(self._times, **now_ms)  # type: ignore[arg-type]  # the name of a time

    def _superseded(self) -> HostFailed:
        return self._subject.failed("released by somebody else meanwhile; the journal says by whom", "superseded")

    def _outcome(self, captured: HostOutcome, verdict: Verdict, lacking: str) -> HostOutcome:
        name = self._subject.host.name
        is_settled = verdict.is_proved or not self._subject.is_whole
        proof = verdict.sentence if is_settled else f"NOT PROVED dark: {verdict.sentence}"
        times = replace(self._times, code_hint=f"fireline isolation code {name} --reason WHY")
        detail = "; ".join(text for text in (proof, *self._lacks, captured.detail, lacking) if text)
        return replace(captured, outcome=Outcome.OK, detail=detail, reason="", duration_ms=0, isolation=times)
