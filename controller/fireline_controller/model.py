"""The values that cross the controller's rooms, and the tree of its errors. No wire, no database, no clock.

FirelineError
├── HostError            one host; carries the outcome that it makes, and whether a retry can help
│   ├── Unreachable      no authenticated connection (reason says which: refused, no_answer, tls_expired, …)
│   ├── TimedOut         reached, but not done in time
│   ├── Denied           the host refused: role, policy, deny-list
│   └── HostFailed       the host answered that it failed, or what it sent does not verify
├── ControllerExhausted  the controller itself ran out of something; never a host's outcome
├── EvidenceError        evidence is missing, truncated or tampered with
├── JournalError         the journal's chain or its signatures do not hold
├── StoreError           the store, the vault or the state folder can't be read or written
├── PolicyError          refused: an unconfirmed wide target, a token, a name
├── TargetError          the target does not parse
├── EmptyTarget          the target matches nothing
├── NotFound             the thing named is not known
└── ConfigError          the configuration is wrong; names the key and the nearest right one
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How one host of an operation ended; exactly one each (I1)."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Severity(StrEnum):
    """P1 (complete outage) to P5 (no immediate impact)."""

    P1 = "P1"
    P2 = "P2"
    P3 = "P3"
    P4 = "P4"
    P5 = "P5"


class FirelineError(Exception):
    """The root of all that Fireline itself raises. `reason` is an ErrorReason's name in lower case."""

    reason = "internal"


