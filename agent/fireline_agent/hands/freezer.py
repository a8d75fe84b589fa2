"""The door to the kernel's freezer: processes stand still in a group of their own, keep everything, and go on later.

Version 2 of control groups where it is mounted, also beside version 1; else version 1's freezer. The groups lie outside
the agent's own service, so that stopping the service does not touch them. Leaves to others: which processes.

Sources: Documentation/admin-guide/cgroup-v2.rst (cgroup.freeze) and cgroup-v1/freezer-subsystem.rst of the kernel.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.hands import procfs

_ROOT: Final = "fireline-isolation"
_FROZEN_S: Final = 3.0  # a process inside the kernel stops when it comes out
_PAUSE_S: Final = 0.01
_ENDED: Final = frozenset("ZX")  # proc_pid_stat(5)
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Freezer:
    """One hierarchy that can freeze: where it is mounted, and whether it is version 2."""

    mount: Path
    is_v2: bool

    def group(self, name: str) -> "FrozenGroup":
        """The group of a name; it is not made yet."""
        return FrozenGroup(self, self.mount / _ROOT / name)

    def origin(self, pid: int) -> str:
        """The group that a process is in, below the mount; the root where it can't be told."""
        raw = procfs.words(Path(f"/proc/{pid}/cgroup")) or ""
        pattern = r"^0::/(.*)$" if self.is_v2 else r"^\d+:(?:[^:]*,)?freezer(?:,[^:]*)?:/(.*)$"
        match = re.search(pattern, raw, re.MULTILINE)
        return match[1] if match and ".." not in match[1] else ""

    def put_back(self, pid: int, origin: str) -> None:
        """Move a process to where it was, or to the root where that group is gone."""
        for folder in (self.mount / origin, self.mount):
            with suppress(OSError):
                (folder / "cgroup.procs").write_text(str(pid))
                return


@dataclass(frozen=True)
class FrozenGroup:
    """A group whose processes stand still once `freeze` was called."""

    freezer: Freezer
    folder: Path

    def create(self) -> None:
        """Make it.

        Raises:
            OSError: it can't be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, pid: int) -> bool:
        """Move a process with its threads into it; False where it ended or may not be moved."""
        try:
            (self.folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            return False
        return True

    def pids(self) -> set[int]:
        """Who is in it; nobody where it is not there."""
        with suppress(OSError):
            return {int(word) for word in (self.folder / "cgroup.procs").read_text().split()}
        return set()

    def freeze(self) -> None:
        """Let everything in it stand still, and wait until it does.

        Raises:
            OSError: the kernel did not stop it in time; what can be stopped is.
        """
        self._write(is_frozen=True)
        until = time.monotonic() + _FROZEN_S
        while not self.is_frozen():
            if time.monotonic() >= until:
                raise OSError(f"{self.folder}: not all of it stood still within {_FROZEN_S:g} s")
            time.sleep(_PAUSE_S)

    def thaw(self) -> None:
        """Let it go on; nothing where the group is not there."""
        with suppress(FileNotFoundError):
            self._write(is_frozen=False)

    def is_frozen(self) -> bool:
        """Whether everything in it stands still."""
        with suppress(OSError):
            if self.freezer.is_v2:
                return "frozen 1" in (self.folder / "cgroup.events").read_text()
            return (self.folder / "freezer.state").read_text().strip() == "FROZEN"
        return False

    def remove(self) -> None:
        """Remove it, and what holds all of ours, once they are empty."""
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _write(self, *, is_frozen: bool) -> None:
        if self.freezer.is_v2:
            (self.folder / "cgroup.freeze").write_text("1" if is_frozen else "0")
        else:
            (self.folder / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")


def find() -> Freezer | None:
    """The hierarchy that freezes on this host, or None."""
    mounts = list(procfs.mounts(procfs.read(_MOUNTS) or b""))
    for mount in mounts:
        if mount.kind == b"cgroup2" and (found := _usable(Freezer(Path(os.fsdecode(mount.point)), is_v2=True))):
            return found
    for mount in mounts:
        is_v1 = mount.kind == b"cgroup" and b"freezer" in mount.super_options.split(b",")
        if is_v1 and (found := _usable(Freezer(Path(os.fsdecode(mount.point)), is_v2=False))):
            return found
    return None


@contextmanager
def outside_service() -> Iterator[None]:
    """Keep this process out of the agent's service while the block lasts, however a service manager tracks it."""
    left: list[Path] = []
    for mount in procfs.mounts(procfs.read(_MOUNTS) or b""):
        if mount.kind == b"cgroup2" or (mount.kind == b"cgroup" and b"name=systemd" in mount.super_options):
            folder = Path(os.fsdecode(mount.point)) / _ROOT / "lease"
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "cgroup.procs").write_text(str(os.getpid()))
                left.append(folder)
    try:
        yield
    finally:
        for folder in left:
            with suppress(OSError):
                (folder.parent.parent / "cgroup.procs").write_text(str(os.getpid()))
                folder.rmdir()
                folder.parent.rmdir()


def tree(roots: Iterable[int]) -> set[int]:
    """Processes with all their descendants, as they are now; those that ended and wait for their parents are left out.

    A parent that stands still never fetches them, and no group takes them.
    """
    parents = {}
    for process in procfs.processes(Path("/proc")):
        with process:
            stat = process.stat()
            if stat is not None and stat.state not in _ENDED:
                parents[process.pid] = stat.ppid
    found = {pid for pid in roots if pid in parents}
    while fresh := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= fresh
    return found


def _usable(freezer: Freezer) -> Freezer | None:
    """The root of version 2 can't be frozen, so a group of ours must show that others can."""
    folder = freezer.mount / _ROOT
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        if (folder / ("cgroup.freeze" if freezer.is_v2 else "freezer.state")).exists():
            return freezer
    return None
