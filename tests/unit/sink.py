"""A sink in memory for collector tests: artifacts as bytes with their facts, findings as values."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fireline_agent.capture.collector import OutputLimit
from fireline_wire.manifest import SEVERITIES, is_artifact_name


@dataclass(frozen=True)
class NotedFinding:
    """What a collector noted through `finding`."""

    severity: str
    code: str
    subject: str
    summary: str


@dataclass
class MemoryArtifact:
    """One artifact as it was written; `ended` is true once its block was left, also by an exception."""

    source: str
    method: str
    limit_bytes: int
    facts: dict[str, Any] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def write(self, data: bytes) -> None:
        """Append bytes, as many as the limit allows."""
        room = self.limit_bytes - len(self.data)
        self.data += data[:room]
        if len(data) > room:
            raise OutputLimit(f"{self.limit_bytes} bytes are written")

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one JSON object as a line."""
        self.write(json.dumps(record).encode() + b"\n")

    def records(self) -> list[Any]:
        """Every line read back as JSON."""
        return [json.loads(line) for line in self.data.splitlines()]

    def document(self) -> Any:
        """The whole artifact read back as one JSON document."""
        return json.loads(self.data)


@dataclass
class MemorySink:
    """Keeps all that a collector yields; refuses what the manifest would refuse."""

    limit_bytes: int = 1 << 30
    artifacts: dict[str, MemoryArtifact] = field(default_factory=dict)
    findings: list[NotedFinding] = field(default_factory=list)

    @contextmanager
    def artifact(self, name: str, *, source: str, method: str) -> Iterator[MemoryArtifact]:
        """Open an artifact, kept also when its block ends by an exception."""
        assert is_artifact_name(name), name
        assert name not in self.artifacts, f"artifact {name} is written twice"
        assert source, name
        assert method, name
        artifact = self.artifacts[name] = MemoryArtifact(source, method, self.limit_bytes)
        try:
            yield artifact
        finally:
            json.dumps(artifact.facts)
            artifact.ended = True

    def finding(self, severity: str, code: str, subject: str, summary: str) -> None:
        """Note a finding."""
        assert severity in SEVERITIES, severity
        self.findings.append(NotedFinding(severity, code, subject, summary))

    def found(self, code: str) -> list[NotedFinding]:
        """The findings with this code, in the order they were noted."""
        return [finding for finding in self.findings if finding.code == code]
