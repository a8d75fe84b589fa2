"""What the journal says of an operation: the intent, each host that is not ok, and the end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fireline_controller import fanout
from fireline_controller.model import Entry, HostOutcome, Operation, Outcome
from fireline_controller.profiles import Profile


@dataclass(frozen=True)
class End:
    """How an operation ended. `word` is what the journal calls that: finished, interrupted."""

    at: datetime
    duration_ms: int
    still_running: tuple[str, ...] = ()
    word: str = "finished"


def counts(outcomes: Sequence[HostOutcome]) -> Mapping[str, int]:
    """How many hosts ended how."""
    return dict(sorted(Counter(str(o.outcome) for o in outcomes).items()))


def intent(
    operation: Operation, limits: fanout.Limits, profile: Profile | None, parameters: Mapping[str, Any]
) -> Entry:
    """What will be done, on record before the first host is called (I6); of a capture, also what its profile holds."""
    content = {"profile_sha256": profile.sha256, "params": profile.params} if profile else parameters
    count = len(operation.target.hosts)
    return replace(
        _of(operation),
        kind=f"{operation.kind}.ordered",
        actor=operation.operator,
        summary=f"{operation.kind} of {count} host{'s' * (count != 1)}: {operation.target.folded}",
        data={
            "reason": operation.reason,
            "profile": operation.profile,
            "retry_of": operation.retry_of,
            "target": operation.target.spelled,
            "hosts": operation.target.folded,
            "target_sha256": operation.target.sha256,
            "concurrency": limits.concurrency,
            "host_deadline_ms": round(limits.host_deadline_s * 1000),
            **content,
        },
    )


def end(operation: Operation, outcomes: Sequence[HostOutcome], how: End) -> list[Entry]:
    """One entry for each host that is not ok, for the others have theirs since the seal, and one for the whole."""
    common = replace(_of(operation), at=how.at)
    entries = [
        replace(
            common,
            kind=f"{operation.kind}.outcome",
            host=o.host,
            summary=f"{o.outcome}: {o.detail}",
            data={
                "outcome": str(o.outcome),
                "reason": o.reason,
                "duration_ms": o.duration_ms,
                "evidence": o.evidence_id,
            },
        )
        for o in outcomes
        if o.outcome is not Outcome.OK
    ]
    totals = counts(outcomes)
    summary = f"{how.word}: " + ", ".join(f"{n} {name}" for name, n in totals.items())
    data = {"counts": totals, "duration_ms": how.duration_ms, "still_running": list(how.still_running)}
    return [*entries, replace(common, kind=f"{operation.kind}.{how.word}", summary=summary, data=data)]


def _of(operation: Operation) -> Entry:
    return Entry(
        kind=operation.kind,
        actor="controller",
        at=operation.started_at,
        summary="",
        incident_id=operation.incident_id,
        operation_id=operation.id,
    )
