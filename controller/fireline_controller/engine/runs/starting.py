"""A run from the operator's order to its place on record: pinned, frozen, confirmed, approved, locked, journaled.

Nothing is sent to a host before all of that is so (I6, I10).
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from fireline_controller import targets
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.locks import LEASE, Holder, in_words
from fireline_controller.engine.operations import Operations
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.runs import entries
from fireline_controller.engine.runs.rooms import RunRooms, incident_of
from fireline_controller.engine.runs.values import RunOrder
from fireline_controller.engine.values import TargetSpec, Wish
from fireline_controller.model import (
    ConfigError,
    EmptyTarget,
    Entry,
    FirelineError,
    Host,
    NotFound,
    PolicyError,
    Target,
)
from fireline_controller.runbooks.filling import BadExpression, Expressions
from fireline_controller.runbooks.ground import all_steps
from fireline_controller.runbooks.model import ActionCall, IsolateCall, Runbook, Step
from fireline_controller.runbooks.record import Run
from fireline_controller.store import Transaction
from fireline_wire.actions import BadValue, Parameter, Risk, nearest


class Starting:
    """Puts runs on record. `operations` resolves and confirms targets, `approvals` knows what the policy wants."""

    def __init__(self, rooms: RunRooms, operations: Operations, approvals: Approvals) -> None:
        self._rooms = rooms
        self._operations = operations
        self._approvals = approvals

    async def prepared(self, order: RunOrder) -> Run:
        """A run as it would begin. Nothing is on record yet.

        Raises:
            FirelineError: the runbook, a parameter, the target or a precondition is not right.
        """
        content = await asyncio.to_thread(self._rooms.books.find, order.runbook)
        runbook, expressions = await asyncio.to_thread(self._rooms.books.compile, content, order.runbook)
        params = parsed(runbook, order.params)
        frozen = await self._frozen(runbook, order.wish)
        now = self._rooms.now()
        run = Run(
            id=f"run-{int(now.timestamp() * 1000):011x}-{secrets.token_hex(4)}",
            runbook=runbook.name,
            version=runbook.version,
            sha256=hashlib.sha256(content).hexdigest(),
            content=content,
            params=params,
            hosts={select: target.hosts for select, (target, _) in frozen.items()},
            labels={host.name: dict(host.labels) for _, hosts in frozen.values() for host in hosts},
            spelled=frozen[""][0].spelled,
            incident_id=order.wish.incident_id,
            operator=order.wish.operator,
            reason=order.wish.reason,
            started_at=now,
        )
        await self._require_preconditions(run, runbook, expressions)
        return run

    async def begun(self, run: Run, order: RunOrder, owner: str, owned_until: datetime) -> Run:
        """Put a prepared run on record, with everything that must be so before.

        Raises:
            PolicyError: the target is not confirmed, approval is needed, or others change a host now.
        """
        runbook = self._runbook(run)
        target = targets.freeze(_all_hosts(run), spelled=run.spelled)
        self._require_confirmed(run, target, order)
        permit = await self._permit(run, runbook, target, order.wish)
        if self._changes_anything(runbook):
            await self._rooms.locks.take(_holder(run), target.hosts, wait_s=order.wait_s)
        begun = replace(run, owner=owner, owned_until=owned_until, tenure=1, started_at=self._rooms.now())

        def record(tx: Transaction) -> None:
            tx.put_run(begun)
            tx.append(entries.started(begun, target.folded))
            permit.spend(tx, used_by=run.id, at=begun.started_at)

        try:
            await self._rooms.store.run(record)
        except FirelineError:
            await self._rooms.locks.release(run.id)
            raise
        return begun

    def _require_confirmed(self, run: Run, target: Target, order: RunOrder) -> None:
        """The confirmation is of the run's own target; steps that name others are the runbook's."""
        if order.is_confirmed:
            return
        own = targets.freeze(run.hosts[""], spelled=run.spelled)
        self._operations.require_confirmed(own, order.wish)
        if own.hosts != target.hosts:
            self._operations.require_confirmed(target, replace(order.wish, confirmed_sha256=""))

    def step_of(self, run: Run, step_id: str) -> Step:
        """A step of the runbook that a run is pinned to.

        Raises:
            NotFound: it has none of this id.
        """
        steps = {step.id: step for step in all_steps(self._runbook(run))}
        if step_id not in steps:
            raise NotFound(f"{run.id} has no step {step_id!r}; {nearest(step_id, list(steps))}")
        return steps[step_id]

    def edits(self, run: Run, now: datetime) -> Sequence[Entry]:
        """What is to be said where the runbook's file is another one than the run is pinned to."""
        try:
            found = hashlib.sha256(self._rooms.books.find(run.runbook)).hexdigest()
        except FirelineError:
            found = "none that is right"
        return () if found == run.sha256 else (entries.edited(run, now, found),)

    def relock(self, tx: Transaction, run: Run) -> None:
        """Take a run's locks again, or keep them.

        Raises:
            PolicyError: host_locked: others change a host by now.
        """
        if not self._changes_anything(self._runbook(run)):
            return
        hosts, until = _all_hosts(run), self._rooms.now() + LEASE
        if tx.renew_locks(run.id, until) == len(hosts):
            return
        if found := self._rooms.locks.taken(tx, _holder(run), hosts):
            raise PolicyError(f"{run.id} can't go on: {in_words(found)}", reason="host_locked")

    def _changes_anything(self, runbook: Runbook) -> bool:
        """Whether a run of it may change a host: captures and what only reads don't."""
        return any(self._changes(step) for step in all_steps(runbook))

    def _changes(self, step: Step) -> bool:
        if isinstance(step.do, ActionCall):
            return self._rooms.risk_of(step.do.action) is not Risk.READ
        return isinstance(step.do, IsolateCall)

    async def _frozen(self, runbook: Runbook, wish: Wish) -> Mapping[str, tuple[Target, tuple[Host, ...]]]:
        """The hosts of every target that is named, "" for the run's own."""
        spec = wish.target
        if not spec.terms:
            spec = replace(spec, terms=_terms(runbook.targets.select) or await self._hosts_of(wish.incident_id))
        if not spec.terms:
            raise EmptyTarget(f"{runbook.name} names no target, nor does an incident (--incident): say --target")
        frozen = {"": await self._operations.resolve(spec)}
        _require_few(runbook.name, runbook.targets.most, frozen[""][0])
        for step in all_steps(runbook):
            own = step.targets
            if own is not None and own.select and own.select not in frozen:
                frozen[own.select] = await self._operations.resolve(TargetSpec((own.select,), wish.target.excluded))
            if own is not None:
                _require_few(f"step {step.id}", own.most, frozen[own.select][0])
        return frozen

    async def _hosts_of(self, incident_id: str) -> tuple[str, ...]:
        """The hosts that an incident was opened for; those that were removed since are not hosts any more."""
        if not incident_id:
            return ()
        first = (await self._rooms.store.read(lambda tx: tx.operations(tx.incident(incident_id).id)))[:1]
        here = {host.name for host in await self._rooms.store.hosts() if not host.removed}
        return tuple(host for operation in first for host in operation.target.hosts if host in here)

    async def _require_preconditions(self, run: Run, runbook: Runbook, expressions: Expressions) -> None:
        incident = await self._rooms.store.read(lambda tx: incident_of(tx, run.incident_id))
        known: dict[str, Any] = {"params": dict(run.params), "incident": dict(incident)}
        for text in runbook.preconditions:
            try:
                is_met = expressions.is_met(text, known)
            except BadExpression as error:
                raise PolicyError(f"{runbook.name}: precondition: {error}", reason="policy_denied") from None
            if not is_met:
                without = "" if run.incident_id else " (no incident was named: --incident)"
                message = f"{runbook.name} is not for this: {text} is not so{without}"
                raise PolicyError(message, reason="policy_denied")

    async def _permit(self, run: Run, runbook: Runbook, target: Target, wish: Wish) -> Permit:
        if not self._changes_anything(runbook):
            return Permit()
        bound = bound_by(run, runbook, self._rooms.risk_of)
        summary = f"run {run.runbook} version {run.version} on {target.folded}"
        return await self._approvals.require("remediate", target, bound, wish, summary=summary)

    def _runbook(self, run: Run) -> Runbook:
        return self._rooms.compiled(run)[0]


