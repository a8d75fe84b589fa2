"""Which runbook fits an incident, and why: the reasons are what a person reads."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fireline_controller.model import Finding, Host
from fireline_controller.runbooks.model import Runbook, Targets
from fireline_controller.runbooks.suggesting import Alert, Signals, affected, suggest

AT = datetime(2026, 5, 2, tzinfo=UTC)


def runbook(name: str, **about: object) -> Runbook:
    """A runbook of which only its name and what is said about it matter."""
    return replace(Runbook(name, 1, name, "", ()), **about)  # type: ignore[arg-type]  # by the tests' own words


BOOKS = (
    runbook("outage", areas=("service",), severities=("P1",), alerts=("ServiceDown",)),
    runbook("disk", areas=("storage",), findings=("filesystem-full",), severities=("P1", "P2")),
    runbook("db", areas=("database",), targets=Targets("role=db")),
    runbook("pool", areas=("connections",)),
    runbook("breach", areas=("security",), findings=("hidden-process", "root-session-remote")),
    runbook("net", areas=("network",)),
)


def finding(severity: str, code: str, host: str) -> Finding:
    """Something that stands out."""
    return Finding(severity, code, "", "", "", host)


def host(name: str, role: str) -> Host:
    """A host of the incident."""
    return Host(name, "198.18.0.1:7700", {"role": role}, 1, AT, "1", AT)


def names(signals: Signals) -> Sequence[str]:
    """What is suggested, best first."""
    return [s.runbook.name for s in suggest(BOOKS, signals)]


def reasons(signals: Signals) -> Sequence[str]:
    """Why the best one is."""
    return suggest(BOOKS, signals)[0].reasons


def test_findings_speak_loudest() -> None:
    """What was seen on hosts ranks above what somebody called it; equal findings are one reason with all hosts."""
    seen = [finding("critical", "hidden-process", f"web{n}") for n in range(7, 0, -1)]
    signals = Signals("P2", "disk is slow", findings=seen)

    assert names(signals) == ["breach", "disk"]
    assert reasons(signals) == ("critical finding hidden-process on web1, web2, web3, web4, web5 and 2 more",)


def test_a_graver_finding_weighs_more() -> None:
    """A notice is no more than a hint."""
    signals = Signals(
        "P3", "odd", [finding("notice", "root-session-remote", "a"), finding("warning", "filesystem-full", "b")]
    )

    assert names(signals) == ["disk", "breach"]


@pytest.mark.parametrize(
    "title, name, reason",
    [
        ("PostgreSQL refuses", "db", "the title says 'postgresql': database"),
        ("FATAL: sorry, too many clients already", "pool", "the title says 'too many clients': connections"),
        ("No space left on device", "disk", "the title says 'space': storage"),
        ("DNS is dead", "net", "the title says 'dns': network"),
        ("suspicious login", "breach", "the title says 'suspicious': security"),
    ],
)
def test_the_title_says_what_is_affected(title: str, name: str, reason: str) -> None:
    """The user's own question, answered with the word that gave it away."""
    assert names(Signals("P3", title)) == [name]
    assert reasons(Signals("P3", title))[0] == reason


def test_a_word_inside_another_is_none() -> None:
    """`diskussion` is no disk, and `blinking` no link."""
    assert affected(Signals("P3", "diskussion blinking")) == {}


def test_alerts_speak_by_name_and_labels() -> None:
    """An alert that the runbook names, and the part that its labels tell of."""
    signals = Signals("P1", "?", alerts=[Alert("ServiceDown", {"job": "postgres"})])

    assert names(signals) == ["outage", "db"]
    assert reasons(signals) == (
        "the alert ServiceDown",
        "the alert ServiceDown says 'down': service",
        "meant for P1 alone",
    )
    assert "the label job of ServiceDown says 'postgres': database" in affected(signals).values()


def test_silent_hosts_point_to_the_network() -> None:
    """Hosts that gave no answer are a reason of their own, a weak one."""
    assert reasons(Signals("P3", "?", unreachable=["web2", "web1"])) == ("web1, web2 gave no answer: network",)


def test_a_host_that_is_too_full_to_be_captured_says_so() -> None:
    """There are no findings then; the refusal itself is the reason."""
    refusals = {"db1": "/var/lib/fireline-agent/spool: 28037120 bytes are free: nothing can be collected; free space"}

    assert reasons(Signals("P3", "?", refusals=refusals))[0] == "what db1 answered says 'space': storage"


@pytest.mark.parametrize(
    "role, reason", [("db", "h1 of the incident: role=db"), ("web", "but no host of the incident is role=db")]
)
def test_the_hosts_count(role: str, reason: str) -> None:
    """A runbook for hosts that the incident has not says so."""
    assert reason in reasons(Signals("P3", "database", hosts=[host("h1", role)]))


def test_another_severity_is_said() -> None:
    """It is still suggested: what was found matters more than a number."""
    assert reasons(Signals("P4", "disk full")) == ("the title says 'disk': storage", "but meant for P1, P2, not P4")


def test_an_outage_needs_no_other_reason() -> None:
    """A P1 of which nothing is known yet has its runbook."""
    assert names(Signals("P1", "?")) == ["outage"]
    assert names(Signals("P2", "?")) == []
