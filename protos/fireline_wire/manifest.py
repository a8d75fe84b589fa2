"""What a capture's manifest is: an in-toto statement in a DSSE envelope, signed at the source.

Both ends read and write manifests through this module, so they agree on every field. Everything in a manifest was
said by an agent: parsing refuses whatever does not fit, with the field's name. Leaves to others: who may sign
(the controller's pki) and where bytes are kept (spool and vault).

Sources: in-toto Attestation Framework, Statement v1; DSSE 1.0.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from fireline_wire.transfer import CHUNK_BYTES

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
EVIDENCE_TYPE: Final = "urn:fireline:evidence:v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"

MAX_ARTIFACTS: Final = 20_000  # per capture: a lying agent can't fill the controller's memory with names
MAX_MANIFEST_BYTES: Final = 64 << 20  # a manifest of 512 GiB of evidence
MAX_ARTIFACT_BYTES: Final = 1 << 40
MAX_FACTS_BYTES: Final = 64 << 10

_ARTIFACT_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,99}(/[a-z0-9_][a-z0-9._-]{0,99}){0,4}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
SEVERITIES: Final = ("critical", "warning", "notice")
STATUSES: Final = ("ok", "failed", "timed_out", "cancelled", "denied", "absent")
_WHOLE: Final = ("ok", "absent")  # absent: the host has nothing of the kind, and that is an answer


class ManifestError(ValueError):
    """A manifest breaks the format; the message names the field, what was wanted and what was found."""


@dataclass(frozen=True)
class Artifact:
    """One named byte stream of a capture. Times are RFC 3339 UTC by the host's clock."""

    name: str
    size: int
    sha256: str
    chunks: tuple[str, ...]
    collector: str
    source: str
    method: str
    started_at: str
    ended_at: str
    truncated: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_artifact_name(self.name):
            raise ManifestError(f"artifact name {self.name!r} is not allowed: wanted lower-case path parts, no '..'")
        if not 0 <= self.size <= MAX_ARTIFACT_BYTES:
            raise ManifestError(f"artifact {self.name}: size {self.size} is out of range")
        for digest in (self.sha256, *self.chunks):
            if _SHA256.match(digest) is None:
                raise ManifestError(f"artifact {self.name}: {digest[:80]!r} is not a SHA-256 in hexadecimal")
        wanted = -(-self.size // CHUNK_BYTES)
        if len(self.chunks) != wanted:
            raise ManifestError(
                f"artifact {self.name}: {self.size} bytes are {wanted} chunks, found {len(self.chunks)}"
            )
        if len(json.dumps(dict(self.facts))) > MAX_FACTS_BYTES:
            raise ManifestError(f"artifact {self.name}: facts are over {MAX_FACTS_BYTES} bytes")

    def chunk_size(self, index: int) -> int:
        """How many bytes the chunk with this index has."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)


@dataclass(frozen=True)
class CollectorRun:
    """How one collector of a capture ended."""

    name: str
    version: str
    status: str
    detail: str
    started_at: str
    ended_at: str
    wall_ms: int
    cpu_ms: int
    total_bytes: int

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ManifestError(f"collector {self.name!r}: status {self.status!r} is none of {', '.join(STATUSES)}")


@dataclass(frozen=True)
class Finding:
    """Something that stands out, for a person to look at; never a verdict."""

    severity: str
    code: str
    subject: str
    summary: str
    collector: str

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ManifestError(f"finding {self.code!r}: severity {self.severity!r} is none of {', '.join(SEVERITIES)}")


@dataclass(frozen=True)
class Manifest:
    """All that a host says about one capture. `clock_offset_ns` is the host's clock minus the controller's."""

    host: str
    request_id: str
    operation_id: str
    incident_id: str
    operator: str
    reason: str
    profile: str
    agent_version: str
    boot_id: str
    machine_id: str
    started_at: str
    ended_at: str
    clock_offset_ns: int
    clock_round_trip_ns: int
    journal_seq: int
    journal_hash: str
    partial: bool
    partial_reason: str
    lacks: tuple[str, ...]
    collectors: tuple[CollectorRun, ...]
    artifacts: tuple[Artifact, ...]
    findings: tuple[Finding, ...]

    def __post_init__(self) -> None:
        if len(self.artifacts) > MAX_ARTIFACTS:
            raise ManifestError(f"{len(self.artifacts)} artifacts: at most {MAX_ARTIFACTS} are allowed")
        names = [a.name for a in self.artifacts]
        if len(set(names)) != len(names):
            raise ManifestError("two artifacts have the same name")

    @property
    def broken(self) -> tuple[CollectorRun, ...]:
        """The collectors that did not bring what was ordered of them."""
        return tuple(run for run in self.collectors if run.status not in _WHOLE)

    @property
    def is_complete(self) -> bool:
        """Whether all that was ordered is there: it was not cut short, and no collector is broken."""
        return not self.partial and not self.broken

    def statement(self) -> bytes:
        """The in-toto statement as bytes: what the host's key signs."""
        body = asdict(self)
        return json.dumps(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": a.name, "digest": {"sha256": a.sha256}} for a in self.artifacts],
                "predicateType": EVIDENCE_TYPE,
                "predicate": body,
            },
            sort_keys=True,
            separators=(",", ":"),
        ).encode()

    @classmethod
    def parse(cls, statement: bytes) -> "Manifest":
        """Read a statement of unknown honesty.

        Raises:
            ManifestError: it is too large, no JSON, or any field is missing, unknown, of the wrong type or range.
        """
        if len(statement) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"manifest of {len(statement)} bytes: at most {MAX_MANIFEST_BYTES} are allowed")
        try:
            document = json.loads(statement)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"manifest is no JSON: {error}") from None
        top = _Fields(document, "manifest")
        top.constant("_type", STATEMENT_TYPE)
        top.constant("predicateType", EVIDENCE_TYPE)
        manifest = _manifest(top.mapping("predicate"))
        subjects = [{"name": a.name, "digest": {"sha256": a.sha256}} for a in manifest.artifacts]
        if document.get("subject") != subjects:
            raise ManifestError("manifest: the subject list does not match the artifacts of the predicate")
        top.nothing_but("_type", "predicateType", "predicate", "subject")
        return manifest


