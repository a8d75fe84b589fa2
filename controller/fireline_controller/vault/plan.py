"""What a manifest asks the vault to keep: its chunks, each once, and the checks that need no bytes. Pure."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fireline_controller.model import EvidenceError
from fireline_wire.manifest import Artifact

_EMPTY: Final = hashlib.sha256().hexdigest()
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,239}\Z")  # NAME_MAX is 255


@dataclass(frozen=True, slots=True)
class Slot:
    """The first place in a manifest where a chunk stands."""

    artifact: str
    index: int
    digest: str
    size: int

    def __str__(self) -> str:
        return f"artifact {self.artifact}, chunk {self.index}"


@dataclass(frozen=True)
class ChunkRange:
    """Consecutive chunks of one artifact, to be asked of the agent in this order."""

    artifact: str
    first: int
    count: int


def slots(artifacts: Iterable[Artifact]) -> dict[str, Slot]:
    """Every chunk of the manifest once, by its SHA-256, in the manifest's order.

    Raises:
        EvidenceError: the manifest contradicts itself: one hash for two lengths, or an artifact of one chunk or of
            none whose own hash is not that chunk's.
    """
    found: dict[str, Slot] = {}
    for artifact in artifacts:
        whole = artifact.chunks[0] if artifact.chunks else _EMPTY
        if len(artifact.chunks) < 2 and artifact.sha256 != whole:
            raise EvidenceError(f"artifact {artifact.name}: its SHA-256 is not that of its only chunk")
        for index, digest in enumerate(artifact.chunks):
            slot = Slot(artifact.name, index, digest, artifact.chunk_size(index))
            require_size(slot, found.setdefault(digest, slot).size)
    return found


def require_size(slot: Slot, size: int) -> None:
    """See that a chunk is as long here as elsewhere.

    Raises:
        EvidenceError: it is not: two byte strings of different length don't have one SHA-256.
    """
    if slot.size != size:
        raise EvidenceError(f"{slot}: {slot.size} bytes by the manifest, but that hash is of {size} bytes")


def ranges(wanted: Iterable[Slot]) -> tuple[ChunkRange, ...]:
    """The slots as ranges, in the order given."""
    return tuple(_ranges(wanted))


def require_key(key: str) -> str:
    """The key, when it can name a file and nothing else.

    Raises:
        ValueError: it can't.
    """
    if _KEY.match(key) is None:
        raise ValueError(f"{key[:80]!r} can't be a pack's key: wanted at most 240 of A-Z a-z 0-9 . _ -")
    return key


def batches(digests: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The digests in pieces of at most that many, as one question to the index may hold."""
    return (digests[start : start + size] for start in range(0, len(digests), size))


def _ranges(wanted: Iterable[Slot]) -> Iterator[ChunkRange]:
    open_range: ChunkRange | None = None
    for slot in wanted:
        if open_range and (slot.artifact, slot.index) == (open_range.artifact, open_range.first + open_range.count):
            open_range = ChunkRange(open_range.artifact, open_range.first, open_range.count + 1)
            continue
        if open_range:
            yield open_range
        open_range = ChunkRange(slot.artifact, slot.index, 1)
    if open_range:
        yield open_range
