"""The door to a tree of files: one walk that follows no link, leaves no file system and holds few things in memory.

Every step goes from an open folder to a name in it, so that nobody who renames folders meanwhile leads it elsewhere
(openat(2)). Leaves to others: what the files mean.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MAX_DEPTH: Final = 200  # each level holds two descriptors; a process has 1024
_MAX_NAMED: Final = 100  # file systems and folders that are named as left out
_AT_SYMLINK_NOFOLLOW: Final = 0x100  # linux/fcntl.h
_STATX_BTIME: Final = 0x800  # linux/stat.h
_STATX: Final = struct.Struct("=I76xqI")  # mask at 0, the birth time's seconds and nanoseconds at 80
_STATX_BYTES: Final = 256

_libc = ctypes.CDLL(None, use_errno=True)


class File(NamedTuple):
    """One thing in the tree: its whole path, and its name in the open folder that it was found in."""

    path: bytes
    name: bytes
    folder: int
    status: os.stat_result


@dataclass
class _Level:
    """A folder that the walk is in."""

    path: bytes
    descriptor: int
    entries: "Iterator[os.DirEntry[str]]"

    def next(self) -> "os.DirEntry[str] | None":
        return next(self.entries, None)

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass
class Walk:
    """What one walk has seen; `other_file_systems` and `lacks` name what it left out, up to a bound.

    `marks` are identities of folders; those that the walk comes to are put into `passed`.
    """

    marks: frozenset[tuple[int, int]] = frozenset()
    files: int = 0
    folders: int = 0
    other_file_systems: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    passed: set[tuple[int, int]] = field(default_factory=set)

    def below(self, root: bytes) -> Iterator[File]:
        """Everything below a folder, in no order; a link is followed for the folder itself and nowhere else.

        The descriptors given out hold until the next step.
        """
        levels: list[_Level] = []
        try:
            self._enter(levels, root.rstrip(b"/"), os.fsencode(root), None, None)
            device = os.fstat(levels[0].descriptor).st_dev if levels else 0
            while levels:
                file = self._next(levels, device)
                if file is None:
                    continue
                yield file
                if stat.S_ISDIR(file.status.st_mode):
                    self._enter(levels, file.path, file.name, file.folder, file.status)
        finally:
            for level in levels:
                level.close()

    def _next(self, levels: list[_Level], device: int) -> File | None:
        level = levels[-1]
        try:
            entry = level.next()
        except OSError as error:
            self._lack(level.path, error)
            entry = None
        if entry is None:
            levels.pop().close()
            return None
        name = os.fsencode(entry.name)
        path = level.path + b"/" + name
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None  # gone since it was listed
        except OSError as error:
            self._lack(path, error)
            return None
        if status.st_dev != device:
            self._note(self.other_file_systems, path)
            return None
        self.files += 1
        return File(path, name, level.descriptor, status)

    def _enter(
        self, levels: list[_Level], path: bytes, name: bytes, parent: int | None, expected: os.stat_result | None
    ) -> None:
        if len(levels) >= MAX_DEPTH:
            self._note(self.lacks, path[:300] + b": deeper than %d folders, left out" % MAX_DEPTH)
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if parent is None else os.O_NOFOLLOW)
        try:
            descriptor = os.open(name, flags, dir_fd=parent)
        except OSError as error:
            self._lack(path, error)
            return
        found = os.fstat(descriptor)
        identity = (found.st_dev, found.st_ino)
        # Another folder may have its name by now, or another file system lie on it.
        if expected is not None and identity != (expected.st_dev, expected.st_ino):
            os.close(descriptor)
            self._note(self.other_file_systems, path)
            return
        if identity in self.marks:
            self.passed.add(identity)
        self.folders += 1
        levels.append(_Level(path, descriptor, os.scandir(descriptor)))

    def _lack(self, path: bytes, error: OSError) -> None:
        self._note(self.lacks, path + b": " + (error.strerror or "unreadable").encode())

    @staticmethod
    def _note(names: list[str], name: bytes) -> None:
        if len(names) < _MAX_NAMED:
            names.append(name.decode(errors="backslashreplace"))


def open_quietly(file: File) -> int | None:
    """Open a regular file to read, without touching its access time where that may be; None where it can't be.

    What has taken the file's name since it was listed is not opened.
    """
    base = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    for flags in (base | os.O_NOATIME, base):
        with suppress(OSError):
            descriptor = os.open(file.name, flags, dir_fd=file.folder)
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) == (file.status.st_dev, file.status.st_ino) and stat.S_ISREG(found.st_mode):
                return descriptor
            os.close(descriptor)
            return None
    return None


def born_ns(file: File) -> int | None:
    """When the file was made, nanoseconds since 1970; None where its file system does not say (statx(2))."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        status = _libc.statx(file.folder, file.name, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer)
    except AttributeError:  # a C library without it
        return None
    mask, seconds, nanoseconds = _STATX.unpack_from(buffer.raw)
    return seconds * 10**9 + nanoseconds if status == 0 and mask & _STATX_BTIME else None


def link_target(file: File) -> bytes | None:
    """Where a symbolic link points; None where it is gone."""
    with suppress(OSError):
        return os.readlink(file.name, dir_fd=file.folder)
    return None


def has_capabilities(descriptor: int) -> bool:
    """Whether an open file carries capabilities, which make a program as mighty as setuid does (capabilities(7))."""
    with suppress(OSError):
        return bool(os.getxattr(descriptor, "security.capability"))
    return False
