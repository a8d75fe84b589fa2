"""What a capture was ordered to do, as one JSON file in its folder, and where everything of it lies in that folder.

The agent writes the order; the worker, the sealer and a restarted agent read it. Nothing else is needed to seal what
a crash left behind.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fireline_agent.hands.cgroup import Hierarchy


@dataclass(frozen=True)
class Limits:
    """What one collector may use, its children included."""

    cpu_percent: int
    memory_bytes: int
    io_weight: int
    output_bytes: int
    deadline_s: float
    pids: int


@dataclass(frozen=True)
class CollectorOrder:
    """One collector to run. `denial` says why it must not run; `is_beside`: it does not wait for the ones before it."""

    name: str
    module: str
    params: Mapping[str, Any]
    limits: Limits
    denial: str = ""
    is_beside: bool = False


@dataclass(frozen=True)
class Order:
    """One capture: who asked for what and why, and what it runs with."""

    request_id: str
    operation_id: str
    incident_id: str
    operator: str
    reason: str
    profile: str
    host: str
    agent_version: str
    fence_token: int
    started_at: str
    clock_offset_ns: int
    clock_round_trip_ns: int
    journal_seq: int
    journal_hash: str
    collectors: tuple[CollectorOrder, ...]
    # All artifacts together.
    budget_bytes: int
    agent_pid: int
    docker_socket: str
    state: str = "/var/lib/fireline-agent"
    lacks: tuple[str, ...] = ()
    hierarchy: Hierarchy = field(default_factory=lambda: Hierarchy("none"))

    @property
    def key(self) -> str:
        """The name of the capture's folder and control group: a request id may hold any printable character."""
        return key(self.request_id)

    def to_json(self) -> bytes:
        """As the bytes of order.json."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Back from `to_json`."""
        document = json.loads(raw)
        document["hierarchy"] = Hierarchy.from_json(document["hierarchy"])
        document["lacks"] = tuple(document["lacks"])
        document["collectors"] = tuple(
            CollectorOrder(**{**c, "limits": Limits(**c["limits"])}) for c in document["collectors"]
        )
        return cls(**document)


@dataclass(frozen=True)
class Folder:
    """Where the parts of one capture lie."""

    path: Path

    @property
    def order(self) -> Path:
        """What was ordered; written before anything else."""
        return self.path / "order.json"

    @property
    def progress(self) -> Path:
        """The worker's lines: which collector started and how it ended."""
        return self.path / "progress.jsonl"

    @property
    def complaints(self) -> Path:
        """What the worker and the collectors wrote to standard error."""
        return self.path / "stderr.txt"

    @property
    def files(self) -> Path:
        """The artifacts' bytes, one file each, named by numbers and never by what the host says."""
        return self.path / "files"

    @property
    def manifest(self) -> Path:
        """The signed manifest in its envelope."""
        return self.path / "manifest.dsse.json"

    @property
    def places(self) -> Path:
        """The file and size of each artifact, by its name."""
        return self.path / "places.json"

    @property
    def sealed(self) -> Path:
        """What the sealing answered; its presence is what makes the capture sealed."""
        return self.path / "sealed.json"

    def notes(self, index: int) -> Path:
        """The lines of one collector: artifacts opened and kept, findings, and how it ended."""
        return self.path / f"notes-{index:03}.jsonl"


def key(request_id: str) -> str:
    """A short name for a request id that is safe in a path."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:24]


def timestamp(moment: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file of lines, as far as they are whole: a killed writer leaves half of one."""
    found: list[dict[str, Any]] = []
    try:
        with path.open("rb") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                found.append(json.loads(raw))
    except FileNotFoundError:
        pass
    return found
