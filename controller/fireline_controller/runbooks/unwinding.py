"""The way back: what a run did is taken back step by step, the last one first, host by host.

A step's own rollback is preferred to the undo of its action. What can't be taken back stays, and is said; it keeps
nothing else from being taken back.
"""

from collections.abc import Iterator

from fireline_controller.model import Outcome
from fireline_controller.runbooks.filling import BadExpression
from fireline_controller.runbooks.ground import Ground, variables, within
from fireline_controller.runbooks.model import ActionCall, IsolateCall, Step
from fireline_controller.runbooks.record import Filled, HostEnd, Move, Part, Taken

Moves = tuple[Move, ...]


def back_moves(ground: Ground) -> Moves:
    """The next move of the way back; none when it is at its end."""
    for done in _stack(ground):
        step = ground.steps[done.move.step]
        move = _by_call(step, step.rollback, ground) if step.rollback is not None else _by_undo(step, done, ground)
        if move is not None:
            return (move,)
    return ()


def left_behind(ground: Ground) -> str:
    """What could not be taken back, in words; empty where everything was."""
    back = [t for t in ground.record if t.move.part in (Part.UNDO, Part.BACK_PLAN, Part.BACK)]
    bad = [(t.move.step, end) for t in back for end in t.ends or () if end.outcome is not Outcome.OK]
    found = [f"{step} on {end.host} ({end.detail})" for step, end in bad]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def untaken(ground: Ground) -> str:
    """What has no way back and stays as the run made it, in words; empty for nothing."""
    found = {}
    for done in _stack(ground):
        step = ground.steps[done.move.step]
        if step.rollback is None and isinstance(step.do, ActionCall) and _touched(step, ground):
            can_undo = any(end.can_undo for end in done.ends or ())
            why = step.no_way_back or f"{step.do.action} can't be taken back"
            found.update({} if can_undo else {step.id: why})
    return ", ".join(f"{step} ({why})" for step, why in found.items())


def _stack(ground: Ground) -> Iterator[Taken]:
    """What was done, the last first. What is done finally is not taken back."""
    kept = {inner.id for step in ground.runbook.finally_ for inner in within(step)}
    return (t for t in reversed(ground.record) if t.move.part is Part.DO and t.move.step not in kept)


def _by_undo(step: Step, done: Taken, ground: Ground) -> Move | None:
    is_isolation = isinstance(step.do, IsolateCall) and not step.do.is_back
    if not isinstance(step.do, ActionCall) and not is_isolation:
        return None
    requests = {end.host: end.request_id for end in done.ends or () if end.can_undo}
    if not requests or ground.ends(step.id, Part.UNDO, done.move.batch, done.move.attempt) is not None:
        return None
    hosts = tuple(sorted(requests))
    return Move(step.id, Part.UNDO, done.move.batch, done.move.attempt, hosts, plans=requests)


def _by_call(step: Step, call: ActionCall, ground: Ground) -> Move | None:
    """One call for all that the step did, once its last application comes up."""
    touched = _touched(step, ground)
    if not touched or ground.ends(step.id, Part.BACK) is not None:
        return None
    planned = ground.ends(step.id, Part.BACK_PLAN)
    if planned is None:
        return _planned(step, call, touched, ground)
    plans = {h: end.plan_sha256 for h, end in planned.items() if end.outcome is Outcome.OK and end.plan_sha256}
    return Move(step.id, Part.BACK, hosts=tuple(sorted(plans)), plans=plans) if plans else None


def _touched(step: Step, ground: Ground) -> tuple[str, ...]:
    """The hosts on which the step may have changed something."""
    own = [t for t in ground.record if (t.move.step, t.move.part) == (step.id, Part.DO)]
    return tuple(sorted({end.host for t in own for end in t.ends or () if end.outcome is Outcome.OK or end.can_undo}))


def _planned(step: Step, call: ActionCall, touched: tuple[str, ...], ground: Ground) -> Move:
    filled, known, hosts = [], [], []
    for host in touched:
        try:
            filled.append(Filled(ground.expressions.fill(step.id, call.given, variables(ground, host)), (host,)))
            hosts.append(host)
        except BadExpression as error:
            known.append(HostEnd(host, Outcome.FAILED, str(error), "invalid_request"))
    return Move(step.id, Part.BACK_PLAN, hosts=tuple(hosts), filled=tuple(filled), known=tuple(known))
