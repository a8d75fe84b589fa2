"""The door to processes of our own: start a worker, confine a child, see who is left and end it.

Leaves to others: binding children together by control groups (cgroup).

Sources: prctl(2), ioprio_set(2), setns(2), proc_pid_stat(5), proc_tid_children(5).
"""

import asyncio
import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}  # system call numbers; the C library has no function for it
_IOPRIO_BEST_EFFORT_6: Final = 2 << 13 | 6  # linux/ioprio.h: one above the lowest of the normal class
_NICE: Final = 5
_KILL_PAUSE_S: Final = 0.01
_SPARE_ADDRESS_BYTES: Final = 256 << 20  # what the interpreter maps before a collector has read anything

_libc = ctypes.CDLL(None, use_errno=True)


async def start_module(
    module: str, *arguments: str, stderr: IO[bytes], line_bytes: int = 1 << 16
) -> asyncio.subprocess.Process:
    """Start a module of this program in a process and session of its own, with pipes to it.

    It finds the same packages as this process and inherits nothing else of its environment. No line that it writes may
    be longer than `line_bytes`.
    """
    return await asyncio.create_subprocess_exec(
        *module_command(module, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        cwd="/",
        env=module_environment(),
        start_new_session=True,
        limit=line_bytes,
    )


def run_module(module: str, *arguments: str, given: bytes, timeout_s: float) -> bytes:
    """Run a module of this program to its end with these bytes as its input; returns its output. Blocking.

    Raises:
        OSError: it can't be started, did not end in time, or failed; the message holds what it complained of.
    """
    try:
        ended = subprocess.run(
            module_command(module, arguments),
            input=given,
            capture_output=True,
            timeout=timeout_s,
            cwd="/",
            env=module_environment(),
            check=True,
        )
    except subprocess.SubprocessError as error:
        complaint = getattr(error, "stderr", None) or b""
        raise OSError(f"{module}: {error}: {complaint[-2000:].decode(errors='replace')}") from None
    return ended.stdout


def module_command(module: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """How a module of this program is started."""
    return (sys.executable, "-P", "-m", module, *arguments)


def module_environment() -> dict[str, str]:
    """Enough to find the same packages as this process; nothing else of what it inherited."""
    return {
        "LANG": "C.UTF-8",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, so that none gets away."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def yield_to_others() -> None:
    """Take less of the CPU and of the disks than the host's own work, and be the first to go when memory is out."""
    with suppress(OSError):
        os.nice(_NICE)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        _libc.syscall(number, 1, 0, _IOPRIO_BEST_EFFORT_6)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit(*, file_bytes: int, address_bytes: int | None = None) -> None:
    """Bind this process and its children singly: the size of a file, no core dumps, and address space if given."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, value in ((resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_AS, address_bytes)):
        if value is None:
            continue
        spare = _SPARE_ADDRESS_BYTES if kind == resource.RLIMIT_AS else 0
        _, hard = resource.getrlimit(kind)
        wanted = value + spare if hard == resource.RLIM_INFINITY else min(value + spare, hard)
        resource.setrlimit(kind, (wanted, hard))


def enter_host_mounts(proc: Path = Path("/proc")) -> str:
    """Move this process into the mount namespace of process 1, out of the agent's sandbox.

    Returns: what is lacking, as a sentence; empty where it worked or was not needed.
    """
    try:
        there, here = ((proc / pid / "ns/mnt").stat() for pid in ("1", "self"))
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return ""
        descriptor = os.open(proc / "1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return f"mounts: the host's mount namespace can't be seen ({error.strerror}), files are read in the agent's own"
    try:
        if _libc.setns(descriptor, _CLONE_NEWNS) != 0:
            why = os.strerror(ctypes.get_errno())
            return f"mounts: the host's mount namespace can't be entered ({why}), files are read in the agent's own"
    finally:
        os.close(descriptor)
    os.chdir("/")
    return ""


class Session:
    """What holds a collector's processes together where there are no control groups: its session and descent.

    A grandchild that leaves the session after its parent ended can't be told from others; it is ended with the worker.
    """

    def __init__(self, pid: int, *, proc: Path = Path("/proc")) -> None:
        self._pid = pid
        self._proc = proc

    def pids(self) -> list[int]:
        """The process, its descendants, and orphans of its session that this process has adopted."""
        orphans = [pid for pid in children(os.getpid(), proc=self._proc) if _session(pid) == self._pid]
        mine = [self._pid] if is_running(self._pid, proc=self._proc) else []
        roots = dict.fromkeys((*mine, *orphans))
        return sorted({pid for root in roots for pid in (root, *descendants(root, proc=self._proc))})

    def kill(self, *, within_s: float) -> list[int]:
        """End them all; returns the pids that the kernel has not ended in time."""
        until = time.monotonic() + within_s
        while left := [pid for pid in self.pids() if is_running(pid, proc=self._proc)]:
            kill(left)
            if time.monotonic() >= until:
                break
            time.sleep(_KILL_PAUSE_S)
        return left

    def cpu_ms(self) -> int | None:
        """Nobody counts here."""
        return None

    def memory_kills(self) -> int:
        """Nobody counts here."""
        return 0

    def remove(self) -> bool:
        """Nothing to remove."""
        return True


def end_descendants(*, but: Collection[int], within_s: float) -> None:
    """End all descendants of this process but those known to be unkillable, as far as the time goes."""
    until = time.monotonic() + within_s
    while left := [pid for pid in descendants(os.getpid()) if pid not in but and is_running(pid)]:
        kill(left)
        if time.monotonic() >= until:
            break
        time.sleep(_KILL_PAUSE_S)


def kill(pids: list[int]) -> None:
    """Send SIGKILL to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int, *, proc: Path = Path("/proc")) -> list[int]:
    """The direct children of a process."""
    with suppress(OSError):
        return [int(p) for p in (proc / str(pid) / "task" / str(pid) / "children").read_text().split()]
    return []


def descendants(pid: int, *, proc: Path = Path("/proc")) -> Iterator[int]:
    """All descendants of a process, as they are now."""
    for child in children(pid, proc=proc):
        yield child
        yield from descendants(child, proc=proc)


def is_running(pid: int, *, proc: Path = Path("/proc")) -> bool:
    """Whether the process is there and more than an entry that waits for its parent."""
    with suppress(OSError, IndexError):
        return (proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    return False


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return -1
