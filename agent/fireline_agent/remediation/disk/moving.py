"""Moving one file to another file system so that it can't be lost: copy, compare by hash, only then remove. No action.

The copy grows under a hidden name and takes its own when it is whole and on the disk. Whoever is cut off begins again
where it stood. Leaves to others: which files.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fireline_agent.hands.printable import printable
from fireline_agent.hands.tree import Folder
from fireline_agent.remediation.action import ActionError

_BLOCK: Final = 1 << 20
_TOLD_BYTES: Final = 256 << 20
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Attributes:
    """What a file has besides its content."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Attributes":
        """From a look at it."""
        return cls(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_atime_ns, found.st_mtime_ns)

    def give(self, descriptor: int) -> None:
        """As far as the file system knows owners and modes."""
        mode = self.mode
        try:
            os.fchown(descriptor, self.uid, self.gid)
        except PermissionError:
            mode &= 0o777  # another's setuid program must not become ours
        with suppress(PermissionError):
            os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(self.atime_ns, self.mtime_ns))


def move(
    source: Folder, name: str, target: Folder, *, attributes: Attributes | None, tell: Callable[[str], None]
) -> tuple[str, os.stat_result]:
    """Move a file between two open folders, under the same name; returns its SHA-256 and what it was.

    `attributes`: other ones than it has now. Done once more after a cut, it goes on.

    Raises:
        ActionError: something else has the name at the target, the copy differs, or the source changes meanwhile.
        OSError: a disk fails or is full; the source is untouched.
    """
    descriptor = os.open(name, _READ, dir_fd=source.fd)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ActionError(f"{_shown(source, name)}: wanted a plain file")
        if _is_there(target, name):
            digest = _hashed(descriptor)
        else:
            digest = _copied(descriptor, name, target, attributes or Attributes.of(found), tell)
        _compare(target, name, digest)
        if _moved(found, os.stat(name, dir_fd=source.fd, follow_symlinks=False)):
            raise ActionError(
                f"{_shown(source, name)}: was written to while it was copied; it stays, and so does the copy"
            )
        os.unlink(name, dir_fd=source.fd)
        os.fsync(source.fd)
        return digest, found
    finally:
        os.close(descriptor)


def _copied(descriptor: int, name: str, target: Folder, attributes: Attributes, tell: Callable[[str], None]) -> str:
    part = f".{name}.fireline-part"
    copy = _taken_up(target, part)
    try:
        try:
            digest = _fill(descriptor, copy, lambda done: tell(f"{printable(name)}: {done >> 20} MiB copied"))
            attributes.give(copy)
            os.fsync(copy)
        except OSError as error:
            with suppress(OSError):
                os.unlink(part, dir_fd=target.fd)
            raise ActionError(f"{_shown(target, name)}: {error.strerror}; the source is untouched") from None
        if _is_there(target, name):
            raise ActionError(
                f"{_shown(target, name)}: came up meanwhile; the copy lies beside it as {printable(part)}"
            )
        os.rename(part, name, src_dir_fd=target.fd, dst_dir_fd=target.fd)
        os.fsync(target.fd)
        return digest
    finally:
        os.close(copy)


def _taken_up(target: Folder, part: str) -> int:
    """The half copy that we left, or a new one: what another user put there could be changed under our hands."""
    with suppress(FileNotFoundError):
        found = os.stat(part, dir_fd=target.fd, follow_symlinks=False)
        if found.st_uid != os.geteuid() or found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
            os.unlink(part, dir_fd=target.fd)
    return os.open(part, _WRITE, 0o600, dir_fd=target.fd)


def _fill(descriptor: int, copy: int, tell: Callable[[int], None]) -> str:
    """Write what lacks in the copy, after what is there already and is the same; returns the hash of all of it."""
    digest: Any = hashlib.sha256()
    at = 0
    while block := os.pread(descriptor, _BLOCK, at):
        if os.pread(copy, len(block), at) != block:
            _write(copy, block, at)
        digest.update(block)
        at += len(block)
        if at % _TOLD_BYTES < _BLOCK:
            tell(at)
    os.ftruncate(copy, at)
    return str(digest.hexdigest())


def _write(copy: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(copy, view, at)
        view, at = view[written:], at + written


def _compare(target: Folder, name: str, digest: str) -> None:
    """Read the copy from the disk, not from memory, as far as the kernel lets go of it."""
    descriptor = os.open(name, _READ, dir_fd=target.fd)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = _hashed(descriptor)
    finally:
        os.close(descriptor)
    if found != digest:
        raise ActionError(
            f"{_shown(target, name)}: wanted SHA-256 {digest[:16]}…, found {found[:16]}…: something else has the name "
            "there, or the disk lies; the source is untouched"
        )


def _hashed(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _moved(before: os.stat_result, now: os.stat_result) -> bool:
    def which(found: os.stat_result) -> tuple[int, ...]:
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    return which(before) != which(now)


def _is_there(folder: Folder, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _shown(folder: Folder, name: str) -> str:
    return printable(f"{folder.path.rstrip('/')}/{name}", limit=500)
