"""One step of a run, from the choice of its hosts to its end: begun, approved, batch by batch, retried, verified.

What others must approve is planned before they are asked: they approve those very plans, and those are what is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fireline_controller.model import Outcome
from fireline_controller.runbooks.batching import batches, count_of
from fireline_controller.runbooks.beginning import begin
from fireline_controller.runbooks.ground import Ground, is_bad
from fireline_controller.runbooks.model import ActionCall, Manual, OnFailure, Step, Targets
from fireline_controller.runbooks.record import HostEnd, Move, Part
from fireline_wire.actions import Risk

# Outcomes after which a host is not tried again: it, or somebody, said no.
_FINAL = frozenset({Outcome.DENIED, Outcome.CANCELLED, Outcome.SKIPPED})


@dataclass(frozen=True)
class StepEnd:
    """A step is over. `is_refused`: people said no, or nothing in time."""

    is_ok: bool
    why: str = ""
    on_failure: OnFailure = OnFailure.ABORT
    goto: str = ""
    is_refused: bool = False
    hosts: Mapping[str, HostEnd] = field(default_factory=dict)


Moves = tuple[Move, ...]


def step_end(step: Step, ground: Ground) -> Moves | StepEnd:
    """The moves that the step may make now, or how it ended."""
    begun = ground.taken.get(Move(step.id, Part.BEGIN).key)
    if begun is None:
        return (begin(step, ground),)
    if not begun.move.hosts:
        return _judged(step, ground, {end.host: end for end in begun.move.known})
    if step.approval is not None and (lacks := _unapproved(step, ground, begun.move)) is not None:
        return lacks
    if isinstance(step.do, Manual):
        return _by_hand(step, ground, begun.move.hosts)
    return _batches(step, ground, begun.move)


def _unapproved(step: Step, ground: Ground, begun: Move) -> Moves | StepEnd | None:
    """What lacks of the others' word; None once it is given, and where nothing would change."""
    hosts = begun.hosts
    if isinstance(step.do, ActionCall):
        planned = ground.ends(step.id, Part.PLAN)
        if planned is None:
            return (Move(step.id, Part.PLAN, hosts=hosts),)
        hosts = tuple(sorted(_to_do(planned)))
        if not hosts:
            return None
    said = ground.ends(step.id, Part.APPROVE)
    if said is None:
        return (Move(step.id, Part.APPROVE, hosts=hosts),)
    if (word := said[""]).outcome is not Outcome.OK:
        return StepEnd(False, f"{step.id}: {word.detail}", step.on_failure, step.goto, is_refused=True)
    return None


def _by_hand(step: Step, ground: Ground, hosts: tuple[str, ...]) -> Moves | StepEnd:
    said = ground.ends(step.id, Part.MANUAL)
    if said is None:
        return (Move(step.id, Part.MANUAL, hosts=hosts),)
    word = said[""]
    is_ok = word.outcome in (Outcome.OK, Outcome.SKIPPED)
    why = "" if is_ok else f"{step.id}: {word.detail}"
    return StepEnd(is_ok, why, step.on_failure, step.goto)


def _batches(step: Step, ground: Ground, begun: Move) -> Moves | StepEnd:
    targets = ground.targets_of(step)
    ends: dict[str, HostEnd] = {end.host: end for end in begun.known}
    allowed = _allowed(targets, ends, begun.hosts)
    groups = batches(begun.hosts, targets)
    stop = _over_budget(ends, allowed)
    for number, group in enumerate(groups):
        if stop:
            rest = [host for later in groups[number:] for host in later]
            ends.update({host: HostEnd(host, Outcome.SKIPPED, f"not begun: {stop}", "budget") for host in rest})
            return _failed(step, ends)
        found = _batch(step, ground, number, group)
        if isinstance(found, Move):
            return (found,)
        ends.update(found)
        is_canary = number == 0 and 0 < targets.canary < len(begun.hosts)
        failed = is_canary and any(map(is_bad, found.values()))
        stop = "the canary failed" if failed else _over_budget(ends, allowed)
    return _judged(step, ground, ends)


