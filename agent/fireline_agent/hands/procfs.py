"""The door to /proc: processes as they are now, read without a fork, whatever their names hold.

A process may vanish between any two reads and may be closed to us: neither is an error here. Everything comes back
as bytes, since names, arguments and paths may hold any byte. Leaves to others: what stands out.

Sources: proc(5) and its pages proc_pid_stat(5), proc_pid_maps(5), proc_pid_mountinfo(5); Documentation/filesystems/
proc.rst of the kernel.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h: a kernel thread, which user space can't fake
_READ_BYTES: Final = 1 << 16
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.EINVAL})
_CONTAINER_ID: Final = re.compile(rb"[/-]([0-9a-f]{64})(?:\.scope)?(?:/|$)", re.MULTILINE)
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Stat(NamedTuple):
    """The parts of /proc/PID/stat that matter. Times are clock ticks, `start_ticks` since the machine's boot."""

    comm: bytes
    state: str
    ppid: int
    group: int
    session: int
    terminal: int
    flags: int
    user_ticks: int
    system_ticks: int
    threads: int
    start_ticks: int
    virtual_bytes: int
    resident_pages: int


class Mount(NamedTuple):
    """One line of mountinfo; `point` and `root` are unescaped."""

    id: int
    device: str
    root: bytes
    point: bytes
    options: bytes
    kind: bytes
    source: bytes
    super_options: bytes


class Region(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    device: str
    inode: int
    path: bytes


@dataclass
class Process:
    """One process, pinned by its directory: a pid that is used again is never taken for the first one.

    `denied` collects the names of what may not be read. Use as a context manager, or `close`.
    """

    pid: int
    directory: int
    denied: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.directory)

    def read(self, name: str) -> bytes | None:
        """The whole of one file; None when the process is gone, the file isn't there or may not be read."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=self.directory)
        except OSError as error:
            self._refused(name, error)
            return None
        try:
            return _read_all(descriptor)
        except OSError as error:
            self._refused(name, error)
            return None
        finally:
            os.close(descriptor)

    def link(self, name: str) -> bytes | None:
        """Where a link points; None as for `read`."""
        try:
            return os.readlink(os.fsencode(name), dir_fd=self.directory)
        except OSError as error:
            self._refused(name, error)
            return None

    def names(self, name: str) -> list[str]:
        """The names in one of its directories; empty when it is gone or closed to us."""
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, dir_fd=self.directory)
        except OSError as error:
            self._refused(name, error)
            return []
        try:
            return _listed(descriptor)
        finally:
            os.close(descriptor)

    def descriptors(self) -> Iterator[tuple[int, bytes]]:
        """Open files as (number, what the link shows), as far as they may be looked at."""
        try:
            directory = os.open("fd", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, dir_fd=self.directory)
        except OSError as error:
            self._refused("fd", error)
            return
        try:
            for name in _listed(directory):
                try:
                    yield int(name), os.readlink(name.encode(), dir_fd=directory)
                except OSError as error:
                    self._refused("fd", error)
        finally:
            os.close(directory)

    def stat(self) -> Stat | None:
        """The parsed stat file; None when the process is gone."""
        raw = self.read("stat")
        return parse_stat(raw) if raw else None

    def _refused(self, name: str, error: OSError) -> None:
        if error.errno not in _GONE and name not in self.denied:
            self.denied.append(name)


def pids(proc: Path) -> list[int]:
    """The process ids that reading the directory shows, in ascending order."""
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if entry.name.isdecimal())


def processes(proc: Path) -> Iterator[Process]:
    """Every process that reading the directory shows; the caller closes each. Those that vanish are left out."""
    for pid in pids(proc):
        process = opened(proc, pid)
        if process is not None:
            yield process


def opened(proc: Path, pid: int) -> Process | None:
    """The process with this id, or None when there is none (or none that may be seen)."""
    try:
        return Process(pid, os.open(f"{proc}/{pid}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
    except OSError:
        return None


def read(path: Path) -> bytes | None:
    """A file outside the process directories; None when it isn't there or may not be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def words(path: Path) -> str | None:
    """A short file as text without blanks around; None as for `read`."""
    raw = read(path)
    return None if raw is None else raw.decode(errors="backslashreplace").strip()


def parse_stat(raw: bytes) -> Stat | None:
    """Parse /proc/PID/stat. A name may hold blanks, brackets and newlines: only the last bracket ends it."""
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    if len(fields) < 22 or b"(" not in head:
        return None
    return Stat(
        comm=head.partition(b"(")[2],
        state=fields[0].decode(),
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        terminal=int(fields[4]),
        flags=int(fields[6]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        virtual_bytes=int(fields[20]),
        resident_pages=int(fields[21]),
    )


def parse_status(raw: bytes) -> dict[str, str]:
    """Parse /proc/PID/status into its lines; a newline in the name is escaped by the kernel."""
    lines = raw.decode(errors="backslashreplace").split("\n")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def parse_maps(raw: bytes) -> Iterator[Region]:
    """Parse /proc/PID/maps; lines that don't fit are passed over."""
    for line in raw.split(b"\n"):
        parts = line.split(None, 5)
        if len(parts) < 5:
            continue
        start, _, end = parts[0].partition(b"-")
        path = parts[5] if len(parts) > 5 else b""
        yield Region(int(start, 16), int(end, 16), parts[1].decode(), parts[3].decode(), int(parts[4]), path)


def mounts(raw: bytes) -> Iterator[Mount]:
    """Parse mountinfo; lines that don't fit are passed over."""
    for line in raw.splitlines():
        head, found, tail = line.partition(b" - ")
        left, right = head.split(b" "), tail.split(b" ", 2)
        if not found or len(left) < 6 or len(right) < 3:
            continue
        yield Mount(
            id=int(left[0]),
            device=left[2].decode(),
            root=unescape(left[3]),
            point=unescape(left[4]),
            options=left[5],
            kind=right[0],
            source=unescape(right[1]),
            super_options=right[2],
        )


def unescape(raw: bytes) -> bytes:
    """Undo the octal escapes that the kernel puts for blanks, newlines and backslashes."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), raw) if b"\\" in raw else raw


def container_id(cgroup: bytes) -> str:
    """The container id that a cgroup file names (Docker, containerd, Podman, CRI-O), or empty."""
    found = _CONTAINER_ID.findall(cgroup)
    return found[-1].decode() if found else ""


def restriction(proc: Path) -> str:
    """Why this process doesn't see every process, as a sentence; empty when it does, as far as can be told."""
    if (proc / "1").exists():
        return ""
    return f"{proc} is restricted: process 1 can't be seen, so others may be hidden from the agent too (hidepid?)"


def _listed(descriptor: int) -> list[str]:
    try:
        with os.scandir(descriptor) as entries:
            return [entry.name for entry in entries]
    except OSError:  # gone between opening and listing
        return []


def _read_all(descriptor: int) -> bytes:
    block = os.read(descriptor, _READ_BYTES)
    blocks = [block]
    while block:  # a short read is no end: seq_file gives a page at a time
        block = os.read(descriptor, _READ_BYTES)
        blocks.append(block)
    return b"".join(blocks)
