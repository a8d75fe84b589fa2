"""How segments make an image again, and what is refused of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from fireline_wire.image import CHUNK_BYTES, FORMAT, BadImage, Segment, assemble, next_offset

DATA = b"a" * CHUNK_BYTES


def _facts(start: int, end: int, *, size: int, content: bytes, **changes: Any) -> dict[str, Any]:
    runs = [[start, len(content)]] if content else []
    digest = hashlib.sha256(content.ljust(min(end - start, 8 * CHUNK_BYTES), b"\0")).hexdigest()
    base = {"format": FORMAT, "offset_bytes": start, "end_bytes": end, "source_size_bytes": size, "runs": runs}
    return base | {"range_sha256": digest} | changes


def _segment(start: int, end: int, *, size: int, content: bytes = b"", **changes: Any) -> Segment:
    return Segment.from_facts(f"s{start}", _facts(start, end, size=size, content=content, **changes))


def _bytes(*pieces: bytes) -> Iterator[bytes]:
    return iter(pieces)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[IO[bytes]]:
    """A file to put an image into."""
    with (tmp_path / "image").open("w+b") as file:
        yield file


def test_segments_make_the_image_with_its_zeros(out: IO[bytes]) -> None:
    """Pieces of any length, holes before and after; the hash is over all of it."""
    size = 4 * CHUNK_BYTES + 5
    first = _segment(0, 2 * CHUNK_BYTES, size=size, content=DATA)
    second = _segment(2 * CHUNK_BYTES, size, size=size)
    out.write(b"old" * CHUNK_BYTES)

    found = assemble([(first, _bytes(DATA[:7], DATA[7:])), (second, _bytes())], out)

    expected = DATA + bytes(3 * CHUNK_BYTES + 5)
    out.seek(0)
    is_same = out.read() == expected
    assert is_same
    assert found == hashlib.sha256(expected).hexdigest()


def test_the_next_capture_goes_on_where_the_segments_end() -> None:
    """A gap stops it; the order in which they come does not matter."""
    segments = [_segment(a, a + 10, size=50) for a in (10, 0, 30)]

    assert next_offset(segments) == 20
    assert next_offset([]) == 0


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({}, "no whole segment"),
        (_facts(0, 10, size=10, content=b"", format="x"), "wanted format"),
        (_facts(0, 10, size=10, content=b"", runs=[[5, 3], [6, 1]]), "overlaps"),
        (_facts(0, 10, size=10, content=b"", runs=[[5, 50]]), "runs up to 55"),
        (_facts(0, 10, size=10, content=b"", runs=[[5, -1]]), "overlaps"),
        (_facts(0, 10, size=10, content=b"", runs=[["x", 1]]), "no whole segment"),
        (_facts(0, 10, size=5, content=b""), "of 5"),
        (_facts(0, 1 << 60, size=1 << 60, content=b""), "covers"),
    ],
)
def test_facts_of_a_hostile_host_are_refused(facts: dict[str, Any], problem: str) -> None:
    """Ranges that overlap, run out of the segment or are without bound never reach the disk."""
    with pytest.raises(BadImage, match=problem):
        Segment.from_facts("disk/x.img", facts)


def test_an_image_with_a_gap_a_lie_or_an_end_too_early_is_refused(out: IO[bytes]) -> None:
    """Each is named with its segment and place."""
    whole = _segment(0, CHUNK_BYTES, size=CHUNK_BYTES, content=DATA)
    part = _segment(0, CHUNK_BYTES, size=2 * CHUNK_BYTES, content=DATA)
    late = _segment(CHUNK_BYTES, 2 * CHUNK_BYTES, size=2 * CHUNK_BYTES)

    with pytest.raises(BadImage, match="another hash than it says"):
        assemble([(whole, _bytes(b"b" * CHUNK_BYTES))], out)
    with pytest.raises(BadImage, match="ends before 7"):
        assemble([(whole, _bytes(DATA[:7]))], out)
    with pytest.raises(BadImage, match="capture on with offset_bytes=1048576"):
        assemble([(part, _bytes(DATA))], out)
    with pytest.raises(BadImage, match="wanted the segment at 0"):
        assemble([(late, _bytes())], out)
