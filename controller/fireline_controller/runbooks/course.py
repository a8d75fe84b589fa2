"""What comes next in a run: a pure function of the runbook, its hosts, what is on record and what operators want.

Asked again after every move, so that a run which lost its process goes on from its record alone (I6). A move that was
begun is proposed again, as it stands on record, until its end is known: what may have touched a host is never left in
doubt, and never done under another name (I2). Leaves to others: one step from its hosts to its end (stepping), the way
back (unwinding).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from fireline_controller import targets
from fireline_controller.model import Outcome
from fireline_controller.runbooks.beginning import lost_in
from fireline_controller.runbooks.ground import Ground, within
from fireline_controller.runbooks.model import OnFailure, Parallel, Step
from fireline_controller.runbooks.record import Ended, Move, Part, RunState, RunWish, Taken
from fireline_controller.runbooks.stepping import StepEnd, step_end
from fireline_controller.runbooks.unwinding import back_moves, left_behind, untaken


@dataclass(frozen=True)
class Verdict:
    """How the steps of a run came out, before the way back and what is done finally."""

    state: RunState
    why: str = ""


Moves = tuple[Move, ...]


def next_moves(ground: Ground, wish: RunWish = RunWish.GO_ON) -> Moves | Ended:
    """The moves that may be made now, at the same time where there are several; or how the run ended.

    Args:
        ground: the runbook, its hosts, values and record.
        wish: what operators want of it.
    """
    if begun := tuple(t.move for t in ground.record if t.ends is None):
        return begun + _beside(ground, wish, begun)
    main = _main(ground, wish)
    if not isinstance(main, Verdict):
        return main
    if main.state is RunState.ROLLED_BACK and (moves := back_moves(ground)):
        return moves
    last = _finally(ground)
    if not isinstance(last, Verdict):
        return last
    return _ended(ground, main, last)


def _beside(ground: Ground, wish: RunWish, begun: Moves) -> Moves:
    """What a parallel step may begin while others of it are at work."""
    ids = {move.step for move in begun}
    for step in (*ground.runbook.steps, *ground.runbook.finally_):
        if not isinstance(step.do, Parallel) or ids.isdisjoint(s.id for s in within(step)):
            continue
        if wish is not RunWish.GO_ON and step in ground.runbook.steps:
            return ()
        found = _parallel(step, step.do, ground)
        keys = {move.key for move in begun}
        return () if isinstance(found, StepEnd) else tuple(move for move in found if move.key not in keys)
    return ()


def _main(ground: Ground, wish: RunWish) -> Moves | Verdict:
    places = {step.id: place for place, step in enumerate(ground.runbook.steps)}
    seen = set[str]()
    place, kept = 0, RunState.SUCCEEDED
    why = ""
    while place < len(ground.runbook.steps):
        step = ground.runbook.steps[place]
        if step.id in seen:
            return _wanted(Verdict(RunState.FAILED, f"step {step.id!r} would come a second time"), wish)
        seen.add(step.id)
        found = _one(step, ground)
        if not isinstance(found, StepEnd):
            return found if wish is RunWish.GO_ON else _stopped(wish)
        if found.is_ok:
            place += 1
            continue
        after = _after_failure(found)
        if isinstance(after, Verdict):
            return _wanted(after, wish)
        kept, why = RunState.FAILED, why or found.why
        place = places[after] if after else place + 1
    return _wanted(Verdict(kept, why), wish)


def _stopped(wish: RunWish) -> Verdict:
    state = RunState.CANCELLED if wish is RunWish.CANCEL else RunState.ROLLED_BACK
    return Verdict(state, f"{'cancelled' if wish is RunWish.CANCEL else 'rolled back'} by an operator")


def _wanted(verdict: Verdict, wish: RunWish) -> Verdict:
    """What operators want wins over how the steps came out; a cancellation that came too late changes nothing."""
    if wish is RunWish.ROLL_BACK or (wish is RunWish.CANCEL and verdict.state is not RunState.SUCCEEDED):
        return _stopped(wish)
    return verdict


def _after_failure(end: StepEnd) -> Verdict | str:
    """The verdict, or the id of the step where it goes on; empty for the next one."""
    how = end.on_failure
    if how is OnFailure.ROLLBACK:
        return Verdict(RunState.ROLLED_BACK, end.why)
    if how is OnFailure.CONTINUE and not end.is_refused:
        return ""
    if how is OnFailure.GOTO and not end.is_refused:
        return end.goto
    return Verdict(RunState.FAILED, end.why)


def _one(step: Step, ground: Ground) -> Moves | StepEnd:
    if isinstance(step.do, Parallel):
        return _parallel(step, step.do, ground)
    return step_end(step, ground)


def _parallel(step: Step, parallel: Parallel, ground: Ground) -> Moves | StepEnd:
    """What its steps may do now; no further one is begun once one has failed for all."""
    begun = {taken.move.step for taken in ground.record}
    moves: list[Move] = []
    ends: list[StepEnd] = []
    at_work = 0
    for inner in parallel.steps:
        found = _one(inner, ground)
        if isinstance(found, StepEnd):
            ends.append(found)
            continue
        is_begun = not begun.isdisjoint(s.id for s in within(inner))
        failed = any(not end.is_ok and end.on_failure is not OnFailure.CONTINUE for end in ends)
        if at_work < parallel.limit and (is_begun or not failed):
            at_work += 1
            moves.extend(found)
    if moves:
        return tuple(moves)
    return _joined(step, ends)


def _joined(step: Step, ends: list[StepEnd]) -> StepEnd:
    """The end of a parallel step: the first of its steps that failed for all decides, or leaves it to the whole."""
    bad = [end for end in ends if not end.is_ok and (end.is_refused or end.on_failure is not OnFailure.CONTINUE)]
    if not bad:
        return StepEnd(True)
    first = bad[0]
    if first.on_failure in (OnFailure.ROLLBACK, OnFailure.GOTO):
        return first
    return StepEnd(False, first.why, on_failure=step.on_failure, goto=step.goto, is_refused=first.is_refused)


def _finally(ground: Ground) -> Moves | Verdict:
    """Every one of them is done, whatever came of those before."""
    why = ""
    for step in ground.runbook.finally_:
        found = _one(step, ground)
        if not isinstance(found, StepEnd):
            return found
        if not found.is_ok:
            why = why or found.why
    return Verdict(RunState.FAILED if why else RunState.SUCCEEDED, why)


def _ended(ground: Ground, main: Verdict, last: Verdict) -> Ended:
    why = [main.why] if main.why else []
    if main.state is RunState.ROLLED_BACK and (left := left_behind(ground)):
        return Ended(RunState.FAILED, "; ".join([*why, f"not taken back: {left}"]))
    if main.state is RunState.ROLLED_BACK and (stays := untaken(ground)):
        why.append(f"stays as it is: {stays}")
    if last.why:
        why.append(f"finally: {last.why}")
    state = last.state if main.state is RunState.SUCCEEDED else main.state
    if main.state is RunState.SUCCEEDED and (lost := _lost(ground)):
        why.append("; ".join(f"not done on {targets.fold(hosts)}, lost in step {step}" for step, hosts in lost.items()))
        everywhere = {host for hosts in ground.hosts.values() for host in hosts}
        state = RunState.FAILED if everywhere.issubset(itertools.chain(*lost.values())) else state
    return Ended(state, "; ".join(why))


def _lost(ground: Ground) -> Mapping[str, list[str]]:
    """By step the hosts that failed in it and had no part in what came after, though the run went on without them."""
    found: dict[str, list[str]] = {}
    for host in sorted({host for hosts in ground.hosts.values() for host in hosts}):
        if step := lost_in(ground, host):
            found.setdefault(step, []).append(host)
    return found


def progress(record: tuple[Taken, ...]) -> Mapping[str, Mapping[str, Outcome]]:
    """What is known of each host in each step so far, for people who watch."""
    found: dict[str, dict[str, Outcome]] = {}
    for taken in record:
        for end in taken.ends or ():
            if end.host and taken.move.part is not Part.PLAN:
                found.setdefault(taken.move.step, {})[end.host] = end.outcome
    return found
