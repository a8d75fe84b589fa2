"""Which runbooks fit an incident: its record, its captures' findings and its hosts, laid before the pure judgement."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fireline_controller.engine.incidents import Incidents, IncidentView
from fireline_controller.model import ConfigError, Host, Incident, Outcome
from fireline_controller.runbooks import loading
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.suggesting import Alert, Signals, Suggestion, affected, suggest
from fireline_controller.store import Store


@dataclass(frozen=True)
class Suggested:
    """What fits an incident, best first. `problems`: runbooks of the state folder that are wrong."""

    incident: Incident
    affected: Mapping[str, str]
    suggestions: tuple[Suggestion, ...]
    problems: tuple[str, ...]


class Suggestions:
    """Suggests the built-in runbooks and those in the state folder."""

    def __init__(self, folder: Path, store: Store, incidents: Incidents) -> None:
        self._folder = folder
        self._incidents = incidents
        self._store = store

    async def of(self, incident_id: str, alerts: Sequence[Alert] = ()) -> Suggested:
        """What fits an incident, with the alerts that belong to it.

        Raises:
            NotFound: the incident is not known.
            ConfigError: a profile of the state folder is wrong.
        """
        view = await self._incidents.view(incident_id)
        signals = _signals(view, await self._store.hosts(), alerts)
        runbooks, problems = await asyncio.to_thread(_runbooks, self._folder)
        return Suggested(view.incident, affected(signals), suggest(runbooks, signals), problems)


def _signals(view: IncidentView, fleet: Sequence[Host], alerts: Sequence[Alert]) -> Signals:
    outcomes = [outcome for operation in view.operations for outcome in operation.outcomes]
    names = {outcome.host for outcome in outcomes}
    return Signals(
        severity=str(view.incident.severity),
        title=view.incident.title,
        alerts=alerts,
        findings=[finding for outcome in outcomes for finding in outcome.findings],
        hosts=[host for host in fleet if host.name in names],
        unreachable=sorted({o.host for o in outcomes if o.outcome is Outcome.UNREACHABLE}),
        refusals={o.host: o.detail for o in outcomes if o.outcome is Outcome.FAILED},
    )


def _runbooks(folder: Path) -> tuple[list[Runbook], tuple[str, ...]]:
    """Those that are right, and what is wrong with the others: one that is broken hides no other."""
    known = loading.known((folder / "profiles",))
    right: list[Runbook] = []
    wrong: list[str] = []
    for source in loading.sources(folder / "runbooks"):
        try:
            right.append(loading.load(source, known))
        except ConfigError as error:
            wrong.append(str(error).splitlines()[0])
    return right, tuple(wrong)
