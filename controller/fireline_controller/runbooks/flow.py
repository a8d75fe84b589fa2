"""Rules about the order of steps: jumps, evidence before it is destroyed, and the way back."""

from collections.abc import Iterator

from fireline_controller.runbooks import expressions, scopes
from fireline_controller.runbooks.examined import Examined
from fireline_controller.runbooks.expressions import ExpressionError
from fireline_controller.runbooks.model import ActionCall, CaptureCall, IsolateCall, OnFailure, Parallel, Step, Targets
from fireline_controller.runbooks.parsing import Path, Problem
from fireline_wire.actions import ActionSpec, Risk, nearest


def problems(examined: Examined) -> Iterator[Problem]:
    """All that is wrong with the order of the steps."""
    members = {m.id for s in examined.runbook.steps if isinstance(s.do, Parallel) for m in s.do.steps}
    for step in examined.steps:
        if step.goto:
            yield from _jump(examined, step, is_member=step.id in members)
        if step.on_failure is OnFailure.ROLLBACK:
            yield from _way_back(examined, step)
        if isinstance(step.do, CaptureCall):
            yield from _capture(examined, step, step.do)
        yield from _rollback(examined, step)
        if examined.risk(step) is Risk.DESTRUCTIVE:
            yield from _destroys(examined, step)
    for step in scopes.flat(examined.runbook.finally_):
        yield from _at_the_end(examined, step)


def _jump(examined: Examined, step: Step, *, is_member: bool) -> Iterator[Problem]:
    path: Path = (*examined.path(step), "on_failure", "goto")
    places = {s.id: index for index, s in enumerate(examined.runbook.steps)}
    here = places.get(step.id)
    if is_member or here is None:
        yield examined.problem(path, "only a step of `steps` itself can go elsewhere: write abort or continue")
    elif step.goto not in places:
        yield examined.problem(path, f"there is no step {step.goto!r} to go to; {nearest(step.goto, places)}")
    elif places[step.goto] <= here:
        message = f"going back to {step.goto!r} would run in circles: wanted a step after {step.id!r}, or `retry`"
        yield examined.problem(path, message)
    elif places[step.goto] == here + 1:
        yield examined.problem(path, f"{step.goto!r} is the next step anyway: write `on_failure: continue`")


def _way_back(examined: Examined, step: Step) -> Iterator[Problem]:
    """A rollback that would have to stop half-way is found now, not in the incident."""
    last = examined.order.get(step.id, -1)
    stuck = [s.id for s in examined.steps if examined.order.get(s.id, last + 1) <= last and _is_one_way(examined, s)]
    if stuck:
        message = (
            f"{', '.join(stuck)} can't be taken back: write abort, or give {'it' if len(stuck) == 1 else 'each'}"
            ' a `rollback`: an action, or `{none: "why there is no way back"}`'
        )
        yield examined.problem((*examined.path(step), "on_failure"), message)


def _is_one_way(examined: Examined, step: Step) -> bool:
    spec = examined.spec(step)
    return bool(spec and spec.risk is not Risk.READ and not (spec.undo or step.rollback or step.no_way_back))


def _rollback(examined: Examined, step: Step) -> Iterator[Problem]:
    if examined.risk(step) is Risk.READ and (step.rollback or step.no_way_back):
        message = f"step {step.id!r} changes nothing: leave `rollback` out"
        yield examined.problem((*examined.path(step), "rollback"), message, is_key=True)
    spec = examined.known.catalogue.get(step.rollback.action) if step.rollback else None
    if spec and spec.risk in (Risk.READ, Risk.DESTRUCTIVE):
        message = f"{spec.name} is {spec.risk}: a way back neither only reads nor destroys"
        yield examined.problem((*examined.path(step), "rollback", "action"), message)


def _capture(examined: Examined, step: Step, capture: CaptureCall) -> Iterator[Problem]:
    path = examined.path(step)
    if step.is_required and step.on_failure in (OnFailure.CONTINUE, OnFailure.GOTO):
        message = "a required capture can't be passed over: write abort or rollback"
        yield examined.problem((*path, "on_failure"), message)
    if step.is_required and step.when:
        yield examined.problem((*path, "when"), "a required capture is always taken: leave `when` out", is_key=True)
    by_id = {s.id: s for s in examined.steps}
    for index, wanted in enumerate(capture.evidence_for):
        if message := _evidence_for(examined, step, by_id.get(wanted), wanted):
            yield examined.problem((*path, "capture", "evidence_for", index), message)


