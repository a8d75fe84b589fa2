"""A runbook as values, once it was read and found right. Expressions are CEL, kept as text; see `expressions`.

Variables of an expression: `params`; `incident` (id, severity, title); `host` (name, labels) and `steps.ID` (outcome,
result, of this host) where it is evaluated for each host; `fleet.ID` (ok, not_ok, total: hosts) where for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fireline_wire.actions import Parameter


class OnFailure(StrEnum):
    """What a run does when a step did not succeed on more hosts than `max_fail` allows."""

    ABORT = "abort"
    CONTINUE = "continue"
    ROLLBACK = "rollback"
    GOTO = "goto"


@dataclass(frozen=True)
class Targets:
    """On which hosts, and how many at a time.

    Attributes:
        select: a target as on the command line (`role=db,env!=dev`); empty: what the run was started with.
        most: more hosts than this are refused; 0: no bound.
        batch: hosts at a time, as `5` or `25%`; empty: all at once.
        canary: hosts that go first and alone; the rest follow only where all of them succeeded.
        max_fail: as `0`, `2` or `10%`: more failed hosts than this stop what was not started yet.
    """

    select: str = ""
    most: int = 0
    batch: str = ""
    canary: int = 0
    max_fail: str = "0"


@dataclass(frozen=True)
class ActionCall:
    """An action with its parameters; a text of the form `${EXPRESSION}` stands for the expression's value."""

    action: str
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CaptureCall:
    """Collect and seal on every host of the step: a profile, or what later steps would destroy.

    Attributes:
        evidence_for: those steps; the collectors are the `evidence` of their actions, each told the step's parameters.
        given: what collectors of the profile are told besides, by `COLLECTOR.NAME`; `${EXPRESSION}` as in an action.
    """

    profile: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    evidence_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class IsolateCall:
    """Cut every host of the step off. `is_back`: let them back instead."""

    is_back: bool = False
    scope: str = "host"


@dataclass(frozen=True)
class Manual:
    """Something that a person does and says done, failed or not needed, with a note."""

    instructions: str
    role: str = ""


@dataclass(frozen=True)
class Parallel:
    """Steps that may run at the same time; each counts as a step of the run."""

    steps: tuple["Step", ...]
    limit: int = 10


Do = ActionCall | CaptureCall | IsolateCall | Manual | Parallel


@dataclass(frozen=True)
class Approval:
    """Others who must agree before the step. Never the one who started the run.

    `operators`: whose word counts; empty: any other operator's.
    """

    count: int = 1
    operators: tuple[str, ...] = ()
    timeout_s: int = 300


@dataclass(frozen=True)
class Retry:
    """Hosts that failed are tried again, up to so many times in all; `backoff_s` doubles."""

    attempts: int = 1
    backoff_s: float = 2.0


@dataclass(frozen=True)
class Until:
    """A reading action that is asked again until an expression over its `result` is true on every host."""

    call: ActionCall
    until: str
    within_s: int
    every_s: float = 2.0


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        id: unique in the runbook.
        do: what is done.
        title: for people; empty: made from `do`.
        when: expression; hosts for which it is false are skipped.
        timeout_s: of the whole step; required for all but captures, which bring theirs.
        is_required: what is destroyed later relies on this step (captures).
        targets: other than the runbook's.
        approval: who must agree first.
        retry: of failed hosts only.
        verify: what must become true after.
        on_failure: what then; `goto` names the step where it is GOTO.
        rollback: how the step is taken back; None: by the action's own undo where it has one.
        no_way_back: why it can't be taken back, where the runbook says so; a rollback tells it and goes on.
        line, column: where it stands in the file, from 1.
    """

    id: str
    do: Do
    title: str = ""
    when: str = ""
    timeout_s: int = 0
    is_required: bool = False
    targets: Targets | None = None
    approval: Approval | None = None
    retry: Retry = Retry()
    verify: Until | None = None
    on_failure: OnFailure = OnFailure.ABORT
    goto: str = ""
    rollback: ActionCall | None = None
    no_way_back: str = ""
    line: int = 0
    column: int = 0


@dataclass(frozen=True)
class Runbook:
    """A whole runbook. `sha256` is over the bytes of its file: a run is pinned to it.

    `severities`, `alerts`, `findings` and `areas` (of the service: `database`, `storage`, …) are for suggestions.
    """

    name: str
    version: int
    summary: str
    sha256: str
    steps: tuple[Step, ...]
    finally_: tuple[Step, ...] = ()
    params: tuple[Parameter, ...] = ()
    targets: Targets = Targets()
    preconditions: tuple[str, ...] = ()
    owner: str = ""
    severities: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    reviewed: str = ""
