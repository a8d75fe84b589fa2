"""The door to a disk or an image file that is read as it is: its size, its holes, its bytes, bad places told apart.

Opens read-only and never through a link at the last name. Leaves to others: what is kept of it (capture).

Sources: lseek(2) on SEEK_DATA, posix_fadvise(2), ioctl BLKGETSIZE64 of linux/fs.h, sysfs block devices.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

_BLKGETSIZE64: Final = 0x80081272  # linux/fs.h
_SECTOR_BYTES: Final = 4096  # the piece that is given up where a place can't be read


@dataclass
class Source:
    """A block device or a regular file, open to be read. Use as a context manager.

    `unreadable` collects (offset, length) of places that the disk does not give; they read as zeros.
    """

    path: str
    descriptor: int
    size: int
    is_device: bool
    identity: dict[str, Any]
    unreadable: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def open(cls, path: str, *, sys: Path = Path("/sys")) -> Self:
        """Open it.

        Raises:
            OSError: it is not there, is a link, or may not be read.
            ValueError: it is neither a block device nor a regular file.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except PermissionError:
            raise PermissionError(
                f"{path} may not be opened: where the agent is confined by its unit, allow it there with "
                f"`DeviceAllow={path} r` (systemctl edit fireline-agent)"
            ) from None
        try:
            found = os.fstat(descriptor)
            is_device = stat.S_ISBLK(found.st_mode)
            if not is_device and not stat.S_ISREG(found.st_mode):
                raise ValueError(
                    f"{path}: wanted a block device or a regular file, found {stat.filemode(found.st_mode)}"
                )
            size = _device_bytes(descriptor) if is_device else found.st_size
            return cls(path, descriptor, size, is_device, _identity(found, is_device=is_device, sys=sys))
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where there is data, as (start, end); a block device and a file system without holes are one piece."""
        at = start
        while at < end:
            try:
                first = os.lseek(self.descriptor, at, os.SEEK_DATA)
                last = os.lseek(self.descriptor, first, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                first, last = at, end
            if first >= end:
                return
            yield first, min(last, end)
            at = last

    def read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes: zeros in the place of what can't be read or is not there any more."""
        try:
            data = _read_all(self.descriptor, offset, length)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENODATA, errno.EREMOTEIO):
                raise
            data = b"".join(self._piece(at, offset + length) for at in range(offset, offset + length, _SECTOR_BYTES))
        if len(data) < length:
            self._mark(offset + len(data), length - len(data))
        # The host's own files stay in its page cache, not what was read for us.
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        return data.ljust(length, b"\0")

    def _piece(self, at: int, end: int) -> bytes:
        length = min(_SECTOR_BYTES, end - at)
        try:
            return _read_all(self.descriptor, at, length).ljust(length, b"\0")
        except OSError:
            self._mark(at, length)
            return bytes(length)

    def _mark(self, offset: int, length: int) -> None:
        if self.unreadable and sum(self.unreadable[-1]) == offset:
            first, before = self.unreadable.pop()
            offset, length = first, before + length
        self.unreadable.append((offset, length))


def _read_all(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def _device_bytes(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8))
    return int(struct.unpack("=Q", answer)[0])


def _identity(found: os.stat_result, *, is_device: bool, sys: Path) -> dict[str, Any]:
    """What tells this source from another: numbers, and for a disk what its firmware says of it."""
    if not is_device:
        number = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        return {"device": number, "inode": found.st_ino, "modified_ns": found.st_mtime_ns}
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    folder = sys / "dev/block" / number
    told = {}
    for name in ("device/model", "device/serial", "device/wwid", "ro", "loop/backing_file", "dm/name", "partition"):
        with suppress(OSError):
            told[name] = (folder / name).read_text(errors="replace").strip()[:200]
    return {"device": number, **told}
