"""Packs: records that prove themselves, and what is left of a pack that was cut off."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller.model import ChunkPlace, EvidenceError, StoreError
from fireline_controller.vault import DiskFull
from fireline_controller.vault.packs import PackWriter, read_record, require_room, scan_file
from tests.fakes.captures import noise

TEXT = b"May 01 10:00:00 web-1 sshd[812]: Accepted publickey for root\n" * 4000


def written(path: Path, *chunks: bytes, compress: bool = True) -> list[ChunkPlace]:
    """A pack with these chunks."""
    pack, _ = PackWriter.open(path, reserve_bytes=0)
    places = [pack.append(hashlib.sha256(c).hexdigest(), c, compress=compress) for c in chunks]
    pack.close()
    return places


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    """What is appended is read again, compressed or not, the empty chunk too."""
    chunks = (TEXT, noise(100_000), b"", b"x")

    places = written(tmp_path / "a.pack", *chunks)

    assert [read_record(tmp_path / "a.pack", place) for place in places] == list(chunks)
    assert scan_file(tmp_path / "a.pack").places == tuple(places)


def test_only_what_compresses_is_compressed(tmp_path: Path) -> None:
    """Text shrinks; noise, and noise after a start that compresses, are kept as they are."""
    mixed = TEXT[: 64 << 10] + noise(900_000)

    text, random, late = written(tmp_path / "a.pack", TEXT, noise(200_000), mixed)

    assert text.stored_bytes < text.raw_bytes / 10
    assert random.stored_bytes == random.raw_bytes
    assert late.stored_bytes == late.raw_bytes
    assert written(tmp_path / "b.pack", TEXT, compress=False)[0].stored_bytes == len(TEXT)


@given(cut=st.integers(min_value=0, max_value=294))
def test_a_torn_end_is_dropped(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A pack cut off at any byte yields its whole records, and goes on after them."""
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    places = written(path, b"a" * 40, b"b" * 50, b"c" * 60, compress=False)
    os.truncate(path, cut)
    whole = [p for p in places if p.offset + 48 + p.stored_bytes <= cut]

    pack, found = PackWriter.open(path, reserve_bytes=0)
    place = pack.append(hashlib.sha256(b"d").hexdigest(), b"d", compress=False)
    pack.close()

    assert found.places == tuple(whole)
    assert found.torn_bytes == cut - found.end
    assert scan_file(path).places == (*whole, place)


@given(bit=st.integers(min_value=0, max_value=(48 + 40 + 48 + 50) * 8 - 1))
def test_i7_a_flipped_bit_in_a_pack_is_found(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    """I7: whichever bit of a pack is flipped, the record that it is in does not come out."""
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    places = written(path, b"a" * 40, b"b" * 50, compress=False)
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    is_second = bit >= (48 + 40) * 8

    with pytest.raises(EvidenceError, match=r"the record at byte \d+ of .* does not match its SHA-256"):
        read_record(path, places[is_second])
    assert read_record(path, places[not is_second]) == (b"a" * 40 if is_second else b"b" * 50)


def test_a_lying_frame_allocates_nothing(tmp_path: Path) -> None:
    """A compressed record whose frame claims more than its header is refused before it is unpacked."""
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    (place,) = written(tmp_path / "a.pack", TEXT)
    content = bytearray((tmp_path / "a.pack").read_bytes()[:48]) + bomb
    content[12:16] = len(bomb).to_bytes(4)
    (tmp_path / "a.pack").write_bytes(content)
    forged = ChunkPlace(place.sha256, "a", 0, len(bomb), place.raw_bytes)

    with pytest.raises(EvidenceError, match="does not match its SHA-256"):
        read_record(tmp_path / "a.pack", forged)


def test_a_missing_pack_is_named(tmp_path: Path) -> None:
    """The message says which chunk and which file."""
    with pytest.raises(EvidenceError, match=r"chunk aaaaaaaaaaaaaaaa: its pack .*gone.pack is missing"):
        read_record(tmp_path / "gone.pack", ChunkPlace("a" * 64, "gone", 0, 1, 1))


def test_a_pack_has_one_writer(tmp_path: Path) -> None:
    """A second writer is told that another process has the pack."""
    first, _ = PackWriter.open(tmp_path / "a.pack", reserve_bytes=0)

    with pytest.raises(StoreError, match=r"a.pack is being received by another process; wait"):
        PackWriter.open(tmp_path / "a.pack", reserve_bytes=0)
    first.close()
    PackWriter.open(tmp_path / "a.pack", reserve_bytes=0)[0].close()


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link where a pack should be is an error, not a way out of the folder."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "a.pack").symlink_to(tmp_path / "victim")

    with pytest.raises(StoreError, match=r"a.pack: Too many levels of symbolic links"):
        PackWriter.open(tmp_path / "a.pack", reserve_bytes=0)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_packs_are_for_their_owner_only(tmp_path: Path) -> None:
    """Evidence is no one else's business."""
    written(tmp_path / "a.pack", b"x")

    assert (tmp_path / "a.pack").stat().st_mode & 0o777 == 0o600


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    """Room is refused with the figures when it would eat the reserve."""
    with pytest.raises(DiskFull, match=r"no room for 10 bytes of evidence: \d+ are free and \d+ of them are reserved"):
        require_room(tmp_path, 10, reserve_bytes=1 << 60)
