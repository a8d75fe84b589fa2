"""An agent that is asked for a capture and seals one, honestly or not: real keys, a real manifest, real chunks."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest
from fireline_wire.transfer import CHUNK_BYTES
from fireline_wire.v1 import capture_pb2
from tests.fakes.agent import FakeAgent
from tests.fakes.captures import artifact

Statement = dict[str, Any]


def honest(statement: Statement) -> None:
    """Change nothing."""


@dataclass
class CapturingAgent(FakeAgent):
    """Holds `contents` by artifact name. `captured` counts the captures that it began, by request id.

    `lie` changes the statement before it is signed, `signer` signs instead of the agent's own key, `announce` changes
    what the last event says, and `spoil` the bytes of a chunk.
    """

    contents: Mapping[str, bytes] = field(default_factory=lambda: {"clocks/state": b"twelve o'clock\n"})
    lie: Callable[[Statement], None] = honest
    signer: ec.EllipticCurvePrivateKey | None = None
    announce: Callable[[capture_pb2.CaptureSealed], None] = lambda sealed: None
    spoil: Callable[[bytes], bytes] = lambda chunk: chunk
    captured: dict[str, int] = field(default_factory=dict)
    _sealed: dict[str, bytes] = field(default_factory=dict)

    def _events(self, request: capture_pb2.CaptureRequest) -> list[capture_pb2.CaptureEvent]:
        request_id = request.context.request_id
        if request_id not in self._sealed:
            self.captured[request_id] = self.captured.get(request_id, 0) + 1
            self._sealed[request_id] = self._seal(request)
        self.manifest = self._sealed[request_id]
        events = super()._events(request)
        if events[-1].HasField("sealed"):
            self.announce(events[-1].sealed)
        return events

    def _seal(self, request: capture_pb2.CaptureRequest) -> bytes:
        statement: Statement = json.loads(self._manifest(request).statement())
        self.lie(statement)
        key = self.signer or load_pem_private_key(self.credentials.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return envelope.seal(json.dumps(statement).encode(), PAYLOAD_TYPE, key)

    def _manifest(self, request: capture_pb2.CaptureRequest) -> Manifest:
        context = request.context
        return Manifest(
            host=self.name,
            request_id=context.request_id,
            operation_id=context.operation_id,
            incident_id=context.incident_id,
            operator=context.operator,
            reason=context.reason,
            profile=request.profile,
            agent_version="0.1",
            boot_id="b",
            machine_id="m",
            started_at="2026-05-02T12:00:00Z",
            ended_at="2026-05-02T12:00:01Z",
            clock_offset_ns=request.clock_offset_ns,
            clock_round_trip_ns=request.clock_round_trip_ns,
            journal_seq=request.journal_seq,
            journal_hash=request.journal_hash,
            partial=False,
            partial_reason="",
            lacks=(),
            collectors=(),
            artifacts=tuple(artifact(name, data) for name, data in self.contents.items()),
            findings=(),
        )

    def manifest_of(self, request_id: str) -> bytes:
        """What was sealed for this request, whatever was captured since."""
        return self._sealed[request_id]

    def chunk(self, artifact: str, index: int) -> bytes:
        """The chunk of one of the contents; past their end the first one again."""
        data = self.contents.get(artifact, b"x")
        return self.spoil(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] or data[:CHUNK_BYTES])


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
