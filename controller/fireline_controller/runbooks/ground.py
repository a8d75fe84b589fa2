"""What decisions in a run stand on: its runbook, hosts, values and record, and what expressions see of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fireline_controller.model import Outcome
from fireline_controller.runbooks.filling import Expressions
from fireline_controller.runbooks.model import CaptureCall, Parallel, Runbook, Step, Targets
from fireline_controller.runbooks.record import HostEnd, Move, Part, Taken
from fireline_wire.actions import Risk


@dataclass(frozen=True)
class Ground:
    """What decisions stand on.

    Attributes:
        runbook: the one that the run is pinned to.
        hosts: of each step, frozen when the run began, sorted.
        labels: of each host, as they were then.
        params: of the run.
        incident: id, severity and title; empty texts without one.
        record: every move so far, in the order in which they were begun.
        expressions: of the runbook.
        risk_of: of an action's name.
    """

    runbook: Runbook
    hosts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Mapping[str, str]]
    params: Mapping[str, Any]
    incident: Mapping[str, str]
    expressions: Expressions
    risk_of: Callable[[str], Risk]
    record: tuple[Taken, ...] = ()

    @cached_property
    def steps(self) -> Mapping[str, Step]:
        """Every step of the runbook by its id, in the order of the file."""
        return {step.id: step for step in all_steps(self.runbook)}

    @cached_property
    def required(self) -> tuple[str, ...]:
        """The captures that what is destroyed relies on."""
        return tuple(s.id for s in self.steps.values() if s.is_required and isinstance(s.do, CaptureCall))

    def targets_of(self, step: Step) -> Targets:
        """Its own, or the runbook's."""
        return step.targets or self.runbook.targets

    @cached_property
    def taken(self) -> Mapping[str, Taken]:
        """The record by the moves' keys."""
        return {one.move.key: one for one in self.record}

    def ends(self, step: str, part: Part, batch: int = 0, attempt: int = 1) -> dict[str, HostEnd] | None:
        """What came of a move, by host; None while that is not known."""
        found = self.taken.get(Move(step, part, batch, attempt).key)
        return None if found is None or found.ends is None else {end.host: end for end in found.ends}

    @cached_property
    def outcomes(self) -> Mapping[str, Mapping[str, HostEnd]]:
        """How each host stands in each step that was begun; the latest word counts."""
        found: dict[str, dict[str, HostEnd]] = {}
        for one in self.record:
            if one.move.part not in (Part.UNDO, Part.BACK, Part.BACK_PLAN):
                of_step = found.setdefault(one.move.step, {})
                of_step.update({end.host: _after(of_step.get(end.host), end) for end in _of_hosts(one)})
        return found


def _of_hosts(taken: Taken) -> Iterator[HostEnd]:
    """The end of each host; what a person says of a step by hand is said of all its hosts."""
    for end in taken.ends or ():
        if end.host:
            yield end
        elif taken.move.part is Part.MANUAL:
            yield from (replace(end, host=host) for host in taken.move.hosts)


def _after(before: HostEnd | None, now: HostEnd) -> HostEnd:
    """What a later part says counts; a result that it does not tell anew is kept."""
    if before is None or now.result or not before.result:
        return now
    return replace(now, result=before.result)


def all_steps(runbook: Runbook) -> Iterator[Step]:
    """Every step, those within others too, in the order of the file."""
    for step in (*runbook.steps, *runbook.finally_):
        yield from within(step)


def within(step: Step) -> Iterator[Step]:
    """The step, and those within it."""
    yield step
    if isinstance(step.do, Parallel):
        for inner in step.do.steps:
            yield from within(inner)


def variables(ground: Ground, host: str) -> dict[str, Any]:
    """What an expression can name for a host; for all of them where `host` is empty."""
    nothing: dict[str, Any] = {"outcome": "", "result": {}}
    steps = {step: dict(nothing) for step in ground.steps}
    for step, ends in ground.outcomes.items():
        if host in ends:
            steps[step] = {"outcome": str(ends[host].outcome), "result": dict(ends[host].result)}
    known: dict[str, Any] = {
        "params": dict(ground.params),
        "incident": dict(ground.incident),
        "fleet": {step: _counted(ground.outcomes.get(step, {})) for step in ground.steps},
    }
    if host:
        known |= {"host": {"name": host, "labels": dict(ground.labels.get(host, {}))}, "steps": steps}
    return known


def _counted(ends: Mapping[str, HostEnd]) -> dict[str, int]:
    ok = sum(end.outcome is Outcome.OK for end in ends.values())
    skipped = sum(end.outcome is Outcome.SKIPPED for end in ends.values())
    return {"ok": ok, "not_ok": len(ends) - ok - skipped, "total": len(ends)}


def is_bad(end: HostEnd) -> bool:
    """Whether it counts as failed."""
    return end.outcome not in (Outcome.OK, Outcome.SKIPPED)
