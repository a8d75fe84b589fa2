"""How an operation's end gets on record, by the process that ran it or by another one after that was killed."""

from collections.abc import Sequence
from datetime import datetime

from fireline_controller.engine import entries
from fireline_controller.isolation import Phase
from fireline_controller.model import Evidence, HostOutcome, Operation, Outcome
from fireline_controller.store import Transaction


def lineage(tx: Transaction, operation: Operation) -> tuple[Operation, ...]:
    """The operations that this one retries: its prior one, that one's prior one, and so on."""
    found: list[Operation] = []
    while operation.retry_of:
        operation = tx.operation(operation.retry_of)
        found.append(operation)
    return tuple(found)


def finish(tx: Transaction, operation: Operation, outcomes: Sequence[HostOutcome], how: entries.End) -> None:
    """Put the end of an operation on record: one outcome for each host (I1)."""
    ordered = sorted(outcomes, key=lambda o: o.host)
    tx.finish_operation(operation.id, ordered, how.at)
    tx.append(*entries.end(operation, ordered, how))
    tx.release_locks(operation.id)  # those that it took for itself: a run's are the run's
    tx.checkpoint()


def settle(tx: Transaction, operation_id: str, now: datetime) -> bool:
    """End an operation that lost its process; false when it had ended before, or never began."""
    operation = next((o for o in tx.operations(unfinished=True) if o.id == operation_id), None)
    if operation is None:
        return False
    family = {operation.id, *(o.id for o in lineage(tx, operation))}
    outcomes = [_left(tx, operation, family, name) for name in operation.target.hosts]
    duration_ms = round((now - operation.started_at).total_seconds() * 1000)
    finish(tx, operation, outcomes, entries.End(now, duration_ms, word="interrupted"))
    return True


def _left(tx: Transaction, operation: Operation, family: set[str], host: str) -> HostOutcome:
    """How far a host had come when the process ended: what is sealed is sealed, what stands stands."""
    if operation.kind in ("isolate", "release"):
        return _cut_off(tx, operation, host)
    for evidence in tx.evidence_list(host=host):
        if evidence.operation_id in family and _counts(evidence, operation):
            return _sealed(evidence, operation)
    if operation.kind in ("remediate", "undo"):
        detail = (
            "the controller was stopped before this host ended: what is begun goes on there and is remembered; what"
            f" became of it: --retry-of {operation.id}"
        )
        return HostOutcome(host, Outcome.UNREACHABLE, detail, "controller_stopped")
    again = f"; take it up again: --retry-of {operation.id}" if operation.kind == "capture" else ""
    detail = f"the controller was stopped before this host ended{again}"
    return HostOutcome(host, Outcome.UNREACHABLE, detail, "controller_stopped")


def _cut_off(tx: Transaction, operation: Operation, host: str) -> HostOutcome:
    for isolation in tx.isolations(set(Phase), host):
        if operation.kind == "isolate" and isolation.operation_id == operation.id:
            if isolation.phase is Phase.COMMITTED:
                return HostOutcome(host, Outcome.OK, f"isolated before the controller was stopped: {isolation.proof}")
            if isolation.phase is Phase.ARMING:
                detail = (
                    "the controller was stopped in the middle: unless it was committed, its kernel lets the host back"
                    f" within {isolation.lease_s} s; see `fireline isolation status`"
                )
                return HostOutcome(host, Outcome.UNREACHABLE, detail, "controller_stopped")
    detail = f"the controller was stopped before this host ended; again: --retry-of {operation.id}"
    return HostOutcome(host, Outcome.UNREACHABLE, detail, "controller_stopped")


def _counts(evidence: Evidence, operation: Operation) -> bool:
    """Whether it is this operation's: an incomplete one that was there before is what a retry asks anew for."""
    return not evidence.partial or evidence.sealed_at >= operation.started_at


def _sealed(evidence: Evidence, operation: Operation) -> HostOutcome:
    lacks = f", and something is missing of it: fireline evidence show {evidence.id}" if evidence.partial else ""
    return HostOutcome(
        evidence.host,
        Outcome.FAILED if evidence.partial else Outcome.OK,
        f"sealed before the controller was stopped{lacks}",
        "incomplete" if evidence.partial else "",
        evidence_id=evidence.id,
        partial=evidence.partial,
        artifacts=evidence.artifacts,
        total_bytes=evidence.total_bytes,
        sealed_ms=round((evidence.sealed_at - operation.started_at).total_seconds() * 1000),
    )
