"""Captures as an agent would make them, in memory: artifacts with their bytes, and a host that sends chunks."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fireline_controller.vault import ChunkRange, Receiving
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES


def artifact(name: str, data: bytes) -> Artifact:
    """An artifact of these bytes, honestly described."""
    cuts = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    return Artifact(
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        chunks=tuple(hashlib.sha256(cut).hexdigest() for cut in cuts),
        collector="test",
        source="/proc",
        method="procfs",
        started_at="2026-05-01T10:00:00Z",
        ended_at="2026-05-01T10:00:01Z",
    )


@dataclass(frozen=True)
class Capture:
    """The bytes of a capture by artifact name, as a host holds them."""

    contents: Mapping[str, bytes]
    envelope: bytes = b"{}"

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The honest descriptions, in order."""
        return tuple(artifact(name, data) for name, data in self.contents.items())

    def chunks(self, ranges: Sequence[ChunkRange]) -> Iterator[bytes]:
        """What the host sends when these are asked."""
        for r in ranges:
            for index in range(r.first, r.first + r.count):
                yield self.contents[r.artifact][index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


async def transfer(receiving: Receiving, capture: Capture) -> int:
    """Bring what is wanted and finish; returns the bytes that crossed the wire."""
    sent = 0
    while ranges := await receiving.wanted():
        for data in capture.chunks(ranges):
            await receiving.keep(data)
            sent += len(data)
    await receiving.finish()
    return sent


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_128(seed.to_bytes(8)).digest(size)
