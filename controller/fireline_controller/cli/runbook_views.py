"""A runbook for a person or a program: as a row, whole, and as a document with stable keys."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from fireline_controller.cli import output
from fireline_controller.runbooks.examined import Known
from fireline_controller.runbooks.loading import Source
from fireline_controller.runbooks.model import (
    ActionCall,
    CaptureCall,
    IsolateCall,
    Manual,
    OnFailure,
    Parallel,
    Runbook,
    Step,
    Targets,
)
from fireline_controller.runbooks.scopes import flat
from fireline_wire.actions import Kind, Risk

_UNITS: Final[Mapping[Kind, Mapping[str, int]]] = {
    Kind.DURATION: {"d": 86400, "h": 3600, "m": 60, "s": 1},
    Kind.SIZE: {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1},
}
LIST_COLUMNS = ("RUNBOOK", "VERSION", "SEVERITY", "STEPS", "RISK", "FROM", "WHAT")


def row(source: Source, runbook: Runbook | str, known: Known) -> tuple[str, ...]:
    """A runbook as a row of the list; one that is wrong has no more than its name."""
    if isinstance(runbook, str):
        return source.name, "", "", "", "", _origin(source), "wrong"
    return (
        source.name,
        str(runbook.version),
        ",".join(runbook.severities),
        str(sum(1 for _ in flat((*runbook.steps, *runbook.finally_)))),
        worst(runbook, known),
        _origin(source),
        runbook.summary,
    )


def listed(source: Source, runbook: Runbook | str, known: Known) -> dict[str, Any]:
    """A runbook in the list's document."""
    if isinstance(runbook, str):
        return {"runbook": source.name, "from": _origin(source), "problems": runbook.splitlines()}
    return {
        "runbook": source.name,
        "version": runbook.version,
        "summary": runbook.summary,
        "severity": list(runbook.severities),
        "risk": worst(runbook, known),
        "sha256": runbook.sha256,
        "from": _origin(source),
        "problems": [],
    }


def document(source: Source, runbook: Runbook, known: Known) -> dict[str, Any]:
    """The whole runbook with its stable keys."""
    return listed(source, runbook, known) | {
        "owner": runbook.owner,
        "reviewed": runbook.reviewed,
        "alerts": list(runbook.alerts),
        "findings": list(runbook.findings),
        "areas": list(runbook.areas),
        "params": [asdict(p) for p in runbook.params],
        "targets": asdict(runbook.targets),
        "preconditions": list(runbook.preconditions),
        "steps": [_step(step, known) for step in runbook.steps],
        "finally": [_step(step, known) for step in runbook.finally_],
    }


def print_whole(source: Source, runbook: Runbook, known: Known) -> None:
    """Header, parameters and steps."""
    print(f"{runbook.name}  version {runbook.version}  {_origin(source)}  sha256 {runbook.sha256[:16]}")
    print(output.printable(runbook.summary))
    if limits := _limits(runbook.targets):
        print(f"hosts: {output.printable(limits)}")
    if runbook.params:
        print()
        output.table(
            ("PARAMETER", "TYPE", "DEFAULT", "MEANING"),
            [
                (p.name, p.kind, "required" if p.is_required else shown(p.kind, p.default), p.summary)
                for p in runbook.params
            ],
        )
    print()
    columns = ("STEP", "DOES", "RISK", "ONLY WHEN", "APPROVAL", "IF IT FAILS", "WHAT FOR")
    ends = [(f"finally: {cells[0]}", *cells[1:]) for cells in _rows(runbook.finally_, known)]
    output.table(columns, [*_rows(runbook.steps, known), *ends])


def worst(runbook: Runbook, known: Known) -> str:
    """The gravest risk of any step."""
    order = list(Risk)
    found = [_risk(step, known) for step in flat((*runbook.steps, *runbook.finally_))]
    return max((r for r in found if r), key=lambda r: order.index(Risk(r)), default="")


def does(step: Step) -> str:
    """What a step does, in a few words."""
    if isinstance(step.do, ActionCall):
        return step.do.action
    if isinstance(step.do, CaptureCall):
        what = step.do.profile or f"what {', '.join(step.do.evidence_for)} would destroy"
        return f"capture {what}{' (required)' if step.is_required else ''}"
    if isinstance(step.do, IsolateCall):
        return f"{'release' if step.do.is_back else 'isolate'} {step.do.scope}"
    if isinstance(step.do, Manual):
        return f"by hand{f' ({step.do.role})' if step.do.role else ''}"
    return f"at the same time, {step.do.limit} at most"


def _rows(steps: tuple[Step, ...], known: Known, indent: str = "") -> Iterator[tuple[str, ...]]:
    for step in steps:
        asked = step.approval
        approval = f"{asked.count} of {', '.join(asked.operators) or 'the others'}" if asked else ""
        after = f"go to {step.goto}" if step.on_failure is OnFailure.GOTO else str(step.on_failure)
        yield indent + step.id, does(step), _risk(step, known), step.when, approval, after, step.title
        if isinstance(step.do, Parallel):
            yield from _rows(step.do.steps, known, indent + "  ")


def _risk(step: Step, known: Known) -> str:
    if isinstance(step.do, IsolateCall):
        return Risk.DISRUPTIVE
    spec = known.catalogue.get(step.do.action) if isinstance(step.do, ActionCall) else None
    return str(spec.risk) if spec else ""


def _step(step: Step, known: Known) -> dict[str, Any]:
    found = asdict(step) | {"does": does(step), "risk": _risk(step, known)}
    if isinstance(step.do, Parallel):
        found["do"] = {"limit": step.do.limit, "steps": [_step(member, known) for member in step.do.steps]}
    return found


def _limits(targets: Targets) -> str:
    parts = {
        targets.select: targets.select,
        f"at most {targets.most}": targets.most,
        f"{targets.canary} first and alone": targets.canary,
        f"then {targets.batch} at a time": targets.batch,
        f"stops when more than {targets.max_fail} failed": targets.max_fail,
    }
    return ", ".join(text for text, value in parts.items() if value)


def shown(kind: Kind, value: Any) -> str:
    """A value as a person would type it: 10m, 2GiB, yes, a list with commas."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    for unit, size in _UNITS.get(kind, {}).items():
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value) or "none"


def _origin(source: Source) -> str:
    return "built in" if source.is_built_in else "yours"
