"""The door to a backup in a tar archive: unpacked into a fresh folder, every name checked, its hash taken on the way.

An archive may be hostile: only folders, regular files, and links that stay inside are taken, never through a link.
Leaves to others: where the folder goes.

Sources: tar(5); CVE-2007-4559 for what Python's tarfile lets through.
"""

import errno
import hashlib
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from fireline_agent.hands import places

_MAX_MEMBERS: Final = 5_000_000
_MODE: Final = 0o777  # setuid bits are not brought back: what needs them comes with the image
_READ_BYTES: Final = 1 << 20


class BadArchive(Exception):
    """The archive is damaged, is another than was named, or wants to write where it must not."""


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        return data


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    with places.folder_of(path) as (folder, name):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            yield file


def unpack(path: str, into: Path, *, wanted_sha256: str) -> int:
    """Unpack an archive into a folder that is not there yet, durably; returns the bytes of its files.

    Raises:
        BadArchive: another hash than wanted, or a member that is not taken; nothing is left.
        OSError: it can't be read, or there is no space; nothing is left.
    """
    into.mkdir(mode=0o700)
    try:
        with _opened(path) as file:
            total = _unpacked(file, into, wanted_sha256)
        _sync(into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return total


def _unpacked(file: IO[bytes], into: Path, wanted: str) -> int:
    hashing, total = _Hashing(file), 0
    links: set[str] = set()
    try:
        # As a stream: what is unpacked is what is hashed, whoever writes to the file meanwhile.
        with tarfile.open(fileobj=hashing, mode="r|*") as archive:  # type: ignore[call-overload]  # reads only
            archive.extraction_filter = staticmethod(lambda member, _path: member)  # checked below
            for number, member in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise BadArchive(f"over {_MAX_MEMBERS} members")
                checked = _checked(member, links)
                if checked is not None:
                    archive.extract(checked, into, numeric_owner=True)
                    total += checked.size
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadArchive(f"no whole tar archive: {error}") from None
    while hashing.read(_READ_BYTES):
        pass
    found = hashing.digest.hexdigest()
    if found != wanted:
        raise BadArchive(f"wanted SHA-256 {wanted}, found {found}: another file, or a damaged one")
    return total


def _checked(member: tarfile.TarInfo, links: set[str]) -> tarfile.TarInfo | None:
    """The member as it may be unpacked; None for the archive's own root."""
    name = posixpath.normpath(member.name)
    if name.startswith(("/", "../")) or name == "..":
        raise BadArchive(f"{member.name[:200]!r} leads out of the archive")
    if name in links or any(parent in links for parent in _parents(name)):
        raise BadArchive(f"{member.name[:200]!r} lies behind a link, or in the place of one")
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise BadArchive(f"{member.name[:200]!r} is a device or a pipe")
    if member.issym() or member.islnk():
        _require_inside(member, name, links)
    if member.issym():
        links.add(name)
    if name == ".":
        return None
    return member.replace(name=name, mode=member.mode & _MODE, deep=False)


def _require_inside(member: tarfile.TarInfo, name: str, links: set[str]) -> None:
    """A hard link is another name of a file at once, so nothing on the way to it may be a symbolic link either."""
    start = posixpath.dirname(name) if member.issym() else ""
    target = posixpath.normpath(posixpath.join(start, member.linkname))
    if member.linkname.startswith("/") or target.startswith("../") or target == "..":
        raise BadArchive(f"the link {member.name[:200]!r} leads out of the archive")
    if member.islnk() and (
        ".." in member.linkname.split("/") or any(part in links for part in (target, *_parents(target)))
    ):
        raise BadArchive(f"the hard link {member.name[:200]!r} goes through a symbolic one")


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _sync(folder: Path) -> None:
    """Everything of its file system on the disk: one call for thousands of files (syncfs(2))."""
    os.sync()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap(data: Path, fresh: Path, former: Path) -> None:
    """Put a fresh folder in the place of another, which gets the name `former`; owner and mode as before.

    Raises:
        OSError: one of them is not there, or `former` is; then all is as it was.
    """
    found = data.stat(follow_symlinks=False)
    if former.exists():
        raise OSError(errno.EEXIST, f"{former} is there already: move it away first")
    os.chown(fresh, found.st_uid, found.st_gid)
    fresh.chmod(found.st_mode & 0o7777)
    data.rename(former)
    try:
        fresh.rename(data)
    except OSError:
        former.rename(data)
        raise
    _sync(data.parent)


def discard(folder: Path) -> None:
    """Remove what was unpacked and never used."""
    shutil.rmtree(folder, ignore_errors=True)
