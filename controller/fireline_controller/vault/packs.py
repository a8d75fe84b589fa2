"""Pack files: chunks appended as records that prove themselves, so that a pack cut off anywhere is still of use.

A record is a header (magic, codec, raw and stored length, SHA-256 of the raw bytes) and the stored bytes. All here
blocks and is called in threads. Leaves to others: which chunks are wanted (receive) and where they are (the index).
"""

import errno
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from fireline_controller.model import ChunkPlace, EvidenceError, StoreError
from fireline_wire import durable

_HEADER: Final = struct.Struct(">4sBxxxII32s")
_MAGIC: Final = b"FLP1"
_RAW: Final = 0
_ZSTD: Final = 1

# A chunk is far smaller; a manifest's envelope is one record whatever its length (64 MiB in base64, and signatures).
MAX_RECORD_BYTES: Final = 96 << 20
# Level 1 runs at a fifth of SHA-256's speed; higher ones gain a few per cent and cost twice that.
_LEVEL: Final = 1
_PROBE_BYTES: Final = 64 << 10
_WORTHWHILE: Final = 0.9


class DiskFull(StoreError):
    """The vault's file system has no room; the message names the folder and the bytes."""

    reason = "disk_full"


@dataclass(frozen=True)
class Scan:
    """What a pack holds: its whole records in order, where the last one ends, and how many bytes follow it."""

    places: tuple[ChunkPlace, ...]
    end: int
    torn_bytes: int


class PackWriter:
    """A pack that grows. Threads may append at the same time; records never mix."""

    def __init__(self, path: Path, descriptor: int, end: int, *, reserve_bytes: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = end
        self._reserve_bytes = reserve_bytes
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, *, reserve_bytes: int) -> "tuple[PackWriter, Scan]":
        """Open a pack to go on where it was left: a torn record at its end is cut off.

        Raises:
            StoreError: another process is writing it, or it can't be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise as_store_error(error, path, 0) from None
        try:
            _lock(descriptor, path)
            found = scan(descriptor, path.stem)
            os.ftruncate(descriptor, found.end)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, found.end, reserve_bytes=reserve_bytes), found

    def append(self, digest: str, data: bytes, *, compress: bool) -> ChunkPlace:
        """Append a record; it is not durable before `publish`.

        Raises:
            DiskFull: there is no room beside the reserve; the pack ends with its last whole record.
            StoreError: it can't be written.
        """
        codec, stored = _encode(data, compress=compress)
        header = _HEADER.pack(_MAGIC, codec, len(data), len(stored), bytes.fromhex(digest))
        with self._lock:
            offset = self._end
            self._write(header, stored)
            self._end = offset + len(header) + len(stored)
        return ChunkPlace(digest, self._path.stem, offset, len(stored), len(data))

    def _write(self, *parts: bytes) -> None:
        size = sum(map(len, parts))
        try:
            require_room(self._path.parent, size, reserve_bytes=self._reserve_bytes)
            offset = self._end
            for part in parts:
                offset = _pwrite_all(self._descriptor, part, offset)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise as_store_error(error, self._path.parent, size) from None

    def publish(self, target: Path) -> None:
        """Make all records durable and give the pack its final place; then close it.

        Raises:
            StoreError: the disk would not keep it. What it says is not written may be gone from the page cache too, so
                the pack is removed: a second fsync would call it durable (the kernel reports such an error once).
        """
        with self._lock:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._path.unlink(missing_ok=True)
                raise as_store_error(error, self._path, self._end) from None
            self._path.rename(target)
            durable.sync_folder(target.parent)
            durable.sync_folder(self._path.parent)
            self.close()

    def discard(self) -> None:
        """Remove the pack; then close it."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file and give up its lock; once more does nothing."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1


def scan(descriptor: int, pack: str) -> Scan:
    """Read a pack from its start and check every record, up to the first that is not whole."""
    places = []
    end = 0
    for place in _records(descriptor, pack):
        places.append(place)
        end = place.offset + _HEADER.size + place.stored_bytes
    return Scan(tuple(places), end, os.fstat(descriptor).st_size - end)


