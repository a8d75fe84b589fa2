"""Actions as operators and runs ask for them: plan on every host, apply that very plan, take it back."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from fireline_controller import targets
from fireline_controller.engine import remediating, safeguard, settling
from fireline_controller.engine import remediation_entries as entries
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.locks import Holder, Locks, in_words
from fireline_controller.engine.operations import Operations, Running
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.remediating import HostAction, Subject
from fireline_controller.engine.values import News, TargetSpec, Wish
from fireline_controller.hosts import Fleet
from fireline_controller.model import (
    ActionReport,
    EmptyTarget,
    Entry,
    Host,
    HostOutcome,
    NotFound,
    Operation,
    Outcome,
    PolicyError,
    Target,
)
from fireline_controller.profiles import Profile
from fireline_controller.runbooks.model import ActionCall
from fireline_controller.store import Transaction
from fireline_wire.actions import ActionSpec, BadValue, Risk, catalogue, nearest

# Outcomes after which a host may have begun, or even ended, without our knowing: it is asked for that one again.
_MAY_KNOW: Final = frozenset({Outcome.UNREACHABLE, Outcome.TIMED_OUT, Outcome.CANCELLED})
_LOCK_SPARE: Final = timedelta(seconds=30)  # beyond the operation's own time, for telling and recording


@dataclass(frozen=True)
class Outlook:
    """What applying a plan would still need. `unkept`: hosts without evidence of what it would destroy."""

    action: str
    risk: str
    approval: str
    unkept: tuple[str, ...]
    evidence: tuple[str, ...]
    target: Target
    needs_confirmation: bool
    changing: int


@dataclass(frozen=True)
class _Plan:
    """A plan that can be applied: what was planned on each of its hosts."""

    operation: Operation
    spec: ActionSpec
    reports: Mapping[str, ActionReport]

    @property
    def risk(self) -> Risk:
        """The gravest that a host named, and no less than what this controller knows of the action."""
        order = list(Risk)
        return max((self.spec.risk, *(Risk(r.risk) for r in self.reports.values())), key=order.index)

    @property
    def risks(self) -> list[str]:
        """All that were named, ours too: who says a graver one takes no host out of the rules for the lesser ones."""
        return _risks(self.spec, self.reports)

    @property
    def evidence(self) -> Mapping[str, Mapping[str, Any]]:
        """The collectors that keep what it would destroy, with what each is told."""
        return self.spec.evidence_orders(next(iter(self.reports.values())).params)

    @property
    def changing(self) -> list[str]:
        """The hosts on which there is something to do."""
        return sorted(host for host, report in self.reports.items() if report.change_count)

    def parameters(self, hosts: Sequence[str]) -> dict[str, Any]:
        """All that changes what happens on these hosts, for approvals: a plan made anew that is the same counts."""
        first = next(iter(self.reports.values()))
        bound = "".join(f"{host} {self.reports[host].plan_sha256}\n" for host in sorted(hosts))
        return {
            "action": self.spec.name,
            "risk": str(self.risk),
            "actions": {self.spec.name: self.risks},
            "params": dict(first.params),
            "plans_sha256": hashlib.sha256(bound.encode()).hexdigest(),
        }


class Remediations:
    """What operators may ask about actions.

    `capture` captures a profile on a wish's hosts, as an operation of its own.
    """

    def __init__(
        self,
        rooms: Rooms,
        fleet: Fleet,
        operations: Operations,
        approvals: Approvals,
        locks: Locks,
        capture: Callable[[Wish, Profile], AsyncIterator[News]],
    ) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._operations = operations
        self._approvals = approvals
        self._locks = locks
        self._capture = capture

    async def plan(self, wish: Wish, call: ActionCall) -> AsyncIterator[News]:
        """What an action would do on every host. Changes nothing; of one that only reads, the plan is what it found.

        Raises:
            NotFound: there is no such action.
            PolicyError: a parameter is wrong; or as `Operations.run` says.
            FirelineError: nothing was sent: the target, the incident, a missing confirmation, the store.
        """
        spec = _spec(call.action)
        _require_fitting(spec, call)
        await self._require_known(wish, "plan")
        timeout_s = wish.host_deadline_s or self._rooms.settings.fanout.host_deadline_s

        async def work(running: Running, host: Host) -> HostOutcome:
            return await remediating.plan(self._subject(running, host), call, timeout_s=timeout_s)

        parameters = {"action": spec.name, "risk": str(spec.risk), "params": dict(call.given)}
        async for news in self._operations.run("plan", wish, work, commands_only=False, parameters=parameters):
            yield news

    async def outlook(self, plan_operation_id: str, operator: str) -> Outlook:
        """What applying a plan would still need. Asks nobody.

        Raises:
            NotFound, EmptyTarget, PolicyError: as `apply`.
        """
        plan = await self._planned(plan_operation_id)
        target, _ = await self._operations.resolve(_named(plan.reports))
        approval = await self._approvals.outlook("remediate", target, plan.parameters(target.hosts), operator)
        evidence = plan.spec.evidence if plan.risk is Risk.DESTRUCTIVE else ()
        unkept = await self._unkept(plan, target)
        is_wide = self._operations.needs_confirmation(target)
        return Outlook(
            plan.spec.name, str(plan.risk), approval, tuple(unkept), evidence, target, is_wide, len(plan.changing)
        )

    async def capture(self, wish: Wish, plan_operation_id: str) -> AsyncIterator[News]:
        """Capture what applying a plan would destroy, on its hosts.

        Raises:
            NotFound, EmptyTarget, PolicyError: as `apply`; or the action destroys nothing that can be captured.
        """
        plan = await self._planned(plan_operation_id)
        if not plan.spec.evidence:
            raise PolicyError(f"{plan.spec.name} destroys nothing that a collector keeps", reason="invalid_request")
        profile = safeguard.profile(plan.spec.name, plan.evidence)
        whole = await self._addressed(wish, plan.changing)
        async for news in self._capture(whole, profile):
            yield news

    async def apply(self, wish: Wish, plan_operation_id: str, *, without_evidence: str = "") -> AsyncIterator[News]:
        """Do what was planned, on the hosts that could be planned, and nothing else; each host proves it afterwards.

        Args:
            wish: whose and why; its target counts for `retry_of` only.
            plan_operation_id: of the plan.
            without_evidence: why it may destroy what no sealed evidence keeps.

        Raises:
            NotFound: there is no such plan.
            EmptyTarget: it could be made on no host.
            PolicyError: no reason; it only reads; no_evidence (I3); approval is needed; host_locked; or as `run` says.
            FirelineError: nothing was sent: a missing confirmation, the store.
        """
        _require_reason(wish, "apply")
        plan = await self._planned(plan_operation_id)
        if plan.spec.risk is Risk.READ:
            raise PolicyError(f"{plan.spec.name} only reads: its plan is what it found", reason="invalid_request")
        await self._require_known(wish, "remediate")
        whole = wish if wish.target.retry_of else await self._addressed(wish, plan.reports)
        chain = await self._rooms.store.read(lambda tx: _chain(tx, wish))

        async def ask(target: Target) -> Permit:
            _require_planned(plan, target)
            summary = f"{plan.spec.name} ({plan.risk}) on {target.folded}"
            waived = await self._require_evidence(plan, target, without_evidence)
            parameters = plan.parameters(target.hosts)
            permit = await self._approvals.require("remediate", target, parameters, wish, summary=summary)
            note = None
            if waived:
                note = entries.without_evidence(wish, plan.spec.name, waived, without_evidence, self._rooms.now())
            return self._locking(permit, target, wish, what=summary, waived=note)

        async def work(running: Running, host: Host) -> HostOutcome:
            request_id = _request_id(host.name, running, chain)
            return await HostAction(self._subject(running, host), plan.reports[host.name], request_id).apply()

        parameters = {
            **plan.parameters(sorted(plan.reports)),
            "plan_operation": plan_operation_id,
            "without_evidence": without_evidence,
            "request": wish.request_id,
        }
        run = self._operations.run("remediate", whole, work, commands_only=False, parameters=parameters, ask=ask)
        async for news in run:
            yield news

    async def undo(self, wish: Wish, operation_id: str) -> AsyncIterator[News]:
        """Take back what an application did, on each host the last change first.

        Raises:
            NotFound: there is no such application.
            EmptyTarget: nothing of it can be taken back.
            PolicyError: no reason; approval is needed; host_locked; or as `run` says.
            FirelineError: nothing was sent: a missing confirmation, the store.
        """
        _require_reason(wish, "undo")
        await self._require_known(wish, "undo")
        applied = await self._ended(operation_id, "remediate")
        reports = {o.host: o.action for o in applied.outcomes if o.action is not None and _may_undo(o)}
        if not reports:
            raise EmptyTarget(f"nothing that {operation_id} did can be taken back")
        whole = wish if wish.target.retry_of else await self._addressed(wish, reports)
        chain = await self._rooms.store.read(lambda tx: _chain(tx, wish))
        first = next(iter(reports.values()))
        parameters = {"undo": operation_id, "actions": {first.action: _risks(_spec(first.action), reports)}}

        async def ask(target: Target) -> Permit:
            summary = f"take back {first.action} of {operation_id} on {target.folded}"
            permit = await self._approvals.require("remediate", target, parameters, wish, summary=summary)
            return self._locking(permit, target, wish, what=summary)

        async def work(running: Running, host: Host) -> HostOutcome:
            request_id = _request_id(host.name, running, chain)
            return await HostAction(self._subject(running, host), reports[host.name], request_id).undo()

        run = self._operations.run(
            "undo",
            whole,
            work,
            commands_only=False,
            parameters={**parameters, "request": wish.request_id},
            ask=ask,
        )
        async for news in run:
            yield news

    async def _addressed(self, wish: Wish, hosts: Iterable[str]) -> Wish:
        """The wish for these hosts. They are of an operation that was confirmed where it was wide, so they are too."""
        target, _ = await self._operations.resolve(_named(hosts))
        return replace(wish, target=_named(hosts), confirmed_sha256=wish.confirmed_sha256 or target.sha256)

    def _subject(self, running: Running, host: Host) -> Subject:
        return Subject(self._rooms, running, host, self._fleet.client(host))

    async def _planned(self, operation_id: str) -> _Plan:
        operation = await self._ended(operation_id, "plan")
        reports = {o.host: o.action for o in operation.outcomes if o.outcome is Outcome.OK and o.action is not None}
        if not reports:
            raise EmptyTarget(f"{operation_id} could plan on no host: there is nothing to apply")
        return _Plan(operation, _spec(next(iter(reports.values())).action), reports)

    async def _ended(self, operation_id: str, kind: str) -> Operation:
        operation = await self._rooms.store.read(lambda tx: tx.operation(operation_id))
        if operation.kind != kind:
            raise NotFound(f"operation {operation_id} is no {kind} but of kind {operation.kind}")
        if operation.finished_at is None:
            raise PolicyError(f"{operation_id} still runs: wait for its end", reason="invalid_request")
        return operation

    async def _require_known(self, wish: Wish, kind: str) -> None:
        def check(tx: Transaction) -> None:
            if wish.incident_id:
                tx.incident(wish.incident_id)
            if wish.target.retry_of and (prior := tx.operation(wish.target.retry_of)).kind != kind:
                raise NotFound(f"operation {prior.id} is no {kind} but of kind {prior.kind}")

        await self._rooms.store.read(check)

    async def _unkept(self, plan: _Plan, target: Target) -> list[str]:
        if plan.risk is not Risk.DESTRUCTIVE:
            return []
        hosts = [host for host in plan.changing if host in target.hosts]
        return await safeguard.unkept(self._rooms, hosts, plan.evidence, plan.operation.started_at)

    async def _require_evidence(self, plan: _Plan, target: Target, without: str) -> list[str]:
        """Returns: the hosts for which it is waived."""
        unkept = await self._unkept(plan, target)
        if not unkept or without.strip():
            return unkept
        wanted = ", ".join(plan.spec.evidence)
        message = (
            f"{plan.spec.name} destroys what no sealed evidence of {targets.fold(unkept)} keeps: wanted a capture with"
            f" {wanted}, sealed since the plan or within an hour before; `fireline action run` makes it, or say"
            " --without-evidence WHY"
        )
        raise PolicyError(message, reason="no_evidence")

    def _locking(self, permit: Permit, target: Target, wish: Wish, *, what: str, waived: Entry | None = None) -> Permit:
        lasts = timedelta(seconds=wish.overall_deadline_s or self._rooms.settings.fanout.overall_deadline_s)
        return _Locking(
            permit.approval,
            permit.warning,
            permit.broken,
            permit.check,
            locks=self._locks,
            holder=Holder("", wish.operator, what),
            hosts=target.hosts,
            lasts=lasts + _LOCK_SPARE,
            waived=waived,
        )


@dataclass(frozen=True, kw_only=True)
class _Locking(Permit):
    """Leave that also locks the hosts, in the very transaction that puts the operation on record, until its end is.

    The holder's owner is that operation, whatever is said here. `waived` says on record that evidence is done without.
    """

    locks: Locks
    holder: Holder
    hosts: tuple[str, ...]
    lasts: timedelta
    waived: Entry | None

    def spend(self, tx: Transaction, *, used_by: str, at: datetime) -> None:
        """See Permit.

        Raises:
            PolicyError: host_locked, too.
        """
        holder = replace(self.holder, owner=used_by)
        if in_the_way := self.locks.taken(tx, holder, self.hosts, self.lasts):
            raise PolicyError(f"{in_words(in_the_way)}; nothing was done: try again after that", reason="host_locked")
        super().spend(tx, used_by=used_by, at=at)
        if self.waived is not None:
            tx.append(replace(self.waived, at=at, operation_id=used_by))


def _named(hosts: Iterable[str]) -> TargetSpec:
    names = sorted(hosts)
    return TargetSpec((targets.fold(names),) if names else ())


def _spec(name: str) -> ActionSpec:
    if name not in catalogue():
        raise NotFound(f"there is no action {name[:100]!r}; {nearest(name[:100], catalogue())}")
    return catalogue()[name]


def _risks(spec: ActionSpec, reports: Mapping[str, ActionReport]) -> list[str]:
    return sorted({str(spec.risk), *(report.risk for report in reports.values())})


def _require_fitting(spec: ActionSpec, call: ActionCall) -> None:
    try:
        spec.check(call.given)
    except BadValue as error:
        raise PolicyError(str(error), reason="invalid_request") from None


def _require_reason(wish: Wish, verb: str) -> None:
    if not wish.reason.strip():
        raise PolicyError(f"{verb} needs a reason for the record: say --reason", reason="invalid_request")


def _require_planned(plan: _Plan, target: Target) -> None:
    strange = sorted(set(target.hosts) - set(plan.reports))
    if strange:
        message = f"{plan.operation.id} holds no plan for {targets.fold(strange)}: plan again"
        raise PolicyError(message, reason="invalid_request")


def _chain(tx: Transaction, wish: Wish) -> tuple[Operation, ...]:
    """The operation to retry, the one that it retried, and so on."""
    if not wish.target.retry_of:
        return ()
    prior = tx.operation(wish.target.retry_of)
    return (prior, *settling.lineage(tx, prior))


def _request_id(host: str, running: Running, chain: Sequence[Operation]) -> str:
    """The id under which the host may know this already, or a new one (I2)."""
    request_id = running.command.request_id
    for prior in chain:
        outcome = next((o for o in prior.outcomes if o.host == host), None)
        if outcome is not None and outcome.outcome is Outcome.SKIPPED:
            continue  # it was not asked then: what it may know is older
        if outcome is None or outcome.outcome not in _MAY_KNOW:
            break
        known = outcome.action.request_id if outcome.action is not None and prior.kind == "remediate" else ""
        request_id = known or prior.id
    return request_id


def _may_undo(outcome: HostOutcome) -> bool:
    """A host whose end is not known may have something to take back: it knows, and says so where it has not."""
    if outcome.action is None or not outcome.action.change_count:
        return False
    return outcome.action.can_undo or outcome.outcome in _MAY_KNOW