def bound_by(run: Run, runbook: Runbook, risk_of: Callable[[str], Risk]) -> dict[str, Any]:
    """What an approval of a whole run is for: the very runbook with its parameters, and all actions that it may do."""
    calls = [call for step in all_steps(runbook) for call in (step.do, step.rollback) if isinstance(call, ActionCall)]
    actions = {call.action: [str(risk_of(call.action))] for call in calls}
    return {"runbook": run.runbook, "sha256": run.sha256, "params": dict(run.params), "actions": actions}


def parsed(runbook: Runbook, given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a run, as JSON values, with their defaults.

    Raises:
        ConfigError: one is unknown, lacks or does not fit.
    """
    known = {parameter.name: parameter for parameter in runbook.params}
    for name in given:
        if name not in known:
            raise ConfigError(f"{runbook.name}: unknown parameter {name!r}; {nearest(name, known)}")
    return {name: _value(runbook, parameter, given.get(name)) for name, parameter in known.items()}


def _value(runbook: Runbook, parameter: Parameter, text: str | None) -> Any:
    if text is None:
        if parameter.is_required:
            said = f"{runbook.name}: parameter {parameter.name!r} lacks: {parameter.summary}"
            raise ConfigError(f"{said}; say --param {parameter.name}=VALUE")
        return parameter.default
    try:
        return parameter.parse(text)
    except BadValue as error:
        raise ConfigError(f"{runbook.name}: {error}") from None


def _terms(select: str) -> tuple[str, ...]:
    return (select,) if select else ()


def _require_few(what: str, most: int, target: Target) -> None:
    if most and len(target.hosts) > most:
        message = f"{what} is for at most {most} hosts, found {len(target.hosts)}: {target.folded}"
        raise PolicyError(message, reason="policy_denied")


def _all_hosts(run: Run) -> tuple[str, ...]:
    return tuple(sorted({host for hosts in run.hosts.values() for host in hosts}))


def _holder(run: Run) -> Holder:
    return Holder(run.id, run.operator, f"{run.runbook} version {run.version}{f': {run.reason}' if run.reason else ''}")
