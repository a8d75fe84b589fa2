"""What a person or a program reads: tables and JSON on stdout, progress on stderr when it is a terminal."""

import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from fireline_wire.v1 import control_pb2

OUTCOMES = ("ok", "failed", "timed_out", "unreachable", "denied", "cancelled", "skipped")
SEVERITIES = ("critical", "warning", "notice")
# A table shows this many lines of one kind before it says how many more there are.
FOLD_ABOVE = 30
# Characters: wider than any row, for a program that reads lines.
_UNWRAPPED = 100_000
# What JSON leaves as it is, and a terminal obeys: DEL, C1, and the marks that turn the direction of text.
_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def print_json(document: object) -> None:
    """One document on stdout."""
    sys.stdout.write(_json(document, indent=2) + "\n")


def print_json_line(document: object) -> None:
    """One object as a line on stdout, at once."""
    sys.stdout.write(_json(document) + "\n")
    sys.stdout.flush()


def _json(document: object, indent: int | None = None) -> str:
    """Letters as they are; what could steer a terminal, as hosts may tell it, as escapes: the same JSON values."""
    return _STEERING.sub(
        lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, indent=indent, ensure_ascii=False)
    )


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    sys.stderr.write(text + "\n")


def warn(text: str) -> None:
    """A line that nobody may overlook, on stderr: red on a terminal, unless NO_COLOR is set."""
    is_red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    line = printable(text)
    say(f"\x1b[1;31m{line}\x1b[0m" if is_red else line)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table on stdout; wraps nothing where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else _UNWRAPPED)
    with console.capture() as drawn:
        console.print(view)
    sys.stdout.write("\n".join(line.rstrip() for line in drawn.get().split("\n")))


def printable(text: str) -> str:
    """The text without what could steer a terminal: an agent or an attacker wrote some of it."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def size(count: int) -> str:
    """Bytes for a person: 512 B, 3.4 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """A number of things for a person: 1 artifact, 3 artifacts."""
    return f"{count} {noun}{'s' * (count != 1)}"


def seconds(milliseconds: int) -> str:
    """A duration for a person: 0.84 s."""
    return f"{milliseconds / 1000:.2f} s"


