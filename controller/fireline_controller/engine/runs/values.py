"""What is asked of runs and what they tell while they go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fireline_controller.engine.values import Wish
from fireline_controller.runbooks.record import HostEnd, Move, Run


@dataclass(frozen=True)
class RunOrder:
    """A runbook to be run. `params` as an operator types them; `wait_s`: for hosts that others change now.

    `is_confirmed`: the operator says yes to the hosts that the runbook itself names, however many.
    """

    runbook: str
    wish: Wish
    params: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    is_confirmed: bool = False


@dataclass(frozen=True)
class RunSeen:
    """How a run stands; the first news, and one whenever that changes. `note`: what it waits for, and how to go on."""

    run: Run
    note: str = ""


@dataclass(frozen=True)
class MoveBegun:
    """A move is on record and is made now."""

    move: Move
    words: str
    at: datetime


@dataclass(frozen=True)
class HostDoing:
    """What a host does for a step."""

    step: str
    host: str
    doing: str


@dataclass(frozen=True)
class MoveEnded:
    """What came of a move. `can_go_back`: a rollback would take back something of it."""

    move: Move
    words: str
    ends: tuple[HostEnd, ...]
    at: datetime
    is_over: bool = True
    can_go_back: bool = False


@dataclass(frozen=True)
class RunShown:
    """A run with its moves; those at work have no ends. `request_id`: of the approval that it waits for."""

    run: Run
    note: str
    moves: tuple[MoveEnded, ...]
    request_id: str = ""


RunNews = RunSeen | MoveBegun | HostDoing | MoveEnded


@dataclass(frozen=True)
class PlannedHost:
    """What a step would do on a host, as far as that is known now. `outcome`: of the question."""

    host: str
    outcome: str
    effect: str


@dataclass(frozen=True)
class PlannedStep:
    """One step of a run that was only looked at.

    Attributes:
        step, title, does: which, and what.
        risk: of its action; empty where it has none.
        hosts: folded, on which it would be done as far as is known; `open_hosts`: that is decided when it comes up.
        when: its condition.
        approval: who would have to agree; empty: nobody.
        on_failure, rollback: what then, in words.
        effects: of each host.
    """

    step: str
    title: str
    does: str
    risk: str
    hosts: str
    open_hosts: str
    when: str
    approval: str
    on_failure: str
    rollback: str
    effects: tuple[PlannedHost, ...] = ()


@dataclass(frozen=True)
class RunPlan:
    """A whole run before anything happens."""

    runbook: str
    version: int
    sha256: str
    hosts: str
    steps: tuple[PlannedStep, ...]
    problems: tuple[str, ...] = ()
