"""One host's isolation, from the plan to the proof: captured, armed, confirmed, seen dark, committed. Or let back.

Between Arm and Commit the host's kernel holds a lease, so whatever ends this in between leaves the host as it was.
Everything goes over the control line, never behind a capture (I9).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

from fireline_controller import isolation as judging
from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.collect import Collection as Capture
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.looking import Views, Witnesses
from fireline_controller.engine.operations import Running
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.values import IsolationWish, Progress
from fireline_controller.hosts import Armed, Command, Fleet, IsolationPlan, Released, vantage
from fireline_controller.isolation import IN_FORCE, Isolation, Phase, Verdict
from fireline_controller.model import (
    Denied,
    Host,
    HostError,
    HostFailed,
    HostOutcome,
    IsolationTimes,
    Outcome,
    TimedOut,
    Unreachable,
)
from fireline_controller.profiles import Profile
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


@dataclass(frozen=True)
class Ground:
    """What holds for all hosts of an operation. `spared` are isolated, or about to be: they are nobody's witnesses.

    `volatile` is captured first, `cut` after: who was connected. `pending` are orders that are carried out, by host.
    """

    fleet: Fleet
    orders: Orders
    hosts: tuple[Host, ...]
    spared: frozenset[str]
    volatile: Profile
    cut: Profile
    pending: frozenset[str] = frozenset()


class HostIsolation:
    """The isolation of one host within an operation."""

    def __init__(self, rooms: Rooms, ground: Ground, running: Running, host: Host, wish: IsolationWish) -> None:
        self._rooms = rooms
        self._ground = ground
        self._running = running
        self._host = host
        self._wish = wish
        self._client = ground.fleet.client(host)
        self._settings = rooms.settings.isolation
        self._times = IsolationTimes()
        self._captured: HostOutcome | None = None
        self._until_s = 0.0
        self._is_untouched = True

    async def run(self) -> HostOutcome:
        """Isolate the host.

        Returns:
            ok, with how it is known that the host is dark.

        Raises:
            HostError: it is not isolated, or that is not known; the message says which.
            FirelineError: the controller itself failed.
        """
        try:
            draft = await self._draft()
            plan = await self._plan(draft)
            witnesses, before = await self._prepared(draft, plan)
        except Unreachable as error:
            raise await self._held(error) from None
        order = await self._intend(draft, plan, before)
        try:
            verdict = await self._proved(order, witnesses, before)
            order = await self._commit(replace(order, proof=verdict.sentence), is_proved=verdict.is_proved)
        except HostError as error:
            raise await asyncio.shield(self._undone(order, error)) from None
        except asyncio.CancelledError:
            said = await asyncio.shield(self._undone(order, HostFailed("cancelled", reason="cancelled")))
            raise asyncio.CancelledError(str(said)) from None
        return self._outcome(verdict, await self._captured_cut())

    async def _draft(self) -> Isolation:
        return await self._ground.orders.draft(
            self._host, self._wish, now=self._rooms.now(), of=self._running.operation
        )

    async def _plan(self, draft: Isolation) -> IsolationPlan:
        self._tell("planning")
        order = self._ground.orders.sign(draft, draft.ordered_at)
        plan = await self._client.plan_isolation(order, timeout_s=self._command_s)
        if plan.refusal:
            raise self._failed(f"can't be isolated: {plan.refusal}", "unsupported")
        if why := own_host(plan):
            raise Denied(f"{self._host.name}: {why}: it is never isolated", reason="lockout")
        return plan

    async def _prepared(self, draft: Isolation, plan: IsolationPlan) -> tuple[Witnesses, Views]:
        """Seal what arming would destroy (I3), and let witnesses look meanwhile."""
        open_addresses = {*draft.controllers, *(opening.address for opening in self._wish.allowances)}
        candidates = judging.candidates(
            self._host.name, self._ground.hosts, spared=self._ground.spared, open_addresses=open_addresses
        )
        witnesses = Witnesses(self._ground.fleet, candidates, self._settings)
        looking = asyncio.ensure_future(witnesses.before(plan.addresses, plan.ports, plan.agent_port))
        try:
            if not self._wish.now:
                self._captured = await self._evidence()
            return witnesses, await looking
        finally:
            looking.cancel()

    async def _evidence(self) -> HostOutcome:
        try:
            captured = await self._capture(self._ground.volatile, "volatile")
        except Unreachable:
            raise
        except HostError as error:
            message = f"{error}: not isolated, for nothing is sealed; isolate without evidence: --now"
            raise type(error)(message, reason=error.reason, retry_helps=error.retry_helps) from None
        self._mark("captured_ms")
        return captured

    async def _capture(self, profile: Profile, name: str) -> HostOutcome:
        request_id = f"{self._running.operation.id}-{name}"
        return await Capture(self._rooms, self._running, self._host, self._client, profile, request_id, ()).run()

    async def _intend(self, draft: Isolation, plan: IsolationPlan, before: Views) -> Isolation:
        now = self._rooms.now()
        told = {"ruleset_sha256": plan.ruleset_sha256, "capability": plan.capability, "lacks": list(plan.lacks)}
        seen = {name: len(judging.answered({name: sights})) for name, sights in before.items()}

        def record(tx: Transaction) -> Isolation:
            require_enrolled(tx, self._host)
            self._require_pending(tx)
            order = replace(draft, fence_token=tx.next_fence_token(), places=judging.answered(before))
            tx.put_isolation(order)
            tx.append(entries.arming(order, now, witnesses=seen, plan=told))
            return order

        return await self._rooms.store.run(record)

    def _require_pending(self, tx: Transaction) -> None:
        """An order that waited for its host may have been withdrawn while the host was captured."""
        if not self._ground.pending:
            return
        waiting = {isolation.order_id for isolation in tx.isolations({Phase.PENDING}, self._host.name)}
        if not waiting & self._ground.pending:
            raise self._failed("its order was withdrawn meanwhile", "superseded")

    async def _proved(self, order: Isolation, witnesses: Witnesses, before: Views) -> Verdict:
        armed = await self._arm(order)
        self._tell("armed; is it dark?")
        looking = asyncio.ensure_future(witnesses.again(before))
        try:
            await self._confirm(order, armed)
            self._mark("confirmed_ms")
            verdict = judging.judge(before, await looking)
        finally:
            looking.cancel()
        self._times = replace(self._times, witnesses=tuple(before))
        if verdict.is_proved:
            self._mark("proved_ms")
        elif verdict.is_disproved or not self._may_be_unproved():
            raise self._failed(f"not proved dark: {verdict.sentence}", "not_proved")
        return verdict

    def _may_be_unproved(self) -> bool:
        """A part of a host may be all that is cut off: then no port tells, and only its kernel knows."""
        return bool(self._wish.unproved) or self._wish.scope.kind != "host"

    async def _arm(self, order: Isolation) -> Armed:
        self._until_s = time.monotonic() + order.lease_s
        signed = self._ground.orders.sign(order, self._rooms.now())
        command = self._command(order, "arm")
        self._is_untouched = False
        try:
            armed = await self._again(lambda left_s: self._client.arm(command, signed, timeout_s=left_s))
        except HostError as error:
            self._is_untouched = error.reason in _UNTOUCHED
            raise
        self._mark("armed_ms")
        self._times = replace(self._times, applied_us=armed.applied_us, sockets_killed=armed.sockets_killed)
        return armed

    async def _confirm(self, order: Isolation, armed: Armed) -> None:
        command = self._command(order, "confirm")
        state = await self._again(
            lambda left_s: self._client.confirm(command, order.order_id, armed.nonce, timeout_s=left_s)
        )
        if (state.order_id, state.phase) != (order.order_id, "confirmed"):
            raise self._failed(f"not confirmed: it says {state.phase} of {state.order_id}", "not_proved")

    async def _commit(self, order: Isolation, *, is_proved: bool) -> Isolation:
        command = self._command(order, "commit")
        try:
            state = await self._again(lambda left_s: self._client.commit(command, order.order_id, timeout_s=left_s))
        except (Unreachable, TimedOut) as error:
            raise Unreachable(f"{error}: {_UNKNOWN}", reason="commit_unknown") from None
        if (state.order_id, state.phase) != (order.order_id, "committed"):
            raise self._failed(f"not committed: it says {state.phase} of {state.order_id}", "not_proved")
        self._mark("committed_ms")
        now = self._rooms.now()
        armed_at = now - timedelta(milliseconds=self._times.committed_ms - self._times.armed_ms)
        done = replace(order, phase=Phase.COMMITTED, armed_at=armed_at, committed_at=now)

        def record(tx: Transaction) -> bool:
            if tx.isolation(order.order_id).phase is not Phase.ARMING:
                return False
            tx.put_isolation(done)
            tx.append(entries.committed(done, now, self._times, is_proved=is_proved))
            withdraw_pending(tx, done, f"carried out as {done.order_id}")
            return True

        # Whatever cancels from here on: it is committed, and that gets on record.
        if not await self._rooms.store.run(record):
            raise self._superseded()
        return done

    async def _undone(self, order: Isolation, error: HostError) -> HostError:
        """Let the host back after an error; the error that says what became of it."""
        if error.reason == "commit_unknown":
            return error  # seen dark and perhaps committed: taking it back on a guess could open a proved isolation
        if self._is_untouched:
            await self._ended(order, Phase.WITHDRAWN, f"not armed: {error}")
            return error
        release = await self._release_intent(order, str(error))
        if release is None:
            return self._superseded()
        try:
            back = await self._client.release(release, order.order_id, timeout_s=_UNDO_S)
        except HostError as lost:
            message = f"{error}; it could not be let back ({lost}): its kernel does that within {order.lease_s} s"
            return Unreachable(message, reason=lost.reason, retry_helps=True)
        await self._ended(order, Phase.LIFTED, f"{self._host.name} let back ({how_restored(back)}): {error}")
        return type(error)(f"{error}; let back, {how_restored(back)}", reason=error.reason, retry_helps=True)

    async def _release_intent(self, order: Isolation, why: str) -> Command | None:
        """The command that lets back, with a token of its own; None when somebody else has released the host."""
        now = self._rooms.now()

        def record(tx: Transaction) -> int:
            if tx.isolation(order.order_id).phase not in IN_FORCE:
                return 0
            fence = tx.next_fence_token()
            tx.append(entries.undoing(order, now, why, fence))
            return fence

        fence = await self._rooms.store.run(record)
        return replace(self._command(order, "undo"), fence_token=fence) if fence else None

    async def _ended(self, order: Isolation, phase: Phase, summary: str) -> None:
        now = self._rooms.now()

        def record(tx: Transaction) -> None:
            if tx.isolation(order.order_id).phase in IN_FORCE:
                ended = replace(order, phase=phase, ended_at=now)
                tx.put_isolation(ended)
                tx.append(entries.ended(ended, now, summary))

        await self._rooms.store.run(record)

    async def _held(self, error: Unreachable) -> HostError:
        """Keep the order for a host that is away, where that was asked for."""
        if not self._wish.hold_s or self._ground.pending:
            return error
        draft, now = await self._draft(), self._rooms.now()
        order = replace(draft, phase=Phase.PENDING, not_after=now + timedelta(seconds=self._wish.hold_s))

        def record(tx: Transaction) -> None:
            require_enrolled(tx, self._host)
            withdraw_pending(tx, order, f"replaced by {order.order_id}")
            tx.put_isolation(order)
            tx.append(entries.held(order, now, str(error)))

        await self._rooms.store.run(record)
        until = f"{order.not_after:%Y-%m-%d %H:%M:%S} UTC"
        message = f"{error}; the order is kept until {until}, and carried out by the daemon once the host is seen"
        return Unreachable(message, reason=error.reason, retry_helps=True)

    async def _captured_cut(self) -> str:
        """Seal who was connected; what is lacking of that, as a text. The isolation stands whatever comes of it."""
        with suppress(asyncio.CancelledError):
            try:
                await self._capture(self._ground.cut, "isolation")
            except HostError as error:
                return f"who was cut off is not in evidence: {error}"
            return ""
        return "who was cut off is not in evidence: cancelled"

    async def _again(self, step: Callable[[float], Awaitable[_T]]) -> _T:
        """Do the step until the lease is over; arming may break the very connection that it was asked on."""
        while True:
            left_s = self._until_s - time.monotonic()
            try:
                return await step(min(max(left_s, 0.1), self._command_s))
            except (Unreachable, TimedOut) as error:
                if not error.retry_helps or left_s <= _PAUSE_S:
                    raise
                self._tell(f"cut off ({error.reason}), trying again")
            await asyncio.sleep(_PAUSE_S)

    @property
    def _command_s(self) -> float:
        return self._rooms.settings.fanout.command_deadline_s

    def _command(self, order: Isolation, verb: str) -> Command:
        """Each step is a request of its own for the host's ledger (I2)."""
        request_id = f"{self._running.operation.id}-{verb}"
        return replace(self._running.command, request_id=request_id, fence_token=order.fence_token)

    def _mark(self, name: str) -> None:
        self._times = replace(self._times, **{name: self._running.elapsed_ms()})  # type: ignore[arg-type]  # a field

    def _tell(self, doing: str) -> None:
        self._running.tell(Progress(self._host.name, doing))

    def _failed(self, what: str, reason: str) -> HostFailed:
        return HostFailed(f"{self._host.name}: {what}", reason=reason, retry_helps=reason == "not_proved")

    def _superseded(self) -> HostFailed:
        return self._failed("released by somebody else meanwhile; the journal says by whom", "superseded")

    def _outcome(self, verdict: Verdict, lacking: str) -> HostOutcome:
        proof = verdict.sentence if verdict.is_proved else f"NOT PROVED from outside: {verdict.sentence}"
        times = replace(self._times, code_hint=f"fireline isolation code {self._host.name} --reason WHY")
        captured = self._captured or HostOutcome(self._host.name, Outcome.OK)
        lacks = captured.detail if captured.outcome is not Outcome.OK else ""
        detail = "; ".join(text for text in (proof, lacks, lacking) if text)
        return replace(captured, outcome=Outcome.OK, detail=detail, reason="", duration_ms=0, isolation=times)