def _over_budget(ends: Mapping[str, HostEnd], allowed: int) -> str:
    """Why no further batch is begun; empty: it is."""
    failed = sum(map(is_bad, ends.values()))
    return f"{failed} not ok, {allowed} allowed" if failed > allowed else ""


def _allowed(targets: Targets, known: Mapping[str, HostEnd], hosts: Sequence[str]) -> int:
    return count_of(targets.max_fail, len(hosts) + sum(map(is_bad, known.values())))


def _judged(step: Step, ground: Ground, ends: Mapping[str, HostEnd]) -> StepEnd:
    asked = [host for host, end in ends.items() if end.outcome is not Outcome.SKIPPED]
    allowed = _allowed(ground.targets_of(step), {}, asked)
    is_ok = sum(map(is_bad, ends.values())) <= allowed
    return StepEnd(True, hosts=ends) if is_ok else _failed(step, ends)


def _failed(step: Step, ends: Mapping[str, HostEnd]) -> StepEnd:
    bad = sorted(host for host, end in ends.items() if is_bad(end))
    first = ends[bad[0]]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    why = f"{step.id}: {first.host}{more}: {first.outcome}: {first.detail}"
    return StepEnd(False, why, step.on_failure, step.goto, hosts=ends)


def _batch(step: Step, ground: Ground, number: int, group: Sequence[str]) -> Move | dict[str, HostEnd]:
    """The next move of a batch, or how its hosts ended."""
    ends: dict[str, HostEnd] = {}
    todo = tuple(group)
    for attempt in range(1, step.retry.attempts + 1):
        delay_s = step.retry.backoff_s * 2 ** (attempt - 2) if attempt > 1 else 0.0
        found = _attempt(step, ground, Move(step.id, Part.DO, number, attempt, todo, delay_s=delay_s))
        if isinstance(found, Move):
            return found
        ends.update(found)
        todo = tuple(host for host in todo if _may_be_tried_again(ends[host]))
        if not todo:
            break
    good = tuple(host for host in group if ends[host].outcome is Outcome.OK)
    if step.verify is None or not good:
        return ends
    verified = ground.ends(step.id, Part.VERIFY, number)
    if verified is None:
        return Move(step.id, Part.VERIFY, number, hosts=good)
    return ends | verified


def _may_be_tried_again(end: HostEnd) -> bool:
    return is_bad(end) and end.outcome not in _FINAL and not end.is_out_of_time


def _attempt(step: Step, ground: Ground, act: Move) -> Move | dict[str, HostEnd]:
    """One attempt on these hosts. An action is planned first, and done where its plan changes anything."""
    if not isinstance(step.do, ActionCall):
        done = ground.ends(step.id, Part.DO, act.batch, act.attempt)
        return act if done is None else done
    planned = plans_of(step, ground, act)
    if planned is None:
        return Move(step.id, Part.PLAN, act.batch, act.attempt, act.hosts, delay_s=act.delay_s)
    plans = _to_do(planned)
    if not plans or ground.risk_of(step.do.action) is Risk.READ:
        return planned
    done = ground.ends(step.id, Part.DO, act.batch, act.attempt)
    if done is None:
        return Move(step.id, Part.DO, act.batch, act.attempt, tuple(sorted(plans)), plans=plans)
    return planned | done


def plans_of(step: Step, ground: Ground, act: Move) -> dict[str, HostEnd] | None:
    """The plans that an attempt goes by: its own, or those that were approved; None while there are none."""
    if step.approval is None:
        return ground.ends(step.id, Part.PLAN, act.batch, act.attempt)
    approved = ground.ends(step.id, Part.PLAN)
    return None if approved is None else {host: approved[host] for host in act.hosts}


def _to_do(planned: Mapping[str, HostEnd]) -> dict[str, str]:
    """The plans that change something, by host."""
    return {h: end.plan_sha256 for h, end in planned.items() if end.outcome is Outcome.OK and end.plan_sha256}