def _evidence_for(examined: Examined, capture: Step, step: Step | None, wanted: str) -> str:
    if step is None:
        return f"there is no step {wanted!r}; {nearest(wanted, [s.id for s in examined.steps])}"
    if not isinstance(step.do, ActionCall):
        return f"step {wanted!r} is no action: wanted one that destroys something"
    if examined.order.get(wanted, -1) <= examined.order.get(capture.id, -1):
        return f"step {wanted!r} does not come after the capture: put the capture before it"
    spec = examined.spec(step)
    if spec and not spec.evidence:
        return f"{spec.name} destroys nothing that a collector keeps: leave it out"
    scope = scopes.of_preconditions(examined.runbook.params)
    for text in _embedded(step.do, spec.evidence_takes if spec else frozenset(step.do.given)):
        try:
            expressions.check(text, scope)
        except ExpressionError:
            return (
                f"step {wanted!r} takes {text!r}, which is not known at its capture: use `params` and `incident` only"
            )
    return ""


def _embedded(call: ActionCall, names: frozenset[str]) -> Iterator[str]:
    """Every expression among these parameters of an action."""
    for name in names & call.given.keys():
        value = call.given[name]
        for item in value if isinstance(value, list) else (value,):
            text = expressions.embedded(item)
            if text is not None:
                yield text


def _destroys(examined: Examined, step: Step) -> Iterator[Problem]:
    """I3: somebody else agreed, and what will be gone is sealed."""
    path = examined.path(step)
    spec = examined.spec(step)
    if step.approval is None:
        message = f"step {step.id!r} destroys what can't be had back: add `approval: {{count: 1, timeout: 5m}}`"
        yield examined.problem(path, message)
    if spec and spec.evidence and step.id in examined.order:
        reasons = [_why_not(examined, capture, step, spec) for capture in _captures(examined, before=step)]
        if all(reasons):
            yield examined.problem(path, _unsealed(step, spec, [r for r in reasons if r]))


def _unsealed(step: Step, spec: ActionSpec, reasons: list[str]) -> str:
    found = "; ".join(reasons) or "no capture before it"
    return (
        f"step {step.id!r} destroys what {', '.join(spec.evidence)} would keep, found {found}: put a step before it"
        f" with `capture: {{evidence_for: [{step.id}]}}` and `required: true`"
    )


def _captures(examined: Examined, *, before: Step) -> Iterator[Step]:
    last = examined.order[before.id]
    for step in examined.steps:
        if isinstance(step.do, CaptureCall) and examined.order.get(step.id, last) < last:
            yield step


def _why_not(examined: Examined, capture: Step, step: Step, spec: ActionSpec) -> str:
    """Why a capture does not keep what a step destroys; empty where it does."""
    assert isinstance(capture.do, CaptureCall)  # noqa: S101  # chosen so
    # What a collector is told by the action's parameters, a profile can't tell it.
    kept = examined.known.profiles.get(capture.do.profile, frozenset()) - set(spec.evidence_params)
    if step.id not in capture.do.evidence_for and not kept.issuperset(spec.evidence):
        return f"{capture.id!r} without {', '.join(sorted(set(spec.evidence) - kept))}"
    if not capture.is_required:
        return f"{capture.id!r} not required"
    if _selected(step.targets) not in ("", _selected(capture.targets)) or _selected(capture.targets):
        return "" if _selected(step.targets) == _selected(capture.targets) else f"{capture.id!r} on other hosts"
    first, last = examined.order[capture.id], examined.order[step.id]
    for other in examined.runbook.steps:
        if other.goto and examined.order[other.id] <= first < examined.order.get(other.goto, -1) <= last:
            return f"{capture.id!r} passed over when {other.id!r} fails"
    return ""


def _selected(targets: Targets | None) -> str:
    return targets.select if targets else ""


def _at_the_end(examined: Examined, step: Step) -> Iterator[Problem]:
    path = examined.path(step)
    if examined.risk(step) is Risk.DESTRUCTIVE:
        yield examined.problem(path, "`finally` destroys nothing: it runs however the run ended; put it into `steps`")
    if step.on_failure in (OnFailure.ROLLBACK, OnFailure.GOTO):
        yield examined.problem((*path, "on_failure"), "`finally` goes on to its end: write continue")
    if isinstance(step.do, IsolateCall) and not step.do.is_back:
        yield examined.problem(path, "`finally` cuts nobody off: put it into `steps`")
