"""How the raw image of a disk lies in evidence, and how it is put together again and proved.

An image is taken in segments, in one capture or several. A segment's bytes are its chunks that are not all zeros, one
after the other; its facts say where they belong (`runs`: offset and length in the source), which range it covers, and
the hash over that range with the zeros. Leaves to others: taking it (the agent's capture), evidence (the vault).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, Self

FORMAT: Final = "fireline-image-1"
CHUNK_BYTES: Final = 1 << 20
_MAX_BYTES: Final = 1 << 50
_ZEROS: Final = bytes(CHUNK_BYTES)


class BadImage(ValueError):
    """Segments do not make an image; the message names the place."""


@dataclass(frozen=True)
class Segment:
    """One segment as its facts tell; nothing of them is believed before it is checked."""

    name: str
    start: int
    end: int
    runs: tuple[tuple[int, int], ...]
    sha256: str
    source_size: int

    @classmethod
    def from_facts(cls, name: str, facts: Mapping[str, Any]) -> Self:
        """Read from an artifact's facts.

        Raises:
            BadImage: they are not those of a whole segment.
        """
        try:
            if facts["format"] != FORMAT:
                raise BadImage(f"{name}: wanted format {FORMAT}, found {facts['format']!r:.50}")
            runs = tuple((int(offset), int(length)) for offset, length in facts["runs"])
            numbers = (int(facts["offset_bytes"]), int(facts["end_bytes"]), int(facts["source_size_bytes"]))
            found = cls(name, *numbers[:2], runs, str(facts["range_sha256"]), numbers[2])
        except (KeyError, TypeError, ValueError) as error:
            raise BadImage(f"{name}: no whole segment: {type(error).__name__} {error}") from None
        found._require_order()
        return found

    @property
    def data_bytes(self) -> int:
        """How many bytes are kept of it."""
        return sum(length for _, length in self.runs)

    def _require_order(self) -> None:
        at = self.start
        for offset, length in self.runs:
            if offset < at or length <= 0:
                raise BadImage(f"{self.name}: the run at {offset} lies outside or overlaps")
            at = offset + length
        if not 0 <= self.start <= at <= self.end <= self.source_size <= _MAX_BYTES:
            raise BadImage(f"{self.name}: covers {self.start} to {self.end} of {self.source_size}, runs up to {at}")


def segment_name(start: int) -> str:
    """The artifact of the segment at an offset."""
    return f"disk/{start:016d}.img"


def next_offset(segments: Iterable[Segment], *, start: int = 0) -> int:
    """Where the next capture goes on: the end of the segments that follow each other from the start."""
    at = start
    for segment in sorted(segments, key=lambda s: s.start):
        if segment.start > at:
            break
        at = max(at, segment.end)
    return at


def assemble(segments: Iterable[tuple[Segment, Iterator[bytes]]], out: IO[bytes]) -> str:
    """Write the raw image into a seekable file, sparse where there were zeros; returns the hash over all of it.

    Args:
        segments: from the first to the last, each with its kept bytes.
        out: a file; what was in it is gone.

    Raises:
        BadImage: a segment lacks, overlaps, is short, or has another hash than it says.
    """
    whole, at, size = hashlib.sha256(), 0, 0
    out.truncate(0)
    for segment, data in segments:
        if segment.start != at or (at and segment.source_size != size):
            raise BadImage(f"{segment.name}: wanted the segment at {at}, found the one at {segment.start}")
        digest = hashlib.sha256()
        for offset, piece in _pieces(segment, data):
            digest.update(piece)
            whole.update(piece)
            if piece.count(0) != len(piece):
                out.seek(offset)
                out.write(piece)
        if digest.hexdigest() != segment.sha256:
            raise BadImage(f"{segment.name}: its bytes have another hash than it says")
        at, size = segment.end, segment.source_size
    if at != size:
        raise BadImage(f"the image ends at {at} of {size}: capture on with offset_bytes={at}")
    out.truncate(size)
    return whole.hexdigest()


def _pieces(segment: Segment, data: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """The segment's range piece by piece, zeros where nothing was kept."""
    at, held = segment.start, b""
    for offset, length in segment.runs:
        yield from _zeros(at, offset)
        left, place = length, offset
        while left:
            held = held or next(data, b"")
            if not held:
                raise BadImage(f"{segment.name}: ends before {place}")
            piece, held = held[:left], held[left:]
            yield place, piece
            place, left = place + len(piece), left - len(piece)
        at = offset + length
    yield from _zeros(at, segment.end)


def _zeros(start: int, end: int) -> Iterator[tuple[int, bytes]]:
    for at in range(start, end, CHUNK_BYTES):
        yield at, _ZEROS[: min(CHUNK_BYTES, end - at)]