def moment(stamp: "Timestamp") -> str:
    """RFC 3339 in UTC with seconds; empty for no time."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def outcome_name(value: int) -> str:
    """The word for an outcome."""
    from fireline_wire.v1 import common_pb2

    return common_pb2.Outcome.Name(common_pb2.Outcome.ValueType(value)).removeprefix("OUTCOME_").lower()


def finding_document(finding: "control_pb2.Finding") -> dict[str, str]:
    """One finding with its stable keys."""
    return {
        "severity": finding.severity,
        "code": finding.code,
        "host": finding.host,
        "subject": finding.subject,
        "summary": finding.summary,
        "collector": finding.collector,
    }


def host_document(host: "control_pb2.HostOutcome") -> dict[str, Any]:
    """One host of a fanned-out command with its stable keys."""
    document: dict[str, Any] = {
        "host": host.host,
        "outcome": outcome_name(host.outcome),
        "detail": host.detail,
        "reason": host.reason,
        "duration_ms": host.duration_ms,
    }
    if host.evidence_id:
        document |= {
            "evidence_id": host.evidence_id,
            "partial": host.partial,
            "artifacts": host.artifacts,
            "bytes": host.total_bytes,
            "resent_bytes": host.resent_bytes,
            "deduplicated_bytes": host.deduplicated_bytes,
            "sealed_ms": host.sealed_ms,
            "findings": [finding_document(f) for f in host.findings],
        }
    if host.HasField("action"):
        document["action"] = action_document(host.action)
    if host.HasField("isolation"):
        document["isolation"] = isolation_document(host.isolation)
    return document


def action_document(report: "control_pb2.ActionReport") -> dict[str, Any]:
    """An action on a host with its stable keys."""
    names = ("action", "plan_sha256", "risk", "summary", "change_count", "changes_done", "verified", "can_undo")
    return {name: getattr(report, name) for name in names} | {
        "params": json.loads(report.params_json or "{}"),
        "bytes": report.total_bytes,
        "changes": [
            {"kind": c.kind, "subject": c.subject, "does": c.does, "bytes": c.size_bytes} for c in report.changes
        ],
        "warnings": list(report.warnings),
        "result": json.loads(report.result_json or "{}"),
        "in_doubt": list(report.in_doubt),
    }


def isolation_document(times: "control_pb2.IsolationTimes") -> dict[str, Any]:
    """How long an isolation took, with its stable keys."""
    names = ("captured_ms", "armed_ms", "confirmed_ms", "proved_ms", "committed_ms", "applied_us", "sockets_killed")
    return {name: getattr(times, name) for name in names} | {
        "witnesses": list(times.witnesses),
        "code_hint": times.code_hint,
    }


def operation_document(
    started: "control_pb2.OperationStarted",
    hosts: Sequence["control_pb2.HostOutcome"],
    finished: "control_pb2.OperationFinished",
) -> dict[str, Any]:
    """The one JSON document of a fanned-out command."""
    document: dict[str, Any] = {"operation": started.operation_id}
    if started.incident_id:
        document["incident"] = started.incident_id
    if started.warning:
        document["warning"] = started.warning
    return document | {
        "targets": len(started.target.hosts),
        "target_sha256": started.target.sha256,
        "counts": {name: finished.counts[name] for name in OUTCOMES if name in finished.counts},
        "duration_ms": finished.duration_ms,
        "still_running": list(finished.still_running),
        "hosts": [host_document(h) for h in sorted(hosts, key=lambda h: h.host)],
    }


def outcome_rows(hosts: Sequence["control_pb2.HostOutcome"]) -> list[tuple[str, ...]]:
    """Rows of the host table: what is not ok in full and first, what is alike folded into ranges."""
    alike: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for host in hosts:
        evidence = host.evidence_id + (" (partial)" if host.partial else "")
        alike[outcome_name(host.outcome), host.detail, evidence].append(host.host)
    order = {name: index for index, name in enumerate(reversed(OUTCOMES))}
    rows = sorted(alike.items(), key=lambda item: (order[item[0][0]], item[1]))
    by_name = {host.host: host for host in hosts}
    return [
        (fold(names), outcome, seconds(max(by_name[n].duration_ms for n in names)), evidence, detail)
        for (outcome, detail, evidence), names in rows
    ]


def fold(names: Iterable[str]) -> str:
    """Host names folded into ranges: web[1-20],db1."""
    from ClusterShell.NodeSet import NodeSet

    return str(NodeSet.fromlist(sorted(names)))


def totals(counts: Mapping[str, int]) -> str:
    """The counts in one line: 4 ok, 1 unreachable."""
    parts = [f"{counts[name]} {name.replace('_', ' ')}" for name in OUTCOMES if counts.get(name)]
    return ", ".join(parts) or "no hosts"


def print_findings(findings: Sequence["control_pb2.Finding"]) -> None:
    """What stands out, gravest first; equal ones on several hosts once."""
    alike: defaultdict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for finding in findings:
        alike[finding.severity, finding.code, finding.subject, finding.summary].append(finding.host)
    rows = sorted(alike.items(), key=lambda item: (SEVERITIES.index(item[0][0]), item[0][1], item[1]))
    shown = [row for row in rows if row[0][0] != "notice"][:FOLD_ABOVE]
    if shown:
        print("\nWhat stands out (for a person to look at, not a verdict):")
        table(
            ("SEVERITY", "HOSTS", "FINDING", "SUBJECT", "WHAT"),
            [(s, fold(set(hosts)), code, subject, what) for (s, code, subject, what), hosts in shown],
        )
    left = Counter(row[0][0] for row in rows if row not in shown)
    if left:
        counted = ", ".join(f"{left[s]} {s}" for s in SEVERITIES if left[s])
        say(f"not shown: {counted}; all of them: fireline evidence show EVIDENCE")
