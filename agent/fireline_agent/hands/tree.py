"""The door to folders with very many files: one walk that never leaves its root, whatever lies below it.

A folder is opened by its name in its parent, never through a symbolic link, and what stands on another file system or
is the place of a mount is not entered. So a walk stays inside its root also while somebody swaps folders for links
under it. Memory is bounded by the depth, not by the number of files. Leaves to others: what is done with the files.

Sources: openat(2), proc_pid_mountinfo(5). Names are text with surrogateescape, as os.fsdecode makes it.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from fireline_agent.hands import procfs

_BLOCK: Final = 1024  # entries that are looked at together
MAX_DEPTH: Final = 200  # folders below one another; each costs two descriptors of the 1,024 that a process has
MOUNTED: Final = "something else is mounted there"
OTHER: Final = "it is another file system"
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class NoFolder(OSError):
    """A named folder can't be walked; the message names it, and the link or file that stands in the way."""


@dataclass
class Folder:
    """An open folder of a walk. `found` is its fstat(2) when it was opened."""

    path: str
    name: str
    fd: int
    depth: int
    found: os.stat_result


class Visitor(Protocol):
    """Who is told what a walk meets. A file that vanishes between two looks is the visitor's to bear."""

    def enter(self, folder: Folder) -> bool:
        """Whether to look into a folder; it was opened, and is closed after `leave`, which comes in either case."""

    def files(self, folder: Folder, entries: Sequence["os.DirEntry[str]"]) -> None:
        """Some of what lies in it and is no folder. `entry.stat(follow_symlinks=False)` asks through its descriptor."""

    def leave(self, folder: Folder) -> None:
        """Everything in it and below it was told."""

    def skipped(self, folder: Folder, name: str, why: str) -> None:
        """A folder in it was not entered; `.` is the rest of itself."""


@dataclass
class _Frame:
    folder: Folder
    entries: Iterator["os.DirEntry[str]"]
    listing: Any
    pending: list[str] = field(default_factory=list)


@contextmanager
def opened(path: str) -> Iterator[Folder]:
    """Open a folder by an absolute path in which no part is a symbolic link.

    Raises:
        NoFolder: it is none, is not there, or a part of its path is a link.
    """
    names = [name for name in path.split("/") if name]
    fd = os.open("/", _FLAGS)
    try:
        for at, name in enumerate(names):
            fd = _replaced(fd, name, "/" + "/".join(names[: at + 1]))
        yield Folder(path, names[-1] if names else "/", fd, 0, os.fstat(fd))
    finally:
        os.close(fd)


@contextmanager
def opened_below(top: Folder, relative: str) -> Iterator[Folder]:
    """Open a folder below another, by the same rules; `relative` is empty for the folder itself.

    Raises:
        NoFolder: as `opened`; also where it has become another file system.
    """
    fd = os.dup(top.fd)
    names = [name for name in relative.split("/") if name]
    try:
        for at, name in enumerate(names):
            path = "/".join([top.path.rstrip("/"), *names[: at + 1]])
            fd = _replaced(fd, name, path)
            if os.fstat(fd).st_dev != top.found.st_dev:
                raise NoFolder(errno.EXDEV, "is on another file system now", path)
        path = "/".join([top.path.rstrip("/"), *names]) or "/"
        yield Folder(path, names[-1] if names else top.name, fd, 0, os.fstat(fd))
    finally:
        os.close(fd)


def _replaced(fd: int, name: str, path: str) -> int:
    try:
        below = os.open(name, _FLAGS, dir_fd=fd)
    except OSError as error:
        raise NoFolder(error.errno, _why(fd, name, error), path) from None
    os.close(fd)
    return below


def _why(fd: int, name: str, error: OSError) -> str:
    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
        return error.strerror or str(error)
    try:
        return f"is a symbolic link to {os.readlink(name, dir_fd=fd)}; name the real folder"
    except OSError:
        return "is no folder"


def mount_points(proc: Path = Path("/proc")) -> frozenset[str]:
    """Where something is mounted: a bind mount of the same file system shows in no st_dev."""
    return frozenset(os.fsdecode(mount.point) for mount in procfs.mounts(procfs.read(proc / "self/mountinfo") or b""))


def walk(top: Folder, visitor: Visitor, mounts: Iterable[str]) -> None:
    """Tell the visitor of everything at and below a folder, files before the folders beside them."""
    inside = frozenset(point for point in mounts if point.startswith(f"{top.path.rstrip('/')}/"))
    stack: list[_Frame] = []
    try:
        _go_in(stack, top, visitor)
        while stack:
            frame = stack[-1]
            if frame.pending:
                _descend(stack, frame, visitor, inside)
            elif block := _block(frame, visitor):
                _look(frame, block, visitor)
            else:
                _go_out(stack, visitor)
    finally:
        for frame in stack:
            _close(frame)


def _block(frame: _Frame, visitor: Visitor) -> list["os.DirEntry[str]"]:
    """The next entries; a folder that can't be read to its end ends there."""
    try:
        return list(islice(frame.entries, _BLOCK))
    except OSError as error:
        visitor.skipped(frame.folder, ".", f"it can't be read to its end: {error.strerror}")
        return []


def _look(frame: _Frame, block: list["os.DirEntry[str]"], visitor: Visitor) -> None:
    folders = [entry.name for entry in block if entry.is_dir(follow_symlinks=False)]
    if folders:
        known = set(folders)
        block = [entry for entry in block if entry.name not in known]
    if block:
        visitor.files(frame.folder, block)
    frame.pending = folders[::-1]


def _descend(stack: list[_Frame], frame: _Frame, visitor: Visitor, mounts: frozenset[str]) -> None:
    name, parent = frame.pending.pop(), frame.folder
    path = f"{parent.path.rstrip('/')}/{name}"
    if path in mounts:
        visitor.skipped(parent, name, MOUNTED)
        return
    if len(stack) >= MAX_DEPTH:
        visitor.skipped(parent, name, f"it lies more than {MAX_DEPTH} folders deep")
        return
    try:
        fd = os.open(name, _FLAGS, dir_fd=parent.fd)
    except OSError as error:
        if error.errno != errno.ENOENT:
            visitor.skipped(parent, name, error.strerror or str(error))
        return
    folder = Folder(path, name, fd, parent.depth + 1, os.fstat(fd))
    if folder.found.st_dev != parent.found.st_dev:
        os.close(fd)
        visitor.skipped(parent, name, OTHER)
        return
    _go_in(stack, folder, visitor)


def _go_in(stack: list[_Frame], folder: Folder, visitor: Visitor) -> None:
    if visitor.enter(folder):
        listing: Any = os.scandir(folder.fd)
        stack.append(_Frame(folder, iter(listing), listing))
    else:
        stack.append(_Frame(folder, iter(()), None))


def _go_out(stack: list[_Frame], visitor: Visitor) -> None:
    try:
        visitor.leave(stack[-1].folder)
    finally:
        _close(stack.pop())


def _close(frame: _Frame) -> None:
    if frame.listing is not None:
        frame.listing.close()
    if frame.folder.depth:  # the top is its opener's
        os.close(frame.folder.fd)
