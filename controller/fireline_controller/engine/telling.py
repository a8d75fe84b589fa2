"""What is told of a sealed capture, in its outcome and in the journal. The words are the host's, made fit to show."""

import hashlib
from typing import Final

from fireline_controller.hosts.wire import text
from fireline_controller.model import Entry, Evidence, Finding
from fireline_wire.manifest import SEVERITIES, Manifest

# Told with the outcome, the gravest first; a manifest may hold thousands, which no operator's message could carry.
_FINDINGS_TOLD: Final = 200
_GRAVITY: Final = {name: grade for grade, name in enumerate(SEVERITIES)}


def missing(manifest: Manifest) -> str:
    """What a capture that is kept lacks of its order; empty when it is complete. The words are the host's."""
    if manifest.partial:
        return text(f"sealed as partial: {manifest.partial_reason}")
    broken = ", ".join(f"{run.name} ({run.status.replace('_', ' ')})" for run in manifest.broken)
    return text(f"sealed without {broken}") if broken else ""


def detail(manifest: Manifest) -> str:
    """What an operator should know of a capture that is kept."""
    parts = [] if manifest.is_complete else [missing(manifest)]
    if len(manifest.findings) > _FINDINGS_TOLD:
        parts.append(f"{len(manifest.findings)} findings, of which {_FINDINGS_TOLD} are told here")
    return "; ".join(parts)


def findings(manifest: Manifest) -> tuple[Finding, ...]:
    """What stands out, the gravest first."""
    gravest = sorted(manifest.findings, key=lambda f: _GRAVITY[f.severity])[:_FINDINGS_TOLD]
    return tuple(
        Finding(f.severity, text(f.code), text(f.subject), text(f.summary), text(f.collector), manifest.host)
        for f in gravest
    )


def sealed_entry(evidence: Evidence, manifest: Manifest, operator: str, sealed_ms: int) -> Entry:
    """The journal's line of a seal."""
    grave = sorted({f.code for f in manifest.findings if f.severity != "notice"})
    stands_out = text(f"; stands out: {', '.join(grave)}") if grave else ""
    lacks = missing(manifest)
    artifacts = f"{evidence.artifacts} artifact{'s' * (evidence.artifacts != 1)}"
    return Entry(
        kind="evidence.sealed",
        actor=operator,
        at=evidence.sealed_at,
        summary=f"{evidence.id} sealed: {artifacts}, {evidence.total_bytes} bytes{stands_out}"
        f"{f'; {lacks}' if lacks else ''}",
        incident_id=evidence.incident_id,
        operation_id=evidence.operation_id,
        host=evidence.host,
        data={
            "evidence": evidence.id,
            "manifest_sha256": evidence.manifest_sha256,
            "receipt_sha256": hashlib.sha256(evidence.receipt).hexdigest(),
            "partial": evidence.partial,
            "missing": lacks,
            "sealed_ms": sealed_ms,
            "clock_offset_us": manifest.clock_offset_ns // 1000,
        },
    )
