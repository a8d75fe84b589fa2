"""Opening an incident and reading it back. Its truth is the journal; here are its id, its head and its evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from fireline_controller.model import Entry, Evidence, Incident, Line, Operation, PolicyError, Severity
from fireline_controller.store import Store, Transaction


@dataclass(frozen=True)
class IncidentView:
    """An incident with what belongs to it. `sealed_ms`: from the first command to its last seal, 0 without any."""

    incident: Incident
    operations: tuple[Operation, ...]
    evidence: tuple[Evidence, ...]
    sealed_ms: int


class Incidents:
    """The incidents of this controller."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def open(self, severity: str, title: str, *, target: str, operator: str, reason: str) -> Incident:
        """Put a new incident on record.

        Raises:
            PolicyError: the severity is not P1 to P5, or there is no title.
        """
        if severity.upper() not in set(Severity):
            raise PolicyError(f"severity {severity!r}: wanted P1, P2, P3, P4 or P5", reason="invalid_request")
        if not title.strip():
            raise PolicyError("an incident needs a title: what is wrong, in a few words", reason="invalid_request")
        grade, now = Severity(severity.upper()), self._now()

        def record(tx: Transaction) -> Incident:
            incident = tx.new_incident(grade, title=title.strip(), opened_by=operator, target=target, now=now)
            data = {"severity": str(grade), "title": incident.title, "target": target, "reason": reason}
            summary = f"{grade} opened: {incident.title}"
            tx.append(Entry("incident.opened", operator, now, summary, incident_id=incident.id, data=data))
            return incident

        return await self._store.run(record)

    async def require(self, incident_id: str) -> Incident:
        """The head of an incident.

        Raises:
            NotFound: it is not known.
        """
        return await self._store.run(lambda tx: tx.incident(incident_id))

    async def view(self, incident_id: str) -> IncidentView:
        """One incident with its operations and evidence.

        Raises:
            NotFound: it is not known.
        """
        return await self._store.run(lambda tx: _view(tx, tx.incident(incident_id)))

    async def newest(self, limit: int) -> Sequence[IncidentView]:
        """The newest incidents first."""
        return await self._store.run(lambda tx: [_view(tx, i) for i in tx.incidents(limit)])

    async def note(self, incident_id: str, text: str, *, operator: str) -> Line:
        """Write a remark into the record.

        Raises:
            NotFound: the incident is not known.
            PolicyError: the remark is empty.
        """
        if not text.strip():
            raise PolicyError("the note is empty", reason="invalid_request")
        now = self._now()

        def record(tx: Transaction) -> Line:
            tx.incident(incident_id)
            (line,) = tx.append(Entry("incident.note", operator, now, text.strip(), incident_id=incident_id))
            return line

        return await self._store.run(record)


def _view(tx: Transaction, incident: Incident) -> IncidentView:
    operations = tuple(tx.operations(incident_id=incident.id))
    evidence = tuple(tx.evidence_list(incident_id=incident.id))
    first = [o.sealed_ms for o in operations[0].outcomes] if operations else []
    return IncidentView(incident, operations, evidence, max(first, default=0))
