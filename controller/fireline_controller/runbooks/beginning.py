"""The beginning of a step: which hosts take part in it, with which parameters, and why the others don't."""

from collections.abc import Mapping
from typing import Any

from fireline_controller.model import Outcome
from fireline_controller.runbooks.filling import BadExpression
from fireline_controller.runbooks.ground import Ground, is_bad, variables
from fireline_controller.runbooks.model import ActionCall, CaptureCall, Manual, OnFailure, Step
from fireline_controller.runbooks.record import Filled, HostEnd, Move, Part
from fireline_wire.actions import Risk


def begin(step: Step, ground: Ground) -> Move:
    """The move with which the step begins: decided from the record as it is now, and on record from then on."""
    known: list[HostEnd] = []
    chosen: list[str] = []
    filled: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for host in ground.hosts[step.id]:
        try:
            end, given = _chosen(step, ground, host)
        except BadExpression as error:
            end, given = HostEnd(host, Outcome.FAILED, str(error), "invalid_request"), {}
        if end is not None:
            known.append(end)
            continue
        chosen.append(host)
        filled.setdefault(repr(sorted(given.items())), (given, []))[1].append(host)
    parameters = tuple(Filled(given, tuple(hosts)) for given, hosts in filled.values() if given)
    return Move(step.id, Part.BEGIN, hosts=tuple(chosen), filled=parameters, known=tuple(known))


def _chosen(step: Step, ground: Ground, host: str) -> tuple[HostEnd | None, Mapping[str, Any]]:
    """Why a host has no part in the step, if so; and its parameters."""
    if _needs_no_failure(step, ground) and (before := lost_in(ground, host, but=step.id)):
        return HostEnd(host, Outcome.SKIPPED, f"failed in step {before}", "failed_before"), {}
    known = variables(ground, host)
    if step.when and not ground.expressions.holds(step.id, step.when, known):
        return HostEnd(host, Outcome.SKIPPED, f"not so here: {step.when}", "condition"), {}
    if why := _unproved(step, ground, host):
        return HostEnd(host, Outcome.DENIED, why, "no_evidence"), {}
    if isinstance(step.do, ActionCall | CaptureCall):
        return None, ground.expressions.fill(step.id, step.do.given, known)
    return None, {}


def _unproved(step: Step, ground: Ground, host: str) -> str:
    """Invariant I3: what a destructive action destroys is sealed before, host by host."""
    if not isinstance(step.do, ActionCall) or ground.risk_of(step.do.action) is not Risk.DESTRUCTIVE:
        return ""
    kept_by = _kept_by(step, ground)
    ends = [ground.outcomes.get(capture, {}).get(host) for capture in kept_by]
    known = [end.outcome for end in ends if end is not None and end.outcome is not Outcome.SKIPPED]
    if not kept_by or (known and all(outcome is Outcome.OK for outcome in known)):
        return ""
    return f"{step.do.action} destroys what {', '.join(kept_by)} was to keep, and that is not sealed here"


def _kept_by(step: Step, ground: Ground) -> tuple[str, ...]:
    """The captures that keep what a step destroys: those made for it, or else every required one."""
    captures = {name: ground.steps[name].do for name in ground.required}
    own = tuple(n for n, do in captures.items() if isinstance(do, CaptureCall) and step.id in do.evidence_for)
    return own or tuple(captures)


def _needs_no_failure(step: Step, ground: Ground) -> bool:
    """What a person does is not done on the host: those that failed are the very reason to ask for somebody."""
    return step not in ground.runbook.finally_ and not isinstance(step.do, Manual)


def lost_in(ground: Ground, host: str, *, but: str = "") -> str:
    """The step in which the host failed for good, though few enough hosts did for the run to go on; empty for none."""
    for step, ends in ground.outcomes.items():
        is_tolerated = ground.steps[step].on_failure in (OnFailure.CONTINUE, OnFailure.GOTO)
        if step != but and not is_tolerated and host in ends and is_bad(ends[host]):
            return step
    return ""
