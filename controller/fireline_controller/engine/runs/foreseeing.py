"""What a run would do, step by step, before anything happens: conditions as far as known, plans of the hosts."""

import json
import re
from collections.abc import Mapping, Sequence
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
from fireline_controller.runbooks.model import ActionCall, OnFailure, Step
from fireline_controller.runbooks.record import HostEnd, Move, Part, Run
from fireline_controller.store import Transaction

# What is known only once earlier steps were done.
_LATER: Final = re.compile(r"\b(?:steps|fleet)\.")
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
    steps = [await _step(asking, ground, step) for step in all_steps(ground.runbook)]
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


async def _step(asking: _Asking, ground: Ground, step: Step) -> PlannedStep:
    chosen, still_open = _hosts(ground, step)
    effects: Sequence[PlannedHost] = ()
    if isinstance(step.do, ActionCall) and chosen:
        effects = await _effects(asking, ground, step, step.do, chosen)
    return PlannedStep(
        step=step.id,
        title=step.title,
        does=entries.kind(step),
        risk=str(ground.risk_of(step.do.action)) if isinstance(step.do, ActionCall) else "",
        hosts=targets.fold(chosen),
        open_hosts=targets.fold(still_open),
        when=step.when,
        approval=_approval(step),
        on_failure=f"go to {step.goto}" if step.on_failure is OnFailure.GOTO else str(step.on_failure),
        rollback=_rollback(step),
        effects=tuple(effects),
    )


def _hosts(ground: Ground, step: Step) -> tuple[list[str], list[str]]:
    """The hosts of a step as far as its condition is known now, and those for which it is not."""
    hosts = list(ground.hosts[step.id])
    if not step.when:
        return hosts, []
    if _LATER.search(step.when):
        return [], hosts
    chosen = []
    for host in hosts:
        try:
            if ground.expressions.holds(step.id, step.when, variables(ground, host)):
                chosen.append(host)
        except BadExpression:
            continue  # it fails on this host then; the run says so
    return chosen, []


async def _effects(
    asking: _Asking, ground: Ground, step: Step, call: ActionCall, hosts: Sequence[str]
) -> Sequence[PlannedHost]:
    if any(isinstance(v, str) and _LATER.search(v) for value in call.given.values() for v in _texts(value)):
        return ()
    given: dict[str, Given] = {}
    bad: list[PlannedHost] = []
    for host in hosts:
        try:
            given[host] = ground.expressions.fill(step.id, call.given, variables(ground, host))
        except BadExpression as error:
            bad.append(PlannedHost(host, str(Outcome.FAILED), str(error)))
    ends = await asking.plans(step, call, given)
    return [*bad, *(PlannedHost(end.host, str(end.outcome), end.effect or end.detail) for end in ends)]


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
