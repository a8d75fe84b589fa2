"""What a run's work stands on, and a run's ground from its record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fireline_controller.engine.locks import Locks
from fireline_controller.engine.runs.deeds import Deeds
from fireline_controller.model import NotFound
from fireline_controller.runbooks.filling import Expressions
from fireline_controller.runbooks.ground import Ground, all_steps
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.record import Run, Taken
from fireline_controller.store import Store, Transaction
from fireline_wire.actions import Risk, catalogue


class Books(Protocol):
    """Where runbooks come from."""

    def find(self, name: str) -> bytes:
        """The file of a runbook.

        Raises:
            NotFound: there is none of this name.
        """

    def compile(self, content: bytes, name: str) -> tuple[Runbook, Expressions]:
        """A checked runbook, and its expressions.

        Raises:
            FirelineError: it is wrong; says where and what to write instead.
        """


@dataclass(frozen=True)
class RunRooms:
    """The rooms that runs work with. `operators`: who is one at a time; `risk_of`: what an action may cost."""

    store: Store
    books: Books
    deeds: Deeds
    locks: Locks
    operators: Callable[[Transaction, datetime], frozenset[str]]
    risk_of: Callable[[str], Risk]
    now: Callable[[], datetime]

    def compiled(self, run: Run) -> tuple[Runbook, Expressions]:
        """The runbook that a run is pinned to."""
        return self.books.compile(run.content, run.runbook)

    def ground(
        self, tx: Transaction, run: Run, compiled: tuple[Runbook, Expressions], record: tuple[Taken, ...]
    ) -> Ground:
        """What decisions in a run stand on."""
        return _ground(tx, run, compiled, record, self.risk_of)


def _ground(
    tx: Transaction,
    run: Run,
    compiled: tuple[Runbook, Expressions],
    record: tuple[Taken, ...],
    risks: Callable[[str], Risk],
) -> Ground:
    runbook, expressions = compiled
    targets = {step.id: (step.targets or runbook.targets) for step in all_steps(runbook)}
    hosts = {step: run.hosts.get(target.select, run.hosts[""]) for step, target in targets.items()}
    return Ground(
        runbook=runbook,
        hosts=hosts,
        labels=run.labels,
        params=run.params,
        incident=incident_of(tx, run.incident_id),
        expressions=expressions,
        risk_of=risks,
        record=record,
    )


def incident_of(tx: Transaction, incident_id: str) -> Mapping[str, str]:
    """What expressions see of an incident; empty texts without one."""
    if not incident_id:
        return {"id": "", "severity": "", "title": ""}
    incident = tx.incident(incident_id)
    return {"id": incident.id, "severity": str(incident.severity), "title": incident.title}


def risk_of(action: str) -> Risk:
    """What an action may cost.

    Raises:
        NotFound: this version has no such action any more.
    """
    spec = catalogue().get(action)
    if spec is None:
        raise NotFound(f"action {action!r} is not known; `fireline action list` shows those that are")
    return spec.risk
