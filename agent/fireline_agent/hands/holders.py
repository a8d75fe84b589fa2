"""Which files are in use: open, mapped, run or stood in by a process, known by device and inode and not by name.

Leaves to others: what that forbids. Sources: proc_pid_fd(5), proc_pid_map_files(5).
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.hands import procfs
from fireline_agent.hands.procfs import Process

Identity = tuple[int, int]  # st_dev, st_ino
_PLACES: Final = ("cwd", "root", "exe")


@dataclass(frozen=True)
class Holder:
    """A process that uses a file; `comm` is whatever it calls itself, so any text."""

    pid: int
    comm: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.comm})"


@dataclass(frozen=True)
class Deleted:
    """A file without a name that takes space for as long as a process has it open. `size_bytes`: on the disk."""

    identity: Identity
    path: str
    size_bytes: int
    holders: tuple[Holder, ...]


def held(proc: Path = Path("/proc")) -> Mapping[Identity, Holder]:
    """Every file and folder that a process other than this one uses, with one that does."""
    return {(found.st_dev, found.st_ino): holder for holder, _, found in _uses(proc)}


def deleted(proc: Path = Path("/proc")) -> list[Deleted]:
    """Deleted files on disks that are still open, the largest first."""
    found: dict[Identity, tuple[str, int, dict[int, Holder]]] = {}
    for holder, path, status in _uses(proc):
        if status.st_nlink == 0 and stat.S_ISREG(status.st_mode) and status.st_blocks and _is_on_disk(path):
            identity = (status.st_dev, status.st_ino)
            known = found.setdefault(identity, (path.removesuffix(" (deleted)"), status.st_blocks * 512, {}))
            known[2][holder.pid] = holder
    each = [Deleted(identity, path, size, tuple(by.values())) for identity, (path, size, by) in found.items()]
    return sorted(each, key=lambda one: (-one.size_bytes, one.path))


def _uses(proc: Path) -> Iterator[tuple[Holder, str, os.stat_result]]:
    for process in procfs.processes(proc):
        with process:
            if process.pid == os.getpid():
                continue
            comm = (process.read("comm") or b"?").rstrip(b"\n").decode(errors="backslashreplace")
            holder = Holder(process.pid, comm)
            for name in _names(process):
                try:
                    found = os.stat(name, dir_fd=process.directory)
                    path = os.fsdecode(os.readlink(name, dir_fd=process.directory))
                except OSError:
                    continue
                yield holder, path, found


def _is_on_disk(path: str) -> bool:
    """Memory that programs share has paths of its own: memfd_create(2), shmget(2), mmap(2) of /dev/zero."""
    return path.startswith("/") and not path.startswith(("/memfd:", "/SYSV", "/dev/zero"))


def _names(process: Process) -> Iterator[str]:
    yield from _PLACES
    for folder in ("fd", "map_files"):
        yield from (f"{folder}/{name}" for name in process.names(folder))
