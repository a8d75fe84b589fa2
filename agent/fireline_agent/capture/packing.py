"""What files hold, as one tar archive that stays within a budget: whole where that fits, else both ends of a file.

Leaves to others: which files (selected_files), and the hash of every one of them, which is kept in any case.
"""

import os
import stat
import tarfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import RawIOBase
from typing import IO, Any, Final, cast

from fireline_agent.capture.collector import ArtifactWriter

_BLOCK_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 4 * tarfile.BLOCKSIZE  # of a piece: two headers, one with times and a long name, and the padding
_TAIL_BYTES: Final = 2 * tarfile.RECORDSIZE  # the end of the archive


def fair_share(wanted: Iterable[int], room: int) -> int:
    """The most that each may have so that all together fit: what somebody does not need, the others share."""
    ordered = sorted(wanted)
    for at, size in enumerate(ordered):
        share = max(0, room) // (len(ordered) - at)
        if size > share:
            return share
        room -= size
    return ordered[-1] if ordered else 0


@dataclass
class Wanted:
    """What a file would take in the archive, of all files that are to be in it.

    Attributes:
        whole_bytes: of a larger file both ends are wanted and no more.
        end_bytes: of each of these ends.
    """

    whole_bytes: int
    end_bytes: int
    _sizes: "array[int]" = field(default_factory=lambda: array("Q"))

    def add(self, name: str, size: int) -> None:
        """Count a file in."""
        self._sizes.append(self.of(size) + _frame_bytes(name))

    def of(self, size: int) -> int:
        """How much of a file is wanted."""
        return size if size <= self.whole_bytes else min(size, 2 * self.end_bytes)

    def share(self, room: int) -> int:
        """What each file may take, names and padding included."""
        return fair_share(self._sizes, room - _TAIL_BYTES)


@dataclass
class Counts:
    """Files by how much of them is kept."""

    whole: int = 0
    in_part: int = 0
    left_out: int = 0


@contextmanager
def packed(out: ArtifactWriter, wanted: Wanted, room: int, counts: Counts) -> "Iterator[Archive]":
    """The archive of an artifact, ended when the block is left.

    Raises:
        OutputLimit: there is no space after all.
    """
    target = cast(IO[bytes], _Out(out))
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        yield Archive(tar, wanted, room, counts)


class Archive:
    """The archive while it is written."""

    def __init__(self, tar: tarfile.TarFile, wanted: Wanted, room: int, counts: Counts) -> None:
        self._tar = tar
        self._wanted = wanted
        self._share = wanted.share(room)
        self._left = room - _TAIL_BYTES
        self._counts = counts

    def add(self, path: str, file: IO[bytes]) -> None:
        """Put a file in, or as much of it as its share and what is left allow.

        Raises:
            OutputLimit: there is no space after all.
        """
        found = os.fstat(file.fileno())
        name, size = path.lstrip("/"), found.st_size
        kept = min(self._wanted.of(size), min(self._share, self._left) - _frame_bytes(name))
        if kept <= 0 < size:
            self._counts.left_out += 1
            return
        kept = max(0, kept)
        self._left -= kept + _frame_bytes(name)
        if kept == size:
            self._counts.whole += 1
            self._piece(name, found, file, size)
            return
        self._counts.in_part += 1
        first, last = kept - kept // 2, kept // 2
        self._piece(f"{name}.first-{first}", found, file, first)
        file.seek(size - last)
        self._piece(f"{name}.last-{last}", found, file, last)

    def _piece(self, name: str, found: os.stat_result, file: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, stat.S_IMODE(found.st_mode), found.st_mtime_ns / 1e9
        member.uid, member.gid = found.st_uid, found.st_gid
        self._tar.addfile(member, cast(IO[bytes], _Padded(file, size)))


def _frame_bytes(name: str) -> int:
    """What a file's pieces take beside its content."""
    return 2 * (_HEAD_BYTES + 2 * len(os.fsencode(name)))


class _Out(RawIOBase):
    """An artifact as a file that is only written to."""

    def __init__(self, artifact: ArtifactWriter) -> None:
        self._artifact = artifact

    def write(self, data: Any) -> int:
        self._artifact.write(bytes(data))
        return len(data)


class _Padded:
    """Exactly so many bytes of a file: one that was cut short meanwhile goes on with zeros, as tar(1) does it."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = _BLOCK_BYTES) -> bytes:
        wanted = min(size, self._left)
        self._left -= wanted
        return self._file.read(wanted).ljust(wanted, b"\0")
