"""What a run would do, step by step, before anything happens: conditions as far as known, plans of the hosts.

Steps that only look are asked, so that what follows from them is seen as it is now. That ends with the first step that
would change something: what is found after it can't be known before.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fireline_controller import targets
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.runs import entries
from fireline_controller.engine.runs.deeds import Order
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.starting import bound_by
from fireline_controller.engine.runs.values import PlannedHost, PlannedStep, RunPlan
from fireline_controller.model import FirelineError, Outcome
from fireline_controller.runbooks.filling import BadExpression
from fireline_controller.runbooks.ground import Ground, all_steps, variables
from fireline_controller.runbooks.model import ActionCall, CaptureCall, OnFailure, Parallel, Step
from fireline_controller.runbooks.record import HostEnd, Move, Part, Run, Taken
from fireline_controller.store import Transaction
from fireline_wire.actions import Risk

# The earlier steps that an expression stands on.
_STEP: Final = re.compile(r"\b(?:steps|fleet)\.([a-z][a-z0-9_]*)")
_PLAN_S: Final = 30.0

Given = Mapping[str, Any]


async def foreseen(rooms: RunRooms, approvals: Approvals, run: Run) -> RunPlan:
    """A prepared run as it would go.

    Raises:
        FirelineError: the controller itself failed.
    """
    compiled = rooms.compiled(run)
    ground = await rooms.store.read(lambda tx: rooms.ground(tx, run, compiled, ()))
    asking = _Asking(rooms, run)
    steps, is_as_now = [], True
    for step in all_steps(ground.runbook):
        now = await _now(asking, ground, step)
        steps.append(_planned(ground, step, now))
        is_as_now = is_as_now and not _changes(ground, step, now)
        if is_as_now and len(now.ends) == len(ground.hosts[step.id]):  # of fewer some are not known
            seen = Taken(Move(step.id, Part.PLAN), rooms.now(), tuple(_judged(ground, step, e) for e in now.ends))
            ground = replace(ground, record=(*ground.record, seen))
    target = targets.freeze(sorted({host for hosts in run.hosts.values() for host in hosts}), spelled=run.spelled)
    bound = bound_by(run, ground.runbook, rooms.risk_of)
    problems = []
    if outlook := await approvals.outlook("remediate", target, bound, run.operator):
        problems.append(f"as a whole it {outlook}")
    problems += await rooms.store.read(lambda tx: _held(tx, target.hosts, rooms))
    return RunPlan(run.runbook, run.version, run.sha256, target.folded, tuple(steps), tuple(problems))


def _held(tx: Transaction, hosts: Sequence[str], rooms: RunRooms) -> list[str]:
    now = rooms.now()
    held = [lock for lock in tx.locks() if lock.host in hosts and lock.expires_at > now]
    return [f"{lock.host} is being changed by {lock.operator}'s {lock.owner}: {lock.what}" for lock in held]


class _Asking:
    """Asks hosts for plans: each for the same plan once, and one that does not answer never again."""

    def __init__(self, rooms: RunRooms, run: Run) -> None:
        self._rooms = rooms
        self._run = run
        self._known: dict[str, HostEnd] = {}
        self._mute: dict[str, HostEnd] = {}

    async def plans(self, step: Step, call: ActionCall, given: Mapping[str, Given]) -> Sequence[HostEnd]:
        """What the action would do on each host with these parameters."""
        keys = {host: json.dumps([call.action, host, dict(told)], sort_keys=True) for host, told in given.items()}
        new = {host: told for host, told in given.items() if host not in self._mute and keys[host] not in self._known}
        for end in await self._asked(step, call, new) if new else ():
            self._known[keys[end.host]] = end
            if end.outcome is Outcome.UNREACHABLE:
                self._mute[end.host] = end
        return [self._mute.get(host) or self._known[key] for host, key in keys.items()]

    async def _asked(self, step: Step, call: ActionCall, given: Mapping[str, Given]) -> Sequence[HostEnd]:
        move = Move(step.id, Part.PLAN, hosts=tuple(given))
        try:
            return await self._rooms.deeds.plan(Order(self._run, step.id, move, call.action, given, _PLAN_S))
        except FirelineError as error:
            return [HostEnd(host, Outcome.FAILED, str(error)) for host in given]


@dataclass(frozen=True)
class _Now:
    """A step as things stand now. `hosts`: for which its condition holds; None: that is not known. `ends`: of all."""

    hosts: tuple[str, ...] | None
    ends: tuple[HostEnd, ...] = ()


async def _now(asking: _Asking, ground: Ground, step: Step) -> _Now:
    if not _is_known(ground, step.when):
        return _Now(None)
    hosts = tuple(host for host in ground.hosts[step.id] if _holds(ground, step, host))
    if not isinstance(step.do, ActionCall):
        return _Now(hosts)
    others = (host for host in ground.hosts[step.id] if host not in hosts)
    passed_over = tuple(HostEnd(host, Outcome.SKIPPED) for host in others)
    return _Now(hosts, (*await _asked(asking, ground, step, step.do, hosts), *passed_over))


def _is_known(ground: Ground, text: str) -> bool:
    return ground.outcomes.keys() >= set(_STEP.findall(text))


def _holds(ground: Ground, step: Step, host: str) -> bool:
    try:
        return not step.when or ground.expressions.holds(step.id, step.when, variables(ground, host))
    except BadExpression:
        return False  # it fails on this host then; the run says so


def _changes(ground: Ground, step: Step, now: _Now) -> bool:
    """Whether something would be another after the step, or may be."""
    is_look = isinstance(step.do, ActionCall) and ground.risk_of(step.do.action) is Risk.READ
    return not is_look and not isinstance(step.do, CaptureCall | Parallel) and now.hosts != ()


def _judged(ground: Ground, step: Step, end: HostEnd) -> HostEnd:
    """The end as the step's own verification would have it now."""
    if step.verify is None or end.outcome is not Outcome.OK:
        return end
    known = variables(ground, end.host) | {"result": dict(end.result)}
    try:
        is_good = ground.expressions.is_verified(step.id, step.verify.until, known)
    except BadExpression:
        is_good = False
    return end if is_good else replace(end, outcome=Outcome.FAILED)


