"""Which runbooks fit an incident, and why, in words: by what its captures found, its alerts, its title and its hosts.

The user's own `identify-affected-service`, with its reasons. Points only rank; a person chooses. Pure: leaves to others
where alerts and findings come from.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fireline_controller import targets
from fireline_controller.model import Finding, Host, TargetError
from fireline_controller.runbooks.model import Runbook

_FINDING: Final = {"critical": 6, "warning": 4, "notice": 1}
_ALERT: Final = 6
_WORD: Final = 3
_UNREACHABLE: Final = 2
_TARGET: Final = 1
_SEVERITY: Final = 1
_SHOWN_HOSTS: Final = 5

# What people and alerts call an affected part; the first that is found in a text counts, once for each part.
_WORDS: Final = {
    "database": r"database|postgres\w*|pg_\w+|mysql\w*|mariadb|sql|replica\w*|deadlock\w*|locks",
    "connections": r"connection pool|pool exhausted|too many (?:clients|connections)|connections? (?:exhausted|high)",
    "storage": r"disks?|storage|space|inodes?|file ?systems?|volumes?|enospc",
    "network": r"networks?|dns|latency|packets?|unreachable|routes?|routing|links?",
    "memory": r"memory|oom|swap\w*|leaks?|leaking",
    "security": r"breach\w*|intru\w+|logins?|malware|ransom\w*|suspicious|compromis\w+|exfil\w*|unauthori[sz]ed",
    "containers": r"containers?|docker|unhealthy|crash\w*|restarts?|restarting",
    "service": r"outage|down|unavailable|5xx|error ?rate|every ?thing",
}
_PATTERNS: Final = {area: re.compile(rf"(?<![a-z])({words})(?![a-z])") for area, words in _WORDS.items()}


@dataclass(frozen=True)
class Alert:
    """An alert that belongs to the incident."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Signals:
    """What is known of an incident.

    Attributes:
        unreachable: hosts of it that gave no answer.
        refusals: what hosts said that failed, by host: a full disk can't be captured, and says so.
    """

    severity: str
    title: str
    findings: Sequence[Finding] = ()
    alerts: Sequence[Alert] = ()
    hosts: Sequence[Host] = ()
    unreachable: Sequence[str] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suggestion:
    """A runbook, how well it fits, and why; the strongest reason first."""

    runbook: Runbook
    points: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Reason:
    points: int
    text: str


def suggest(runbooks: Iterable[Runbook], signals: Signals) -> tuple[Suggestion, ...]:
    """The runbooks that something speaks for, best first; of equal ones by name."""
    areas = affected(signals)
    found = [_judged(runbook, signals, areas) for runbook in runbooks]
    return tuple(sorted((s for s in found if s), key=lambda s: (-s.points, s.runbook.name)))


def affected(signals: Signals) -> Mapping[str, str]:
    """The parts that title, alerts and silence speak of, with the reason for each."""
    found: dict[str, str] = {}
    for where, text in _texts(signals):
        for area, pattern in _PATTERNS.items():
            match = pattern.search(text.lower())
            if match and area not in found:
                found[area] = f"{where} says {match[1]!r}: {area}"
    if signals.unreachable:
        found.setdefault("network", f"{_hosts(signals.unreachable)} gave no answer: network")
    return found


def _texts(signals: Signals) -> Iterator[tuple[str, str]]:
    yield "the title", signals.title
    yield from ((f"what {host} answered", text) for host, text in sorted(signals.refusals.items()))
    for alert in signals.alerts:
        # ServiceDown is two words to people
        yield f"the alert {alert.name}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", alert.name)
        yield from ((f"the label {key} of {alert.name}", value) for key, value in sorted(alert.labels.items()))


def _judged(runbook: Runbook, signals: Signals, areas: Mapping[str, str]) -> Suggestion | None:
    reasons = [*_by_findings(runbook, signals), *_by_alerts(runbook, signals), *_by_areas(runbook, signals, areas)]
    if not reasons:
        return None
    reasons += [*_by_hosts(runbook, signals), *_by_severity(runbook, signals)]
    ranked = sorted(reasons, key=lambda reason: -reason.points)
    return Suggestion(runbook, sum(r.points for r in reasons), tuple(r.text for r in ranked))


def _by_findings(runbook: Runbook, signals: Signals) -> Iterator[_Reason]:
    hosts: defaultdict[str, set[str]] = defaultdict(set)
    worst: dict[str, str] = {}
    for finding in signals.findings:
        if finding.code in runbook.findings:
            hosts[finding.code].add(finding.host)
            graver = max((worst.get(finding.code, "notice"), finding.severity), key=lambda s: _FINDING.get(s, 0))
            worst[finding.code] = graver
    for code, severity in sorted(worst.items()):
        yield _Reason(_FINDING.get(severity, 0), f"{severity} finding {code} on {_hosts(hosts[code])}")


def _by_alerts(runbook: Runbook, signals: Signals) -> Iterator[_Reason]:
    for name in sorted({alert.name for alert in signals.alerts} & set(runbook.alerts)):
        yield _Reason(_ALERT, f"the alert {name}")


def _by_areas(runbook: Runbook, signals: Signals, areas: Mapping[str, str]) -> Iterator[_Reason]:
    for area in runbook.areas:
        if area in areas:
            is_silence = area == "network" and areas[area].endswith("gave no answer: network")
            yield _Reason(_UNREACHABLE if is_silence else _WORD, areas[area])
    if "service" in runbook.areas and signals.severity == "P1" and "service" not in areas:
        yield _Reason(_SEVERITY, "P1 is a complete outage")


def _by_hosts(runbook: Runbook, signals: Signals) -> Iterator[_Reason]:
    if not runbook.targets.select or not signals.hosts:
        return
    try:
        chosen = targets.selected(runbook.targets.select, signals.hosts)
    except TargetError:  # names and groups: known when it runs
        return
    if chosen:
        yield _Reason(_TARGET, f"{_hosts(chosen)} of the incident: {runbook.targets.select}")
    else:
        yield _Reason(-_WORD, f"but no host of the incident is {runbook.targets.select}")


def _by_severity(runbook: Runbook, signals: Signals) -> Iterator[_Reason]:
    if not runbook.severities:
        return
    if runbook.severities == (signals.severity,):
        yield _Reason(2 * _SEVERITY, f"meant for {signals.severity} alone")
    elif signals.severity in runbook.severities:
        yield _Reason(_SEVERITY, f"meant for {signals.severity}")
    else:
        yield _Reason(-_SEVERITY, f"but meant for {', '.join(runbook.severities)}, not {signals.severity}")


def _hosts(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN_HOSTS} more" if len(ordered) > _SHOWN_HOSTS else ""
    return ", ".join(ordered[:_SHOWN_HOSTS]) + more