_UNKNOWN: Final = (
    "it was seen dark, and whether it stays so is not known: if it was committed it is dark until released, if not its"
    " kernel lets it back within the lease; see `fireline isolation status`"
)


def own_host(plan: IsolationPlan) -> str:
    """Why the planned host is this controller's own, or nothing."""
    return judging.own_host(
        machine_id=plan.machine_id,
        addresses=plan.addresses,
        own_machine_id=vantage.machine_id(),
        own_addresses=vantage.own_addresses(),
    )


def require_enrolled(tx: Transaction, host: Host) -> None:
    """Refuse a host that was removed, or enrolled anew, since it was looked up.

    Raises:
        Denied: it was.
    """
    known = tx.host(host.name)
    if known.removed or known.generation != host.generation:
        raise Denied(f"{host.name}: it was removed from the fleet", reason="certificate_revoked")


def withdraw_pending(tx: Transaction, by: Isolation, why: str) -> None:
    """End the orders that wait for the same thing as this one."""
    for waiting in tx.isolations({Phase.PENDING}, by.host):
        if waiting.scope == by.scope:
            at = by.committed_at or by.ordered_at
            ended = replace(waiting, phase=Phase.WITHDRAWN, ended_at=at)
            tx.put_isolation(ended)
            tx.append(entries.ended(ended, at, f"the waiting order for {by.host} is {why}"))


def how_restored(back: Released) -> str:
    """Whether a host is as it was, in words."""
    return "restored" if back.restored else f"not as before: {back.difference or 'the host does not say how'}"
