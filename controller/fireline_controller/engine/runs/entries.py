"""What the journal says of a run: its intent, every move before it is made and after, and how it ended."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from fireline_controller import targets
from fireline_controller.model import Entry, Outcome
from fireline_controller.runbooks.model import (
    ActionCall,
    CaptureCall,
    IsolateCall,
    Manual,
    Parallel,
    Step,
)  # fmt: skip
from fireline_controller.runbooks.record import HostEnd, Move, Part, Run

_SPOKEN: Final = {
    Part.BEGIN: "begins",
    Part.APPROVE: "asks for approval",
    Part.MANUAL: "waits for a person",
    Part.PLAN: "plans",
    Part.DO: "does",
    Part.VERIFY: "verifies",
    Part.UNDO: "takes back",
    Part.BACK_PLAN: "plans its rollback",
    Part.BACK: "rolls back",
}


def started(run: Run, hosts: str) -> Entry:
    """A run is about to begin."""
    data = {
        "runbook": run.runbook,
        "version": run.version,
        "sha256": run.sha256,
        "params": dict(run.params),
        "target": run.spelled,
        "hosts": hosts,
        "reason": run.reason,
    }
    return _entry(run, "started", run.started_at, f"{run.runbook} version {run.version} on {hosts}", data, run.operator)


def begun(run: Run, step: Step, move: Move, at: datetime, *, is_again: bool) -> Entry:
    """A move is about to be made (I6); `is_again`: it was begun before by a process that did not come to its end."""
    words = f"step {step.id} {_SPOKEN[move.part]}: {what(step, move)} on {targets.fold(move.hosts) or 'no host'}"
    if move.attempt > 1:
        words += f", attempt {move.attempt}"
    if is_again:
        words += ", taken up again"
    data = {
        "step": step.id,
        "part": str(move.part),
        "batch": move.batch,
        "attempt": move.attempt,
        "hosts": targets.fold(move.hosts),
        "parameters": [{"given": dict(f.given), "hosts": targets.fold(f.hosts)} for f in move.filled],
        "plans": dict(move.plans),
    }
    return _entry(run, "moves", at, words, data)


def ended(run: Run, step: Step, move: Move, ends: Sequence[HostEnd], at: datetime) -> list[Entry]:
    """What came of a move: one line for each host that is not ok, one for the whole."""
    bad = [end for end in ends if end.outcome not in (Outcome.OK, Outcome.SKIPPED)]
    lines = [
        _entry(
            run, "outcome", at, f"step {step.id}: {end.outcome}: {end.detail}",
            {"step": step.id, "part": str(move.part), "outcome": str(end.outcome), "reason": end.reason}, host=end.host,
        )
        for end in bad
    ]  # fmt: skip
    data = {"step": step.id, "part": str(move.part), "counts": counted(ends), "attempt": move.attempt}
    summary = f"step {step.id} {_SPOKEN[move.part]}: {summed(ends)}"
    return [*lines, _entry(run, "moved", at, summary, data)]


def counted(ends: Sequence[HostEnd]) -> dict[str, int]:
    """How many hosts ended how."""
    return dict(sorted(Counter(str(end.outcome) for end in ends).items()))


def summed(ends: Sequence[HostEnd]) -> str:
    """What came of a move, in a few words."""
    said = "; ".join(end.detail for end in ends if not end.host)
    return said or ", ".join(f"{n} {name}" for name, n in counted(ends).items()) or "no host"


def spoken(move: Move) -> str:
    """What a move does for its step, as a verb."""
    return _SPOKEN[move.part]


def finished(run: Run, at: datetime) -> Entry:
    """The run is over."""
    return _entry(run, str(run.state), at, f"{run.state}{f': {run.why}' if run.why else ''}", {"why": run.why})


def parked(run: Run, at: datetime) -> Entry:
    """Its controller stops, or failed."""
    return _entry(run, "parked", at, f"parked{f': {run.why}' if run.why else ''}", {"why": run.why})


def taken_up(run: Run, at: datetime, *, by: str, lost: str) -> Entry:
    """Somebody goes on with it. `lost`: the process that had it before; empty: it was parked."""
    words = f"taken up again after its controller process {lost} was lost" if lost else "taken up again"
    return _entry(run, "resumed", at, words, {"owner": run.owner, "lost": lost}, by)


def edited(run: Run, at: datetime, found: str) -> Entry:
    """The runbook's file is another one by now."""
    words = f"{run.runbook} was edited meanwhile: this run goes on with version {run.version} as it was pinned"
    return _entry(run, "edited", at, words, {"pinned": run.sha256, "found": found})


def wished(run: Run, at: datetime, reason: str) -> Entry:
    """An operator wants it cancelled or rolled back."""
    data = {"reason": reason}
    return _entry(run, str(run.wish), at, f"{run.wished_by} wants it to {run.wish}", data, run.wished_by)


def said(run: Run, step: Step, by: str, at: datetime, word: str, note: str) -> Entry:
    """A person says of a manual step that it is done, failed or not needed."""
    data = {"step": step.id, "said": word, "note": note}
    return _entry(run, "said", at, f"step {step.id}: {by} says {word}{f': {note}' if note else ''}", data, by)


def what(step: Step, move: Move) -> str:
    """What a move is about, in a few words."""
    if move.part in (Part.BACK_PLAN, Part.BACK) and step.rollback is not None:
        return step.rollback.action
    if move.part is Part.VERIFY and step.verify is not None:
        return f"{step.verify.call.action} until {step.verify.until}"
    return kind(step)


def kind(step: Step) -> str:
    """What a step does, in a few words."""
    do = step.do
    match do:
        case ActionCall():
            return do.action
        case CaptureCall():
            kept = f"what {', '.join(do.evidence_for)} would destroy"
            return f"capture {do.profile or kept}"
        case IsolateCall():
            return "release" if do.is_back else f"isolate ({do.scope})"
        case Manual():
            return "by hand"
        case Parallel():
            return f"{len(do.steps)} steps at once"


def _entry(
    run: Run, word: str, at: datetime, summary: str, data: Mapping[str, Any], actor: str = "controller", host: str = ""
) -> Entry:
    told = {"run": run.id, **data}
    return Entry(f"runbook.{word}", actor, at, f"{run.id}: {summary}", run.incident_id, run.id, host, told)
