"""Verbs for what operators do: operations with their outcomes, and incidents."""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, select, update

from fireline_controller.model import (
    ActionChange,
    ActionReport,
    Finding,
    HostOutcome,
    Incident,
    IsolationTimes,
    NotFound,
    Operation,
    Outcome,
    Severity,
    StoreError,
    Target,
)
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of, value_of
from fireline_wire.actions import bounded

_FIRST_PHASE = "open"
_KEPT_CHANGES = 20  # of a host's plan
_KEPT_RESULT_BYTES = 64 << 10  # of what an action told of a host
_USUAL = {f.name: None if f.default is MISSING else f.default for f in fields(HostOutcome)}


class WorkVerbs(Verbs):
    """Operations and incidents."""

    def put_operation(self, operation: Operation) -> None:
        """Keep an operation that starts, under an id that is new; its outcomes come with `finish_operation`."""
        values = columns_of(operation)
        target: Target = values.pop("target")
        values["outcomes"] = [_document(o) for o in operation.outcomes]
        values.update({f"target_{name}": value for name, value in columns_of(target).items()})
        self._connection.execute(insert(schema.operations).values(values))

    def finish_operation(self, operation_id: str, outcomes: Sequence[HostOutcome], finished_at: datetime) -> None:
        """Keep the outcomes of an operation, one for each host of its target (I1), once.

        Raises:
            NotFound: there is no such operation.
            StoreError: it was finished before.
            ValueError: the outcomes are not one each for the hosts of the target; names the hosts.
        """
        table = schema.operations
        # Not the whole row, which takes a while to read back for a thousand hosts.
        query = select(table.c.finished_at, table.c.target_hosts).where(table.c.id == operation_id)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise _unknown(operation_id)
        if row.finished_at is not None:
            raise StoreError(f"operation {operation_id} was finished at {row.finished_at}: it ends once")
        _check_one_each(operation_id, row.target_hosts, outcomes)
        ended = {"finished_at": finished_at, "outcomes": [_document(o) for o in outcomes]}
        self._connection.execute(update(table).where(table.c.id == operation_id).values(ended))

    def operation(self, operation_id: str) -> Operation:
        """The operation with this id.

        Raises:
            NotFound: there is none.
        """
        row = self._connection.execute(
            select(schema.operations).where(schema.operations.c.id == operation_id)
        ).one_or_none()
        if row is None:
            raise _unknown(operation_id)
        return _operation_of(row)

    def operations(self, incident_id: str = "", *, unfinished: bool = False) -> tuple[Operation, ...]:
        """Operations in the order in which they started; of one incident, or those that have not ended."""
        table = schema.operations
        query = select(table).order_by(table.c.started_at, table.c.id)
        if incident_id:
            query = query.where(table.c.incident_id == incident_id)
        if unfinished:
            query = query.where(table.c.finished_at.is_(None))
        return tuple(_operation_of(row) for row in self._connection.execute(query))

    def new_incident(self, severity: Severity, title: str, opened_by: str, target: str, now: datetime) -> Incident:
        """Open an incident under an id of its own: INC-YYYYMMDD-HHMMSS in UTC, of the next second that is free."""
        incident = Incident(
            id=self._free_incident_id(now),
            severity=severity,
            title=title,
            phase=_FIRST_PHASE,
            opened_at=now,
            opened_by=opened_by,
            target=target,
        )
        self._connection.execute(insert(schema.incidents).values(columns_of(incident)))
        return self.incident(incident.id)

    def _free_incident_id(self, now: datetime) -> str:
        second = now.astimezone(UTC)
        while self._incident_row(f"INC-{second:%Y%m%d-%H%M%S}") is not None:
            second += timedelta(seconds=1)
        return f"INC-{second:%Y%m%d-%H%M%S}"

    def _incident_row(self, incident_id: str) -> Row[Any] | None:
        return self._connection.execute(
            select(schema.incidents).where(schema.incidents.c.id == incident_id)
        ).one_or_none()

    def incident(self, incident_id: str) -> Incident:
        """The incident with this id.

        Raises:
            NotFound: there is none.
        """
        row = self._incident_row(incident_id)
        if row is None:
            raise NotFound(f"incident {incident_id!r} is not known; `fireline incident list` shows those that are")
        return value_of(Incident, row)

    def incidents(self, limit: int = 100) -> tuple[Incident, ...]:
        """The latest incidents, newest first."""
        query = select(schema.incidents).order_by(schema.incidents.c.id.desc()).limit(limit)
        return tuple(value_of(Incident, row) for row in self._connection.execute(query))


def _unknown(operation_id: str) -> NotFound:
    return NotFound(f"operation {operation_id!r} is not known")


def _check_one_each(operation_id: str, hosts: Sequence[str], outcomes: Sequence[HostOutcome]) -> None:
    named = sorted(o.host for o in outcomes)
    wanted = sorted(hosts)
    if named != wanted:
        lacking = sorted(set(wanted) - set(named))
        strange = sorted(set(named) - set(wanted))
        raise ValueError(
            f"operation {operation_id}: {len(named)} outcomes for {len(wanted)} hosts, wanted one each;"
            f" without: {', '.join(lacking[:10]) or 'none'}; not of the target: {', '.join(strange[:10]) or 'none'}"
        )


def _document(outcome: HostOutcome) -> dict[str, Any]:
    """The fields that are not as usual: most hosts end ok with little to say."""
    values = vars(outcome)  # not columns_of: it asks anew for the fields, and there may be thousands of outcomes
    said = {name: value for name, value in values.items() if value is not _USUAL[name] and value != _USUAL[name]}
    if outcome.findings:
        said["findings"] = [columns_of(f) for f in outcome.findings]
    if outcome.isolation is not None:
        said["isolation"] = columns_of(outcome.isolation)
    if outcome.action is not None:
        said["action"] = _report_document(outcome.action)
    return said


def _outcome_of(document: dict[str, Any]) -> HostOutcome:
    findings = tuple(Finding(**f) for f in document.get("findings", ()))
    isolation = _times_of(document["isolation"]) if "isolation" in document else None
    action = _report_of(document["action"]) if "action" in document else None
    known = {
        "outcome": Outcome(document["outcome"]), "findings": findings, "isolation": isolation, "action": action,
    }  # fmt: skip
    return HostOutcome(**{**_USUAL, **document, **known})


def _report_document(report: ActionReport) -> dict[str, Any]:
    """Bounded: there may be thousands of hosts, and what each of them found is shown when it comes."""
    return {
        **columns_of(report),
        "changes": [columns_of(change) for change in report.changes[:_KEPT_CHANGES]],
        "result": bounded(report.result, _KEPT_RESULT_BYTES),
    }


def _report_of(document: dict[str, Any]) -> ActionReport:
    lists = {name: tuple(document[name]) for name in ("warnings", "in_doubt")}
    return ActionReport(**{**document, **lists, "changes": tuple(ActionChange(**c) for c in document["changes"])})


def _times_of(document: dict[str, Any]) -> IsolationTimes:
    return IsolationTimes(**{**document, "witnesses": tuple(document["witnesses"])})


def _operation_of(row: Row[Any]) -> Operation:
    values = row._asdict()
    target = Target(
        hosts=tuple(values.pop("target_hosts")),
        sha256=values.pop("target_sha256"),
        folded=values.pop("target_folded"),
        spelled=values.pop("target_spelled"),
    )
    outcomes = sorted((_outcome_of(o) for o in values.pop("outcomes")), key=lambda o: o.host)
    return Operation(**values, target=target, outcomes=tuple(outcomes))
