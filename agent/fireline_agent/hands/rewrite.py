"""The door to a file that is written anew: aside, on the disk, then in its place in one step; owner and mode as before.

No part of the path is followed as a link, and a file that was swapped meanwhile is left alone. Leaves to others: what
is written.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from fireline_agent.hands import places

MAX_BYTES: Final = 1 << 20  # files that are rewritten are settings: a larger one is a mistake
STAGED: Final = ".fireline-new-"


@dataclass(frozen=True)
class Held:
    """A file as it was read; `content` may be a secret, and is never shown."""

    path: str
    content: bytes = field(repr=False)
    device: int
    inode: int
    modified_ns: int
    mode: int
    uid: int
    gid: int
    attributes: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    @property
    def identity(self) -> str:
        """What tells it from another file, or from itself after a change; nothing of what is in it."""
        return f"{self.device}:{self.inode}:{self.modified_ns}:{len(self.content)}"


def read(path: str) -> Held:
    """Read a regular file.

    Raises:
        OSError: it is not there, a link or its path holds one, no regular file, or over 1 MiB; the message names it.
    """
    with places.folder_of(path) as (folder, name):
        return _read(path, folder, name)


@contextmanager
def staged(
    path: str, content: bytes, like: Held | None = None, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> Iterator["Staged"]:
    """Write the new file beside the old one, on the disk and with its owner; see Staged. Gone at the end of the block.

    Args:
        path: of the file.
        content: what is to be in it.
        like: the old one, which must still stand there when the new one takes its place; None where there is none.
        mode: of a file that was not there before, or that gets another owner.
        owner: user and group that the file gets, whoever had the old one.

    Raises:
        OSError: no space, a read-only file system, a path with a link in it.
    """
    with places.folder_of(path) as (folder, name):
        waiting: Staged | None = None
        fresh = f"{STAGED}{secrets.token_hex(4)}-{name}"[:255]
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                _make_alike(file.fileno(), like, mode, owner)
                os.fsync(file.fileno())
            waiting = Staged(path, folder, name, fresh, like)
            yield waiting
        finally:
            if waiting is None or not waiting.is_kept:
                with suppress(FileNotFoundError):
                    os.unlink(fresh, dir_fd=folder)


def leftovers(path: str) -> list[str]:
    """Files that a rewriting of this one left beside it when it was killed in the middle.

    Raises:
        OSError: the path holds a link, or a part of it is not there.
    """
    with places.folder_of(path) as (folder, name):
        marks = re.compile(rf"{re.escape(STAGED)}[0-9a-f]{{8}}-{re.escape(name)}\Z")
        found = sorted(entry for entry in os.listdir(folder) if marks.match(entry))  # noqa: PTH208 -- a descriptor
    return [f"{path.rpartition('/')[0]}/{entry}" for entry in found]


@dataclass
class Staged:
    """A new file that waits beside the old one; one that `is_kept` stays there where it does not take the place."""

    path: str
    folder: int
    name: str
    fresh: str
    like: Held | None
    is_kept: bool = False

    @property
    def waits_at(self) -> str:
        """Its own path."""
        return f"{self.path.rpartition('/')[0]}/{self.fresh}"

    def take_place(self) -> None:
        """Put it in the old one's place, durably.

        Raises:
            OSError: another file stands there by now.
        """
        if self.like is not None:
            now = os.lstat(self.name, dir_fd=self.folder)
            if (now.st_dev, now.st_ino, now.st_mtime_ns) != (self.like.device, self.like.inode, self.like.modified_ns):
                raise OSError(errno.ESTALE, f"{self.path} was changed meanwhile: nothing was put in its place")
            os.rename(self.fresh, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        else:
            os.link(self.fresh, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)
        os.fsync(self.folder)


def replace(path: str, content: bytes, like: Held | None = None, *, mode: int = 0o600) -> None:
    """All of it in one step.

    Raises:
        OSError: as `staged` and `take_place`.
    """
    with staged(path, content, like, mode=mode) as fresh:
        fresh.take_place()


def _read(path: str, folder: int, name: str) -> Held:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise places.Trapped(f"{path} is a symbolic link: name the real path") from None
        raise OSError(error.errno, f"{path}: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path}: wanted a regular file, found {stat.filemode(found.st_mode)}")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{path}: over {MAX_BYTES} bytes: this is no file of settings or secrets")
        return Held(
            path, content, found.st_dev, found.st_ino, found.st_mtime_ns, stat.S_IMODE(found.st_mode),
            found.st_uid, found.st_gid, tuple(_attributes(descriptor)),
        )  # fmt: skip


def _attributes(descriptor: int) -> Iterator[tuple[str, bytes]]:
    with suppress(OSError):  # a file system without them
        for key in os.listxattr(descriptor):
            yield key, os.getxattr(descriptor, key)


def _make_alike(descriptor: int, like: Held | None, mode: int, owner: tuple[int, int] | None) -> None:
    """By the descriptor: the folder may belong to somebody who puts a link in the name's place."""
    if like is not None:
        os.fchown(descriptor, like.uid, like.gid)
        os.fchmod(descriptor, like.mode)  # after the owner: chown(2) clears setuid
        for key, value in like.attributes:
            os.setxattr(descriptor, key, value)
    if owner is not None:
        os.fchown(descriptor, *owner)
    if like is None or owner is not None:
        os.fchmod(descriptor, mode)


def write(path: str, content: bytes, *, uid: int, gid: int, mode: int, like: Held | None = None) -> None:
    """A file with an owner and a mode of its own, in one step.

    Raises:
        OSError: as `replace`.
    """
    with staged(path, content, like, mode=mode, owner=(uid, gid)) as fresh:
        fresh.take_place()
