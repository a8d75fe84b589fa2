"""A runbook as a CACAO Security Playbook, version 2.0 (OASIS CS01, 2023-11-27): the one standard that others read.

The standard has no rollback, no approval, no batches and no typed conditions: those stand in an extension of every
step, and `fireline` commands are what an orchestrator is to run. One way only: playbooks are not read back.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID, uuid5

from fireline_controller.runbooks import expressions
from fireline_controller.runbooks.model import (
    ActionCall,
    CaptureCall,
    IsolateCall,
    Manual,
    OnFailure,
    Parallel,
    Runbook,
    Step,
)
from fireline_wire.actions import ActionSpec, Kind, Risk

# Every id is derived from it, so that the same runbook is the same playbook everywhere.
_NAMESPACE: Final = UUID("7c1f3f0e-3a52-5d0c-9d7e-0f5e1b6a2c41")
_EXTENSION: Final = f"extension-definition--{uuid5(_NAMESPACE, 'extension')}"
_AUTHOR: Final = f"identity--{uuid5(_NAMESPACE, 'author')}"
_CONTROLLER: Final = f"security-category--{uuid5(_NAMESPACE, 'controller')}"
_PEOPLE: Final = f"group--{uuid5(_NAMESPACE, 'people')}"
_UNDATED: Final = "2026-01-01"  # of a runbook that nobody has reviewed; the standard wants a time
_SEVERITY: Final = {"P1": 100, "P2": 80, "P3": 60, "P4": 40, "P5": 20}
_IMPACT: Final = {Risk.READ: 1, Risk.REVERSIBLE: 30, Risk.DISRUPTIVE: 60, Risk.DESTRUCTIVE: 90}
_VARIABLES: Final = {
    Kind.INT: "integer",
    Kind.DURATION: "integer",
    Kind.SIZE: "long",
    Kind.NUMBER: "float",
    Kind.BOOL: "bool",
}
_PARAM: Final = "params."
_TARGET: Final = "__target__:value"


def playbook(runbook: Runbook, catalogue: Mapping[str, ActionSpec]) -> dict[str, Any]:
    """The runbook as a playbook, as JSON values; the same for the same runbook."""
    workflow = _Workflow(runbook, catalogue)
    steps = workflow.steps()
    commands = [c for step in steps.values() for c in step.get("commands", ())]
    at = f"{runbook.reviewed or _UNDATED}T00:00:00.000Z"
    return {
        "type": "playbook",
        "spec_version": "cacao-2.0",
        "id": f"playbook--{uuid5(_NAMESPACE, runbook.name)}",
        "name": runbook.name,
        "description": runbook.summary,
        "playbook_types": ["remediation"],
        "playbook_activities": sorted({c["playbook_activity"] for c in commands}),
        "created_by": _AUTHOR,
        "created": min(at, f"{_UNDATED}T00:00:00.000Z"),
        "modified": at,
        "severity": max((_SEVERITY[s] for s in runbook.severities), default=0),
        "impact": max(workflow.impacts(), default=0),
        "labels": ["fireline", f"version-{runbook.version}", f"sha256-{runbook.sha256}"],
        "playbook_variables": {
            "__target__": _variable(Kind.TEXT, "on which hosts", runbook.targets.select or None),
            **{f"__{p.name}__": _variable(p.kind, p.summary, p.default) for p in runbook.params},
        },
        "workflow_start": workflow.start,
        "workflow_exception": workflow.after_failure,
        "workflow": steps,
        "agent_definitions": {
            _CONTROLLER: {"type": "security-category", "name": "Fireline controller", "category": ["orchestrator"]},
            _PEOPLE: {"type": "group", "name": "Incident responders"},
        },
        "extension_definitions": {
            _EXTENSION: {
                "type": "extension-definition",
                "name": "Fireline step",
                "created_by": _AUTHOR,
                "schema": "The step's keys as in a Fireline runbook: when, approval, retry, verify, rollback, targets.",
                "version": "1.0.0",
            }
        },
    }


def _variable(kind: Kind, summary: str, default: Any) -> dict[str, Any]:
    value = None if default is None else ",".join(default) if isinstance(default, list) else str(default)
    return {
        "type": _VARIABLES.get(kind, "string"),
        "description": summary,
        "value": value,
        "constant": False,
        "external": True,
    }


class _Workflow:
    """The steps of one playbook, by their ids."""

    def __init__(self, runbook: Runbook, catalogue: Mapping[str, ActionSpec]) -> None:
        self._runbook = runbook
        self._catalogue = catalogue
        self.start = self._id("start", "start")
        self._end = self._id("end", "end")
        ends = [self._of(step) for step in runbook.finally_]
        # Where a failure goes on: to what is done in any case, or to the end.
        self.after_failure = (*ends, self._end)[0]

    def steps(self) -> dict[str, Any]:
        """Every step of the workflow."""
        every = (*self._runbook.steps, *self._runbook.finally_)
        following = [*map(self._of, every[1:]), self._end]
        found: dict[str, Any] = {self.start: {"type": "start", "on_completion": self._of(every[0])}}
        for step, then in zip(every, following, strict=True):
            found |= self._step(step, then)
        return found | {self._end: {"type": "end"}}

    def impacts(self) -> Iterator[int]:
        """How much each action may cost."""
        for call in (s.do for s in _leaves(self._runbook.steps)):
            spec = self._catalogue.get(call.action) if isinstance(call, ActionCall) else None
            if spec:
                yield _IMPACT[spec.risk]

    def _id(self, kind: str, name: str) -> str:
        return f"{kind}--{uuid5(_NAMESPACE, f'{self._runbook.name}/{kind}/{name}')}"

    def _of(self, step: Step) -> str:
        kind = "parallel" if isinstance(step.do, Parallel) and len(step.do.steps) > 1 else "action"
        return self._id(kind, _leaves([step])[0].id if kind == "action" else step.id)

    def _step(self, step: Step, then: str) -> dict[str, Any]:
        if not isinstance(step.do, Parallel):
            return {self._of(step): self._action(step, then)}
        if len(step.do.steps) == 1:
            return self._step(step.do.steps[0], then)
        found: dict[str, Any] = {
            self._of(step): {
                "type": "parallel",
                "name": step.title or step.id,
                "next_steps": [self._of(member) for member in step.do.steps],
                "on_completion": then,
            }
        }
        for member in step.do.steps:  # each branch has an end of its own (section 4.8)
            end = self._id("end", member.id)
            found |= self._step(member, end) | {end: {"type": "end"}}
        return found

    def _action(self, step: Step, then: str) -> dict[str, Any]:
        timeout = {"timeout": step.timeout_s * 1000} if step.timeout_s else {}
        return {
            "type": "action",
            "name": step.title or step.id,
            **self._onwards(step, then),
            **timeout,
            "commands": [self._command(step)],
            "agent": _PEOPLE if isinstance(step.do, Manual) else _CONTROLLER,
            "step_extensions": {_EXTENSION: _extension(step)},
        }

    def _onwards(self, step: Step, then: str) -> dict[str, str]:
        if step.on_failure is OnFailure.CONTINUE:
            return {"on_completion": then}
        if step.on_failure is OnFailure.GOTO:
            target = next(s for s in self._runbook.steps if s.id == step.goto)
            return {"on_success": then, "on_failure": self._of(target)}
        return {"on_success": then}  # a failure is an exception: `workflow_exception`

    def _command(self, step: Step) -> dict[str, str]:
        if isinstance(step.do, Manual):
            return {"type": "manual", "command": step.do.instructions, "playbook_activity": "restore-capabilities"}
        command = " ".join(part if part == _TARGET else shlex.quote(part) for part in _words(step))
        return {"type": "bash", "command": command, "playbook_activity": self._activity(step)}

    def _activity(self, step: Step) -> str:
        if isinstance(step.do, IsolateCall):
            return "revert-system" if step.do.is_back else "disconnect-system"
        spec = self._catalogue.get(step.do.action) if isinstance(step.do, ActionCall) else None
        return "scan-system" if spec is None or spec.risk is Risk.READ else "restore-capabilities"


def _leaves(steps: Sequence[Step]) -> list[Step]:
    """The steps that do something themselves."""
    found: list[Step] = []
    for step in steps:
        found += _leaves(step.do.steps) if isinstance(step.do, Parallel) else [step]
    return found


def _words(step: Step) -> Iterator[str]:
    """The command of a step, word by word; a parameter of the runbook is a variable of the playbook."""
    if isinstance(step.do, ActionCall):
        yield from ("fireline", "action", "run", step.do.action, "--target", _TARGET)
        for name, value in step.do.given.items():
            yield from ("-p", f"{name}={_text(value)}")
    elif isinstance(step.do, CaptureCall):
        # What later steps destroy is captured by `fireline action run` itself: there the initial state is enough.
        yield from ("fireline", "capture", "--target", _TARGET, "--profile", step.do.profile or "initial")
    elif isinstance(step.do, IsolateCall):
        yield from ("fireline", "release" if step.do.is_back else "isolate", "--target", _TARGET)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    text = expressions.embedded(value)
    if text is None:
        return str(value).lower() if isinstance(value, bool) else str(value)
    name = text.strip().removeprefix(_PARAM)
    return f"__{name}__:value" if text.strip().startswith(_PARAM) and name.isidentifier() else str(value)


def _extension(step: Step) -> dict[str, Any]:
    """What the standard has no word for, as JSON values."""
    kept = {
        "step_id": step.id,
        "when_true": step.when,
        "required": step.is_required,
        "targets": asdict(step.targets) if step.targets else None,
        "approval": asdict(step.approval) if step.approval else None,
        "retry": asdict(step.retry) if step.retry.attempts > 1 else None,
        "verify": asdict(step.verify) if step.verify else None,
        "rollback": asdict(step.rollback) if step.rollback else step.no_way_back or None,
        "on_failure": str(step.on_failure),
        "evidence_for": list(step.do.evidence_for) if isinstance(step.do, CaptureCall) else None,
    }
    return {key: value for key, value in kept.items() if value}