def _planned(ground: Ground, step: Step, now: _Now) -> PlannedStep:
    is_decided = not _STEP.search(step.when)
    told = (end for end in now.ends if end.outcome is not Outcome.SKIPPED)
    return PlannedStep(
        step=step.id,
        title=step.title,
        does=entries.kind(step),
        risk=str(ground.risk_of(step.do.action)) if isinstance(step.do, ActionCall) else "",
        hosts=targets.fold((now.hosts or ()) if is_decided else ()),
        open_hosts=targets.fold(() if is_decided else ground.hosts[step.id]),
        when=step.when,
        approval=_approval(step),
        on_failure=f"go to {step.goto}" if step.on_failure is OnFailure.GOTO else str(step.on_failure),
        rollback=_rollback(step),
        effects=tuple(PlannedHost(end.host, str(end.outcome), end.effect or end.detail) for end in told),
    )


async def _asked(
    asking: _Asking, ground: Ground, step: Step, call: ActionCall, hosts: Sequence[str]
) -> tuple[HostEnd, ...]:
    """What hosts say to the action now; nothing where its parameters are not known yet."""
    if not all(_is_known(ground, v) for value in call.given.values() for v in _texts(value) if isinstance(v, str)):
        return ()
    given: dict[str, Given] = {}
    bad: list[HostEnd] = []
    for host in hosts:
        try:
            given[host] = ground.expressions.fill(step.id, call.given, variables(ground, host))
        except BadExpression as error:
            bad.append(HostEnd(host, Outcome.FAILED, str(error)))
    return (*bad, *await asking.plans(step, call, given))


def _texts(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _approval(step: Step) -> str:
    if step.approval is None:
        return ""
    by = " or ".join(step.approval.operators) or "any other operator"
    return f"{step.approval.count} by {by} within {step.approval.timeout_s} s"


def _rollback(step: Step) -> str:
    if step.rollback is not None:
        return step.rollback.action
    return f"none: {step.no_way_back}" if step.no_way_back else ""