def scan_file(path: Path) -> Scan:
    """Scan a pack that nobody writes any more."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return scan(descriptor, path.stem)
    finally:
        os.close(descriptor)


def remove_stale(path: Path, *, before_s: float) -> bool:
    """Remove a pack that nobody has written since that time (seconds of the epoch); whether it was removed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_mtime >= before_s:
            return False
        _lock(descriptor, path)
        path.unlink()
    except StoreError:
        return False
    finally:
        os.close(descriptor)
    return True


def read_record(path: Path, place: ChunkPlace) -> bytes:
    """The raw bytes of one record, once they were found to match their SHA-256.

    Raises:
        EvidenceError: the pack is missing or cut off, or the record is not what the place says or does not match.
    """
    short = place.sha256[:16]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise EvidenceError(f"chunk {short}: its pack {path} is missing") from None
    try:
        header = os.pread(descriptor, _HEADER.size, place.offset)
        stored = os.pread(descriptor, place.stored_bytes, place.offset + _HEADER.size)
    finally:
        os.close(descriptor)
    data = _decode(header, stored)
    if data is None or header[-32:].hex() != place.sha256 or hashlib.sha256(data).hexdigest() != place.sha256:
        raise EvidenceError(f"chunk {short}: the record at byte {place.offset} of {path} does not match its SHA-256")
    return data


def require_room(folder: Path, size: int, *, reserve_bytes: int) -> None:
    """See that so many bytes fit and the reserve stays free: the journal may live on the same file system.

    Raises:
        DiskFull: they don't.
    """
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if size + reserve_bytes > free:
        raise DiskFull(
            f"{folder}: no room for {size} bytes of evidence: {free} are free and {reserve_bytes} of them are"
            " reserved; make room, then capture again"
        )


def as_store_error(error: OSError, where: Path, size: int) -> StoreError:
    """The error of the tree for what the operating system said."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{where}: the disk is full: {size} bytes could not be written; make room, then try again")
    return StoreError(f"{where}: {error.strerror or error}")


def _records(descriptor: int, pack: str) -> Iterator[ChunkPlace]:
    offset = 0
    while True:
        header = os.pread(descriptor, _HEADER.size, offset)
        if len(header) < _HEADER.size:
            return
        magic, _, raw_bytes, stored_bytes, digest = _HEADER.unpack(header)
        if magic != _MAGIC or stored_bytes > MAX_RECORD_BYTES:
            return
        data = _decode(header, os.pread(descriptor, stored_bytes, offset + _HEADER.size))
        if data is None or hashlib.sha256(data).digest() != digest:
            return
        yield ChunkPlace(digest.hex(), pack, offset, stored_bytes, raw_bytes)
        offset += _HEADER.size + stored_bytes


def _encode(data: bytes, *, compress: bool) -> tuple[int, bytes]:
    if not compress:
        return _RAW, data
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    probe = data[:_PROBE_BYTES]
    if len(compressor.compress(probe)) > _WORTHWHILE * len(probe):
        return _RAW, data
    stored = compressor.compress(data)
    return (_ZSTD, stored) if len(stored) < _WORTHWHILE * len(data) else (_RAW, data)


def _decode(header: bytes, stored: bytes) -> bytes | None:
    if len(header) != _HEADER.size:
        return None
    magic, codec, raw_bytes, stored_bytes, digest = _HEADER.unpack(header)
    if magic != _MAGIC or len(stored) != stored_bytes or raw_bytes > MAX_RECORD_BYTES:
        return None
    if header != _HEADER.pack(magic, codec, raw_bytes, stored_bytes, digest):
        return None  # the filling is zeros: no bit of a pack is without meaning
    if codec == _RAW:
        return stored if raw_bytes == stored_bytes else None
    return _decompress(stored, raw_bytes) if codec == _ZSTD else None


def _decompress(stored: bytes, raw_bytes: int) -> bytes | None:
    try:
        # The frame's own figure decides how much is allocated: it must be the header's, which is bounded.
        if zstandard.frame_content_size(stored) != raw_bytes:
            return None
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw_bytes)
    except zstandard.ZstdError:
        return None


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{path} is being received by another process; wait for that one") from None
    # The file may have been published by its writer between our open and our lock: that one is no longer ours.
    found = path.stat(follow_symlinks=False) if path.exists() else None
    if found is None or found.st_ino != os.fstat(descriptor).st_ino:
        raise StoreError(f"{path} was just received by another process")


def _pwrite_all(descriptor: int, data: bytes, offset: int) -> int:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
    return offset