def is_artifact_name(name: str) -> bool:
    """Whether an artifact may have this name: lower-case path parts, no '..', nothing hidden, at most five deep."""
    return _ARTIFACT_NAME.match(name) is not None


class _Fields:
    """A JSON object of unknown honesty, read field by field with messages that name the place."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ManifestError(f"{where}: wanted an object, found {type(value).__name__}")
        self._value: dict[str, Any] = value
        self._where = where

    def nothing_but(self, *names: str) -> None:
        unknown = sorted(self._value.keys() - set(names))
        if unknown:
            raise ManifestError(f"{self._where}: unknown field {unknown[0]!r}")

    def constant(self, name: str, wanted: str) -> None:
        if self._value.get(name) != wanted:
            raise ManifestError(f"{self._where}.{name}: wanted {wanted!r}, found {str(self._value.get(name))[:80]!r}")

    def _typed(self, name: str, kind: type) -> Any:
        value = self._value.get(name)
        if type(value) is not kind:
            raise ManifestError(f"{self._where}.{name}: wanted {kind.__name__}, found {type(value).__name__}")
        return value

    def text(self, name: str, limit: int = 4096) -> str:
        value: str = self._typed(name, str)
        if len(value) > limit:
            raise ManifestError(f"{self._where}.{name}: {len(value)} characters, at most {limit} are allowed")
        return value

    def number(self, name: str) -> int:
        value: int = self._typed(name, int)
        if abs(value) >= 1 << 63:
            raise ManifestError(f"{self._where}.{name}: {value} does not fit 64 bits")
        return value

    def flag(self, name: str) -> bool:
        return bool(self._typed(name, bool))

    def mapping(self, name: str) -> "_Fields":
        return _Fields(self._typed(name, dict), f"{self._where}.{name}")

    def raw(self, name: str) -> dict[str, Any]:
        return dict(self._typed(name, dict))

    def items(self, name: str, limit: int) -> Iterable["_Fields"]:
        values: list[object] = self._typed(name, list)
        if len(values) > limit:
            raise ManifestError(f"{self._where}.{name}: {len(values)} entries, at most {limit} are allowed")
        return [_Fields(v, f"{self._where}.{name}[{i}]") for i, v in enumerate(values)]

    def texts(self, name: str, limit: int) -> tuple[str, ...]:
        values: list[object] = self._typed(name, list)
        if len(values) > limit or not all(isinstance(v, str) and len(v) <= 4096 for v in values):
            raise ManifestError(f"{self._where}.{name}: wanted at most {limit} texts")
        return tuple(str(v) for v in values)


def _manifest(p: _Fields) -> Manifest:
    p.nothing_but(*Manifest.__dataclass_fields__)
    return Manifest(
        host=p.text("host", 200),
        request_id=p.text("request_id", 200),
        operation_id=p.text("operation_id", 200),
        incident_id=p.text("incident_id", 200),
        operator=p.text("operator", 200),
        reason=p.text("reason"),
        profile=p.text("profile", 200),
        agent_version=p.text("agent_version", 200),
        boot_id=p.text("boot_id", 200),
        machine_id=p.text("machine_id", 200),
        started_at=p.text("started_at", 40),
        ended_at=p.text("ended_at", 40),
        clock_offset_ns=p.number("clock_offset_ns"),
        clock_round_trip_ns=p.number("clock_round_trip_ns"),
        journal_seq=p.number("journal_seq"),
        journal_hash=p.text("journal_hash", 64),
        partial=p.flag("partial"),
        partial_reason=p.text("partial_reason"),
        lacks=p.texts("lacks", 200),
        collectors=tuple(_collector(c) for c in p.items("collectors", 1000)),
        artifacts=tuple(_artifact(a) for a in p.items("artifacts", MAX_ARTIFACTS)),
        findings=tuple(_finding(f) for f in p.items("findings", 10_000)),
    )


def _collector(c: _Fields) -> CollectorRun:
    c.nothing_but(*CollectorRun.__dataclass_fields__)
    return CollectorRun(
        name=c.text("name", 100),
        version=c.text("version", 100),
        status=c.text("status", 20),
        detail=c.text("detail"),
        started_at=c.text("started_at", 40),
        ended_at=c.text("ended_at", 40),
        wall_ms=c.number("wall_ms"),
        cpu_ms=c.number("cpu_ms"),
        total_bytes=c.number("total_bytes"),
    )


def _artifact(a: _Fields) -> Artifact:
    a.nothing_but(*Artifact.__dataclass_fields__)
    return Artifact(
        name=a.text("name", 600),
        size=a.number("size"),
        sha256=a.text("sha256", 64),
        chunks=a.texts("chunks", -(-MAX_ARTIFACT_BYTES // CHUNK_BYTES)),
        collector=a.text("collector", 100),
        source=a.text("source"),
        method=a.text("method", 200),
        started_at=a.text("started_at", 40),
        ended_at=a.text("ended_at", 40),
        truncated=a.flag("truncated"),
        facts=a.raw("facts"),
    )


def _finding(f: _Fields) -> Finding:
    f.nothing_but(*Finding.__dataclass_fields__)
    return Finding(
        severity=f.text("severity", 20),
        code=f.text("code", 100),
        subject=f.text("subject", 500),
        summary=f.text("summary", 1000),
        collector=f.text("collector", 100),
    )
