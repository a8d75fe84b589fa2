"""The door to single files that are looked at without a trace: content, birth, link and capabilities, no time changed.

A file is named by an open folder and its name there, so that nobody who renames folders meanwhile leads it elsewhere.
Leaves to others: how it was found (tree), what it means.
"""

import ctypes
import os
import stat
import struct
from contextlib import suppress
from io import FileIO
from typing import Final

_EMPTY_PATH: Final = 0x1000  # AT_EMPTY_PATH, linux/fcntl.h
_NOFOLLOW: Final = 0x100  # AT_SYMLINK_NOFOLLOW, linux/fcntl.h
_STATX_BTIME: Final = 0x800  # linux/stat.h
_STATX: Final = struct.Struct("=I76xqI")  # mask at 0, the birth time's seconds and nanoseconds at 80
_STATX_BYTES: Final = 256
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_libc = ctypes.CDLL(None, use_errno=True)


def opened(folder: int, name: str, identity: tuple[int, int]) -> FileIO:
    """Open a regular file to read, without touching its access time where that may be.

    Args:
        folder: the open folder that it lies in.
        name: as os.fsdecode makes it.
        identity: the file's device and inode when it was found.

    Raises:
        OSError: it is gone, refuses, is no plain file, or another one has its name by now.
    """
    try:
        descriptor = os.open(name, _FLAGS | os.O_NOATIME, dir_fd=folder)
    except PermissionError:  # another owner's
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) != identity or not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError("another file has its place")
    return FileIO(descriptor, "rb")


def born_ns(folder: int, name: str = "") -> int | None:
    """When a file was made, nanoseconds since 1970; None where its file system does not say (statx(2)).

    Without a name the open folder itself is meant.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _NOFOLLOW if name else _NOFOLLOW | _EMPTY_PATH
    try:
        status = _libc.statx(folder, os.fsencode(name), flags, _STATX_BTIME, buffer)
    except AttributeError:  # a C library without it
        return None
    mask, seconds, nanoseconds = _STATX.unpack_from(buffer.raw)
    return seconds * 10**9 + nanoseconds if status == 0 and mask & _STATX_BTIME else None


def link_target(folder: int, name: str) -> bytes | None:
    """Where a symbolic link points; None where it is gone."""
    with suppress(OSError):
        return os.readlink(os.fsencode(name), dir_fd=folder)
    return None


def has_capabilities(descriptor: int) -> bool:
    """Whether an open file carries capabilities, which make a program as mighty as setuid does (capabilities(7))."""
    with suppress(OSError):
        return bool(os.getxattr(descriptor, "security.capability"))
    return False
