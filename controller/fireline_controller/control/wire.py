"""The one place where the engine's values become messages, and messages values."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from fireline_controller.control import wire_remediation
from fireline_controller.engine import Finished, IncidentView, News, Operator, Progress, Started, TargetSpec, Wish
from fireline_controller.model import ConfigError, Evidence, Finding, Host, HostOutcome, IsolationTimes, Line, Target
from fireline_controller.policy import Approval
from fireline_wire.v1 import common_pb2, control_pb2


def stamp(at: datetime) -> Timestamp:
    """A moment on the wire."""
    moment = Timestamp()
    moment.FromDatetime(at)
    return moment


def target_spec(message: control_pb2.TargetSpec) -> TargetSpec:
    """A selection as the operator wrote it."""
    return TargetSpec(tuple(message.terms), tuple(message.excluded), message.retry_of)


def wish(options: control_pb2.OperationOptions, operator: str) -> Wish:
    """What an operator wants done, under the name in the operator's certificate."""
    return Wish(
        operator=operator,
        target=target_spec(options.target),
        reason=options.reason,
        incident_id=options.incident_id,
        confirmed_sha256=options.confirmed_sha256,
        max_fail=options.max_fail,
        host_deadline_s=options.host_deadline.ToMilliseconds() / 1000,
        overall_deadline_s=options.overall_deadline.ToMilliseconds() / 1000,
        concurrency=options.concurrency,
        break_glass=options.break_glass,
    )


def capture_params(given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of collectors, `COLLECTOR.NAME` to JSON.

    Raises:
        ConfigError: a value is no JSON.
    """
    found = {}
    for name, text in given.items():
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError(f"parameter {name!r}: wanted a JSON value") from None
    return found


def resolved(target: Target, needs_confirmation: bool) -> control_pb2.ResolvedTarget:
    """A frozen target."""
    return control_pb2.ResolvedTarget(
        hosts=target.hosts, sha256=target.sha256, needs_confirmation=needs_confirmation, folded=target.folded
    )


def event(news: News) -> control_pb2.OperationEvent:
    """One piece of news."""
    if isinstance(news, Started):
        started = control_pb2.OperationStarted(
            operation_id=news.operation_id,
            incident_id=news.incident_id,
            target=resolved(news.target, False),
            worst_case=news.worst_case,
            warning=news.warning,
        )
        return control_pb2.OperationEvent(started=started)
    if isinstance(news, Progress):
        progress = control_pb2.OperationProgress(host=news.host, doing=news.doing, total_bytes=news.total_bytes)
        return control_pb2.OperationEvent(progress=progress)
    if isinstance(news, Finished):
        finished = control_pb2.OperationFinished(
            counts=news.counts, duration_ms=news.duration_ms, still_running=news.still_running
        )
        return control_pb2.OperationEvent(finished=finished)
    return control_pb2.OperationEvent(host=_host_outcome(news))


def _host_outcome(outcome: HostOutcome) -> control_pb2.HostOutcome:
    return control_pb2.HostOutcome(
        host=outcome.host,
        outcome=common_pb2.Outcome.Value(f"OUTCOME_{outcome.outcome.upper()}"),
        detail=outcome.detail,
        reason=outcome.reason,
        duration_ms=outcome.duration_ms,
        evidence_id=outcome.evidence_id,
        partial=outcome.partial,
        artifacts=outcome.artifacts,
        total_bytes=outcome.total_bytes,
        resent_bytes=outcome.resent_bytes,
        deduplicated_bytes=outcome.deduplicated_bytes,
        sealed_ms=outcome.sealed_ms,
        findings=[_finding(f) for f in outcome.findings],
        isolation=_times(outcome.isolation),
        action=wire_remediation.report(outcome.action),
    )


def _times(times: IsolationTimes | None) -> control_pb2.IsolationTimes | None:
    return None if times is None else control_pb2.IsolationTimes(**asdict(times))


def _finding(finding: Finding) -> control_pb2.Finding:
    return control_pb2.Finding(
        severity=finding.severity,
        code=finding.code,
        subject=finding.subject,
        summary=finding.summary,
        collector=finding.collector,
        host=finding.host,
    )


def host(record: Host) -> control_pb2.HostRecord:
    """A host of the fleet."""
    return control_pb2.HostRecord(
        name=record.name,
        address=record.address,
        labels=record.labels,
        enrolled_at=stamp(record.enrolled_at),
        certificate_not_after=stamp(record.certificate_not_after),
        certificate_serial_hex=record.certificate_serial,
        generation=record.generation,
        removed=record.removed,
    )


def operator(value: Operator) -> control_pb2.OperatorRecord:
    """An operator."""
    record = control_pb2.OperatorRecord(
        name=value.name, certificate_serial_hex=value.serial, has_key_here=value.has_key_here
    )
    if value.not_after is not None:
        record.certificate_not_after.CopyFrom(stamp(value.not_after))
    return record


def approval(value: Approval, standing: str) -> control_pb2.Approval:
    """A request for approval, and what has become of it by now."""
    return control_pb2.Approval(
        id=value.id,
        action=value.action,
        summary=value.summary,
        hosts=value.hosts,
        parameters_json=json.dumps(value.parameters, sort_keys=True),
        requester=value.requester,
        reason=value.reason,
        incident_id=value.incident_id,
        asked_at=stamp(value.asked_at),
        expires_at=stamp(value.expires_at),
        demands=[str(demand) for demand in value.demands],
        votes=[
            control_pb2.Vote(operator=v.by, at=stamp(v.at), approves=v.approves, reason=v.reason) for v in value.votes
        ],
        standing=standing,
        used_by=value.used_by,
        digest=value.digest,
    )


def evidence(record: Evidence) -> control_pb2.EvidenceRecord:
    """A sealed capture."""
    return control_pb2.EvidenceRecord(
        id=record.id,
        host=record.host,
        incident_id=record.incident_id,
        operation_id=record.operation_id,
        profile=record.profile,
        sealed_at=stamp(record.sealed_at),
        artifacts=record.artifacts,
        total_bytes=record.total_bytes,
        partial=record.partial,
        manifest_sha256=record.manifest_sha256,
    )


def incident(view: IncidentView) -> control_pb2.Incident:
    """An incident with its evidence."""
    head = view.incident
    return control_pb2.Incident(
        id=head.id,
        severity=head.severity,
        title=head.title,
        phase=head.phase,
        opened_at=stamp(head.opened_at),
        opened_by=head.opened_by,
        target=head.target,
        operations=[o.id for o in view.operations],
        evidence=[evidence(e) for e in view.evidence],
        sealed_ms=view.sealed_ms,
    )


def line(value: Line) -> control_pb2.JournalLine:
    """A line of the journal."""
    entry = value.entry
    return control_pb2.JournalLine(
        seq=value.seq,
        at=stamp(entry.at),
        kind=entry.kind,
        actor=entry.actor,
        incident_id=entry.incident_id,
        operation_id=entry.operation_id,
        host=entry.host,
        summary=entry.summary,
        line_json=value.canonical.decode(),
        hash=value.hash,
    )
