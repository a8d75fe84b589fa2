"""What the engine is asked and what it tells while it works."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fireline_controller.model import HostOutcome, Target
from fireline_wire.isolation import Opening, Scope


@dataclass(frozen=True)
class TargetSpec:
    """A selection of hosts as the operator wrote it; `retry_of` means the hosts of that operation that are not ok."""

    terms: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    retry_of: str = ""


@dataclass(frozen=True)
class Wish:
    """What all fanned-out commands have in common. Zero and empty mean: as configured."""

    operator: str
    target: TargetSpec
    reason: str = ""
    incident_id: str = ""
    confirmed_sha256: str = ""
    max_fail: str = ""
    host_deadline_s: float = 0
    overall_deadline_s: float = 0
    concurrency: int = 0
    # Why it may pass without the approval that it needs; empty: it may not.
    break_glass: str = ""
    # Under which the hosts remember it, so that a repeat gets the first result; empty: the operation's own id.
    request_id: str = ""


@dataclass(frozen=True)
class IsolationWish:
    """How hosts are to be cut off. Zero and empty mean: as configured, or not at all.

    `force`: why the last healthy member of a group may be cut off. `unproved`: why a host stays cut off that nobody
    could prove dark. `hold_s`: how long the order waits for hosts that can't be reached.
    """

    scope: Scope = field(default_factory=lambda: Scope("host"))
    allowances: tuple[Opening, ...] = ()
    lease_s: int = 0
    now: bool = False
    force: str = ""
    unproved: str = ""
    hold_s: float = 0

    def parameters(self) -> dict[str, Any]:
        """All that changes what happens on a host, as JSON values."""
        return {
            "scope": str(self.scope),
            "allow": [str(opening) for opening in self.allowances],
            "lease_s": self.lease_s,
            "now": self.now,
            "force": self.force,
            "unproved": self.unproved,
            "hold_s": round(self.hold_s),
        }


@dataclass(frozen=True)
class Started:
    """The operation is on record; nothing was sent yet. `warning`: what it passed by (approvals that it lacks)."""

    operation_id: str
    incident_id: str
    target: Target
    worst_case: str
    warning: str = ""


@dataclass(frozen=True)
class Progress:
    """What one host is doing."""

    host: str
    doing: str
    total_bytes: int = 0


@dataclass(frozen=True)
class Finished:
    """The last news of an operation. `still_running`: hosts on which work may go on, with what is known."""

    counts: Mapping[str, int]
    duration_ms: int
    still_running: tuple[str, ...]


News = Started | Progress | HostOutcome | Finished
