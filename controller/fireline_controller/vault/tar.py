"""The one tar form that a container has (POSIX.1-2001 pax, ustar headers): any other byte is an error.

Names and sizes decide every byte of a header, padding is zeros, the end is two zero blocks: so a file with the same
entries is the same file, and no bit of it is without meaning. Links, devices, sparse files and foreign headers
can't occur. Any tar program unpacks it. Leaves to others: which entries there should be, and what is in them.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from fireline_controller.model import EvidenceError

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)

# The longest name that a container has is below 600 characters.
_MAX_PAX_BYTES: Final = 2048
_PAX_RECORD: Final = re.compile(rb"[0-9]{1,4} (path|size)=([^\n]{1,1024})\n")


@dataclass(frozen=True)
class Entry:
    """A regular file of the container, and where its content is."""

    name: str
    offset: int
    size: int


def header(name: str, size: int) -> bytes:
    """The header blocks of a regular file of that name and size."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="ascii", errors="strict")


def padding(size: int) -> bytes:
    """The zeros after a content of that size."""
    return bytes(-size % BLOCK)


class Reader:
    """Entries of a file of unknown honesty, in order. Contents are read through it and never held."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._last = "the start"

    def entries(self) -> Iterator[Entry]:
        """Each entry, in order.

        Raises:
            EvidenceError: the file is not what its entries would be written as; names where.
        """
        while (entry := self._header()) is not None:
            yield entry
            self._file.seek(entry.offset + entry.size)
            if self._file.read(-entry.size % BLOCK) != padding(entry.size):
                raise EvidenceError(f"{entry.name}: the padding after it is damaged or missing")
            self._last = entry.name
        self._end()

    def content(self, entry: Entry, *, piece_bytes: int) -> Iterator[bytes]:
        """An entry's bytes in pieces of that many; the last one is shorter.

        Raises:
            EvidenceError: the file was cut off since it was opened.
        """
        self._file.seek(entry.offset)
        left = entry.size
        while left:
            data = self._file.read(min(piece_bytes, left))
            if not data:
                raise EvidenceError(f"{entry.name}: the file was cut off while it was read")
            left -= len(data)
            yield data

    def _header(self) -> Entry | None:
        offset = self._file.tell()
        raw = self._file.read(BLOCK)
        if raw == bytes(BLOCK):
            return None
        try:
            raw, name, size = self._parse(raw)
            expected = header(name, size)
        except (ValueError, tarfile.HeaderError):
            raise self._damaged(offset, "it can't be read") from None
        if raw != expected:
            raise self._damaged(offset, f"it says {name[:600]!r} and {size} bytes")
        return self._within(Entry(name, self._file.tell(), size))

    def _within(self, entry: Entry) -> Entry:
        left = self._size - entry.offset
        if entry.size > left:
            raise EvidenceError(f"{entry.name}: the file ends in the middle of it, {entry.size - left} bytes too early")
        return entry

    def _parse(self, block: bytes) -> tuple[bytes, str, int]:
        if block[156:157] != tarfile.XHDTYPE:
            return block, *_ustar(block)
        length = _octal(block[124:136])
        if length > _MAX_PAX_BYTES:
            raise ValueError("extended header too long")
        extended = self._file.read(length + -length % BLOCK)
        plain = self._file.read(BLOCK)
        name, size = _ustar(plain)
        records = dict(_PAX_RECORD.findall(extended))
        path, long_size = records.get(b"path"), records.get(b"size")
        name = path.decode("ascii") if path is not None else name
        return block + extended + plain, name, int(long_size) if long_size is not None else size

    def _end(self) -> None:
        offset = self._file.tell()
        if self._file.read(BLOCK) != bytes(BLOCK) or self._file.read(1):
            raise self._damaged(offset, "wanted a block of zeros and then the end of the file")

    def _damaged(self, offset: int, why: str) -> EvidenceError:
        if offset >= self._size:
            return EvidenceError(f"the file is cut off after {self._last}, at byte {self._size}")
        return EvidenceError(f"the block at byte {offset}, after {self._last}, is damaged: {why}")


def _ustar(block: bytes) -> tuple[str, int]:
    name, prefix = (field.split(b"\0")[0].decode("ascii") for field in (block[:100], block[345:500]))
    return (f"{prefix}/{name}" if prefix else name), _octal(block[124:136])


def _octal(field: bytes) -> int:
    if re.fullmatch(rb"[0-7]{11}\0", field) is None:
        raise ValueError("not an octal number")
    return int(field[:11], 8)
