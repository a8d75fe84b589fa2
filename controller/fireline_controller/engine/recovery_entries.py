"""What the journal says of the recovery: the intent before anything is done (I6), how it ended, who was called."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from fireline_controller.model import Entry
from fireline_controller.recovery import Capped, Held, Recovered, Restart, Tripped, Verdict

ACTOR: Final = "controller"
RESTARTING: Final = "recovery.restarting"
_KINDS: Final[Mapping[type[Verdict], str]] = {
    Restart: RESTARTING,
    Held: "recovery.held",
    Tripped: "recovery.tripped",
    Capped: "recovery.capped",
    Recovered: "recovery.recovered",
}


def decided(verdict: Verdict, at: datetime, *, is_observed: bool, incident_id: str = "") -> Entry:
    """What was decided; where it is only observed, what would have been done."""
    kind = "recovery.observed" if is_observed else _KINDS[type(verdict)]
    words = f"would {_would(verdict)}: {verdict.sentence}" if is_observed else verdict.sentence
    data = {"container": verdict.name, "decision": type(verdict).__name__.lower()}
    return Entry(kind, ACTOR, at, f"{verdict.host}: {words}", incident_id=incident_id, host=verdict.host, data=data)


def ended(verdict: Restart, at: datetime, *, is_well: bool, detail: str) -> Entry:
    """What became of a restart."""
    kind = "recovery.restarted" if is_well else "recovery.failed"
    summary = f"{verdict.host}: {verdict.name}: {detail}"
    return Entry(kind, ACTOR, at, summary, host=verdict.host, data={"container": verdict.name})


def paged(verdict: Tripped | Capped, at: datetime, *, severity: str, incident_id: str) -> Entry:
    """Somebody must be called: whoever pages reads this."""
    summary = f"page: {severity}: {verdict.host}: {verdict.sentence}"
    data = {"container": verdict.name, "severity": severity}
    return Entry("page.requested", ACTOR, at, summary, incident_id=incident_id, host=verdict.host, data=data)


def earlier(entries: Iterator[Entry]) -> Iterator[tuple[str, str, str, datetime]]:
    """Restarts and openings of breakers in old lines: kind, host, container, when."""
    for entry in entries:
        if entry.kind in (RESTARTING, _KINDS[Tripped]):
            yield entry.kind, entry.host, str(entry.data.get("container", "")), entry.at


def _would(verdict: Verdict) -> str:
    words = {Restart: "capture and restart", Held: "wait", Tripped: "page and open an incident", Capped: "page"}
    return words.get(type(verdict), "go on")
