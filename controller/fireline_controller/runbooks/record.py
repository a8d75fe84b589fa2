"""What was done in a run, as values: moves, what came of them on each host, and how the run ended.

A run is what its moves left on record; whoever has the record knows what comes next (`course`), also after the process
that made the moves was killed. Leaves to others: keeping the record (store), making the moves (engine).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from fireline_controller.model import Outcome


class RunState(StrEnum):
    """Where a run stands. A run that waits for people waits; one that is parked goes on when it is resumed."""

    RUNNING = "running"
    WAITING = "waiting"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"


ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.ROLLED_BACK})


class RunWish(StrEnum):
    """What an operator wants of a run besides going on."""

    GO_ON = ""
    CANCEL = "cancel"
    ROLL_BACK = "rollback"


class Part(StrEnum):
    """What a move does for its step.

    BEGIN decides on which hosts and with which parameters. PLAN asks each host what an action would do, DO does that.
    UNDO takes an application back; BACK_PLAN and BACK do the step's own rollback.
    """

    BEGIN = "begin"
    APPROVE = "approve"
    MANUAL = "manual"
    PLAN = "plan"
    DO = "do"
    VERIFY = "verify"
    UNDO = "undo"
    BACK_PLAN = "back-plan"
    BACK = "back"


ACTS = frozenset({Part.PLAN, Part.DO, Part.VERIFY})  # what the clock of a step runs for


@dataclass(frozen=True)
class HostEnd:
    """What came of a move on one host; on none (`host` empty) for what people said.

    Attributes:
        host: its name.
        outcome: exactly one (I1).
        detail: one sentence.
        reason: one word for programs.
        result: what an action told, JSON values.
        plan_sha256: of a PLAN, what to apply; empty where there is nothing to do.
        effect: of a PLAN, what it would do, in words; `change_count`: how many changes that are.
        request_id: under which the host knows the application.
        can_undo: the host can take it back, or may be able to: it is not known how far it came.
        is_out_of_time: the step's time was over.
        evidence_id: of a capture.
    """

    host: str
    outcome: Outcome
    detail: str = ""
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    plan_sha256: str = ""
    effect: str = ""
    change_count: int = 0
    request_id: str = ""
    can_undo: bool = False
    is_out_of_time: bool = False
    evidence_id: str = ""


@dataclass(frozen=True)
class Filled:
    """Parameters without expressions, and the hosts that they are for."""

    given: Mapping[str, Any]
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Move:
    """One thing to do next, small enough to be done again after a crash in its middle.

    Attributes:
        step: its step's id.
        part: what it does for it.
        batch: which group of the step's hosts, from 0.
        attempt: from 1.
        hosts: on which.
        filled: of BEGIN, the parameters for each host.
        known: of BEGIN, what is so without doing anything: hosts that are skipped, or that an expression failed on.
        plans: of DO and BACK, the plan of each host; of UNDO, the request to take back.
        delay_s: to be waited before.
    """

    step: str
    part: Part
    batch: int = 0
    attempt: int = 1
    hosts: tuple[str, ...] = ()
    filled: tuple[Filled, ...] = ()
    known: tuple[HostEnd, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0

    @property
    def key(self) -> str:
        """What it is known by within its run."""
        return f"{self.step}/{self.part}/{self.batch}/{self.attempt}"


@dataclass(frozen=True)
class Taken:
    """A move on record, with when it was begun and ended; `ends` is None while it is not known to have ended."""

    move: Move
    since: datetime
    ends: tuple[HostEnd, ...] | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Ended:
    """The run is over."""

    state: RunState
    why: str = ""


@dataclass(frozen=True)
class Run:
    """One durable execution of a runbook.

    Attributes:
        id: `run-` and a number that sorts by time.
        runbook, version, sha256, content: what the run is pinned to, as it was when it began; `content` is the file.
        params: checked, JSON values.
        hosts: the frozen hosts of every target that a step names, sorted; of the run's own under "".
        labels: of each host, as they were then.
        spelled: the run's own target, as the operator wrote it.
        incident_id, operator, reason: for which, by whom, why.
        started_at: aware UTC, like all times here.
        state, why: where it stands, and what made it so.
        wish, wished_by: what operators want of it besides going on.
        position: the steps at work, for people.
        finished_at: None while it has not ended.
        owner: the controller process that drives it; empty: none.
        owned_until: when the owner counts as dead unless it is heard of.
        tenure: how often somebody began to drive it.
    """

    id: str
    runbook: str
    version: int
    sha256: str
    content: bytes
    params: Mapping[str, Any]
    hosts: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Mapping[str, str]]
    spelled: str
    incident_id: str
    operator: str
    reason: str
    started_at: datetime
    state: RunState = RunState.RUNNING
    why: str = ""
    wish: RunWish = RunWish.GO_ON
    wished_by: str = ""
    position: str = ""
    finished_at: datetime | None = None
    owner: str = ""
    owned_until: datetime | None = None
    tenure: int = 0


@dataclass(frozen=True)
class HostLock:
    """Who alone may change a host: a run or an operation, and until when unless it is renewed."""

    host: str
    owner: str
    operator: str
    what: str
    since: datetime
    expires_at: datetime
