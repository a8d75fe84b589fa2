"""What the journal says of actions: the intent with the plan's hash before a host is told (I6), and how it ended."""

from collections.abc import Sequence
from datetime import datetime

from fireline_controller.engine.values import Wish
from fireline_controller.model import ActionReport, Entry, Operation


def applying(host: str, operation: Operation, report: ActionReport, at: datetime, fence_token: int) -> Entry:
    """A plan is about to be applied."""
    data = {
        "action": report.action,
        "risk": report.risk,
        "plan_sha256": report.plan_sha256,
        "changes": report.change_count,
        "request": report.request_id,
        "fence_token": fence_token,
    }
    return _entry("action.applying", host, operation, at, f"{report.action} on {host}: {report.summary}", data)


def undoing(host: str, operation: Operation, report: ActionReport, at: datetime, fence_token: int) -> Entry:
    """An application is about to be taken back."""
    data = {"action": report.action, "request": report.request_id, "fence_token": fence_token}
    return _entry("action.undoing", host, operation, at, f"{report.action} on {host} is to be taken back", data)


def ended(host: str, operation: Operation, report: ActionReport, at: datetime, *, status: str, detail: str) -> Entry:
    """What became of it on the host, by the host's own word."""
    kind = "action.undone" if operation.kind == "undo" else "action.applied"
    data = {
        "action": report.action,
        "plan_sha256": report.plan_sha256,
        "status": status,
        "changes_done": report.changes_done,
        "changes": report.change_count,
        "verified": report.verified,
        "in_doubt": list(report.in_doubt),
        "request": report.request_id,
    }
    return _entry(kind, host, operation, at, f"{report.action} on {host}: {status}: {detail}", data)


def without_evidence(wish: Wish, action: str, hosts: Sequence[str], why: str, at: datetime) -> Entry:
    """What no sealed evidence keeps may be destroyed, on the operator's word (I3)."""
    summary = f"{wish.operator} lets {action} destroy what no sealed evidence keeps: {why}"
    data = {"action": action, "hosts": list(hosts), "reason": why}
    return Entry("action.without_evidence", wish.operator, at, summary, incident_id=wish.incident_id, data=data)


def _entry(kind: str, host: str, operation: Operation, at: datetime, summary: str, data: dict[str, object]) -> Entry:
    return Entry(
        kind=kind,
        actor=operation.operator,
        at=at,
        summary=summary,
        incident_id=operation.incident_id,
        operation_id=operation.id,
        host=host,
        data={"reason": operation.reason, **data},
    )
