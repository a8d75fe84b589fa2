"""The door to files by paths that hold no trap: no part of a path is ever followed as a link.

What is opened is the folder; names in it are then used relative to that, so that nobody can swap a part of the path in
between. Leaves to others: what is done with a file. Sources: openat(2), path_resolution(7).
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Final

_HASH_BYTES: Final = 1 << 20


class Trapped(OSError):
    """A part of a path is a link or no folder; the message names it."""


@contextmanager
def folder_of(path: str) -> Iterator[tuple[int, str]]:
    """The opened folder of an absolute path, and the last name of the path.

    Raises:
        Trapped: a part on the way is a symbolic link or no folder.
        OSError: a part is not there or may not be entered.
    """
    pure = PurePosixPath(path)
    descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in pure.parts[1:-1]:
            below = _step(descriptor, part, path)
            os.close(descriptor)
            descriptor = below
        yield descriptor, pure.name
    finally:
        os.close(descriptor)


def _step(descriptor: int, part: str, path: str) -> int:
    """One folder down."""
    if stat.S_ISLNK(os.lstat(part, dir_fd=descriptor).st_mode):
        raise Trapped(f"{part!r} in {path!r} is a symbolic link: name the real path")
    try:
        return os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
    except NotADirectoryError:
        raise Trapped(f"{part!r} in {path!r} is no folder") from None


def look(path: str) -> os.stat_result | None:
    """What stands at a path, not followed; None where nothing does.

    Raises:
        OSError: as `folder_of`, but for what is not there.
    """
    try:
        with folder_of(path) as (folder, name):
            return os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return None


def sha256_of(folder: int, name: str, *, wanted: os.stat_result | None = None) -> str:
    """The hash of a regular file in an opened folder, in blocks.

    Raises:
        OSError: it is not there, a link, not regular, or another file than `wanted`.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{name!r} is no regular file")
        if wanted is not None and (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
            raise OSError(f"{name!r} is another file now")
        digest = hashlib.sha256()
        while block := file.read(_HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def copy_into(folder: int, name: str, into: int, new_name: str) -> str:
    """Copy a regular file's bytes into a new file, mode 0600 and on the disk; returns the hash of what was copied.

    Raises:
        OSError: as `sha256_of`, the new one is there already, or there is no space; then nothing is left of it.
    """
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    with os.fdopen(reading, "rb", buffering=0) as source:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(new_name, flags, 0o600, dir_fd=into)
        digest = hashlib.sha256()
        try:
            with os.fdopen(writing, "wb", buffering=0) as target:
                while block := source.read(_HASH_BYTES):
                    digest.update(block)
                    _write_all(target.fileno(), block)
                os.fsync(writing)
        except OSError:
            os.unlink(new_name, dir_fd=into)
            raise
    return digest.hexdigest()


def _write_all(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