class HostError(FirelineError):
    """Something about one host. `reason` says which kind, in one word that a program can match."""

    outcome = Outcome.FAILED

    def __init__(self, message: str, *, reason: str, retry_helps: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_helps = retry_helps


class Unreachable(HostError):
    """No authenticated connection came about, or it broke and did not come back."""

    outcome = Outcome.UNREACHABLE


class TimedOut(HostError):
    """The host was reached and did not end in time."""

    outcome = Outcome.TIMED_OUT


class Denied(HostError):
    """The host refused the command, or its certificate was refused."""

    outcome = Outcome.DENIED


class HostFailed(HostError):
    """The host answered that it failed, or sent what does not verify."""

    outcome = Outcome.FAILED


class ControllerExhausted(FirelineError):
    """The controller ran out of file descriptors: its own failure, never a host's outcome."""

    reason = "file_descriptors"


class EvidenceError(FirelineError):
    """Evidence is missing, truncated or tampered with; the message names what."""

    reason = "tampered"


class JournalError(FirelineError):
    """The journal's chain or signatures do not hold; the message names the line."""

    reason = "tampered"


class StoreError(FirelineError):
    """The store, the vault or the state folder can't be read or written."""

    reason = "store_failed"


class PolicyError(FirelineError):
    """Refused; `reason` is the ErrorReason's name in lower case."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TargetError(FirelineError):
    """A target or selector does not parse."""

    reason = "invalid_request"


class EmptyTarget(FirelineError):
    """A target that matches no host (I10)."""

    reason = "empty_target"


class NotFound(FirelineError):
    """The thing named is not known."""

    reason = "not_found"


class ConfigError(FirelineError):
    """The configuration is wrong."""

    reason = "invalid_request"


@dataclass(frozen=True)
class Host:
    """A machine in the fleet, as the controller knows it. Times are aware UTC."""

    name: str
    address: str
    labels: Mapping[str, str]
    generation: int
    enrolled_at: datetime
    certificate_serial: str
    certificate_not_after: datetime
    removed: bool = False


@dataclass(frozen=True)
class Certificate:
    """A certificate that the authority issued. `key_id` is the id of its key in DSSE envelopes."""

    serial: str
    identity: str
    generation: int
    key_id: str
    pem: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True)
class Token:
    """A one-time enrolment token, known by the SHA-256 of its secret."""

    secret_sha256: str
    host: str
    labels: Mapping[str, str]
    created_by: str
    expires_at: datetime
    spent_at: datetime | None = None


@dataclass(frozen=True)
class Target:
    """A selection of hosts, resolved and frozen: the sorted names and the SHA-256 over them, one a line."""

    hosts: tuple[str, ...]
    sha256: str
    folded: str
    spelled: str


@dataclass(frozen=True)
class Finding:
    """Something on a host that stands out; never a verdict."""

    severity: str
    code: str
    subject: str
    summary: str
    collector: str
    host: str


@dataclass(frozen=True)
class IsolationTimes:
    """How long a host's isolation took, milliseconds from the command; 0 where it did not come so far.

    `applied_us`: the one transaction, by the host's own clock. `code_hint`: how to get the code for the console.
    """

    captured_ms: int = 0
    armed_ms: int = 0
    confirmed_ms: int = 0
    proved_ms: int = 0
    committed_ms: int = 0
    applied_us: int = 0
    sockets_killed: int = 0
    witnesses: tuple[str, ...] = ()
    code_hint: str = ""


@dataclass(frozen=True)
class ActionChange:
    """One thing that applying a plan changes, as the host tells it; `does` is for a person."""

    kind: str
    subject: str
    does: str
    size_bytes: int = 0


@dataclass(frozen=True)
class ActionReport:
    """What is known of an action on one host: its plan, and how applying it or taking it back ended.

    Attributes:
        action, params: what was asked; the parameters as the operator gave them.
        request_id: under which the host knows the application, for an undo.
        risk: `read`, `reversible`, `disruptive` or `destructive`.
        changes: the first of `change_count`; none means that there is nothing to do.
        changes_done, verified: of an application: how far it came, and how it is known that it helped.
        result: JSON values, named by the action's specification; `truncated` names lists that were cut.
        in_doubt: subjects that may have been changed, or could not be taken back.
    """

    action: str
    params: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""
    plan_sha256: str = ""
    risk: str = ""
    summary: str = ""
    changes: tuple[ActionChange, ...] = ()
    change_count: int = 0
    total_bytes: int = 0
    warnings: tuple[str, ...] = ()
    changes_done: int = 0
    verified: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    can_undo: bool = False
    in_doubt: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostOutcome:
    """How one host of an operation ended, with what it yielded."""

    host: str
    outcome: Outcome
    detail: str = ""
    reason: str = ""
    duration_ms: int = 0
    evidence_id: str = ""
    partial: bool = False
    artifacts: int = 0
    total_bytes: int = 0
    resent_bytes: int = 0
    deduplicated_bytes: int = 0
    sealed_ms: int = 0
    findings: tuple[Finding, ...] = ()
    isolation: IsolationTimes | None = None
    action: ActionReport | None = None

    def but(self, **changed: Any) -> "HostOutcome":
        """The same with these fields changed.

        For a thousand hosts at once: a frozen dataclass sets each of its fields by a call, with `replace` twice.
        """
        made = object.__new__(HostOutcome)
        made.__dict__.update(self.__dict__, **changed)
        return made


@dataclass(frozen=True)
class Operation:
    """One command fanned out to a frozen target. `outcomes` is empty while it runs; `profile` is set for captures."""

    id: str
    kind: str
    incident_id: str
    operator: str
    reason: str
    target: Target
    started_at: datetime
    finished_at: datetime | None = None
    outcomes: tuple[HostOutcome, ...] = ()
    profile: str = ""
    retry_of: str = ""


@dataclass(frozen=True)
class Incident:
    """An incident's head; the rest is in the journal."""

    id: str
    severity: Severity
    title: str
    phase: str
    opened_at: datetime
    opened_by: str
    target: str


@dataclass(frozen=True)
class Evidence:
    """Sealed evidence of one host and one operation. The id is `ev-` and the first 16 digits of the manifest's hash.

    `partial`: something that was ordered is missing, because it was cut short or a collector failed.
    """

    id: str
    host: str
    incident_id: str
    operation_id: str
    profile: str
    sealed_at: datetime
    artifacts: int
    total_bytes: int
    partial: bool
    manifest_sha256: str
    manifest_bytes: int
    receipt: bytes = b""
    # Leaf and authority, PEM, of the host whose key signed, as they were at the time.
    host_chain_pem: str = ""


@dataclass(frozen=True)
class ChunkPlace:
    """Where the vault keeps a chunk: a record in a pack file."""

    sha256: str
    pack: str
    offset: int
    stored_bytes: int
    raw_bytes: int


@dataclass(frozen=True)
class Entry:
    """What is to be journaled; the journal adds number, chain and hash. `data` holds JSON values only."""

    kind: str
    actor: str
    at: datetime
    summary: str
    incident_id: str = ""
    operation_id: str = ""
    host: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of the journal: the entry, its number from 1, its canonical bytes (RFC 8785) and their SHA-256."""

    seq: int
    entry: Entry
    canonical: bytes
    hash: str


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement that the journal's line `seq` has this hash (a DSSE envelope)."""

    seq: int
    hash: str
    envelope: bytes
