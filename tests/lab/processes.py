"""Processes known by pid and start time, so that a number that the kernel gave away again is never signalled."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

MARK = "FIRELINE_LAB"  # in the environment of whatever the loopback lab starts, with the lab's tag


@dataclass(frozen=True)
class Process:
    """One process: its pid in the machine's namespace, and its start time in clock ticks since boot (proc(5))."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Remember a process that runs now.

        Raises:
            LabError: there is no such process.
        """
        state = _stat(pid)
        if state is None:
            raise LabError(f"process {pid} is gone before it could be remembered")
        return cls(pid, state[1])

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        _reap(self.pid)
        return self._is_there()

    def signal(self, number: int) -> bool:
        """Send a signal, and say whether the process was there to get it."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self._is_there():  # looked at after the open: the handle can't move to another process
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait_gone(self, *, within_s: float) -> None:
        """Wait until the process is dead.

        Raises:
            LabError: it still runs after that time.
        """
        eventually(lambda: not self.is_alive(), within_s=within_s, what=f"process {self.pid} to end")

    def _is_there(self) -> bool:
        state = _stat(self.pid)
        return state is not None and state[1] == self.started and state[0] not in "ZX"


def launch(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, within_s: float = 20) -> Process:
    """Start a process that outlives us, in a session of its own, and wait until it says "ready" on descriptor 3.

    Not subprocess.Popen, whose object insists on being waited for.

    Raises:
        LabError: it ended or stayed silent; the message carries the end of its log.
    """
    news, voice = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_DUP2, voice, 3),
    ]
    try:
        pid = os.posix_spawnp(
            argv[0], list(argv), os.environ if env is None else env, file_actions=actions, setsid=True
        )
        os.close(voice)
        answer = os.read(news, 64) if select.select([news], [], [], within_s)[0] else b""
    finally:
        os.close(news)
    if not answer.startswith(b"ready"):
        said = log.read_text(errors="replace").strip()[-600:]
        raise LabError(f"{' '.join(argv[:3])}…: not ready within {within_s:g} s; its log ends: {said or 'empty'}")
    return Process.of(pid)


def child_of(process: Process) -> Process | None:
    """The first child of a process, or None while it has none."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return Process.of(int(children[0])) if children else None


def marked(tag: str) -> Iterator[Process]:
    """Every process of ours whose environment says that it belongs to this lab."""
    exact, below = f"{MARK}={tag}".encode(), f"{MARK}={tag}/".encode()
    for folder in Path("/proc").iterdir():
        if (
            folder.name.isdigit()
            and int(folder.name) != os.getpid()
            and any(word == exact or word.startswith(below) for word in _environment(folder))
        ):
            state = _stat(int(folder.name))
            if state is not None:
                yield Process(int(folder.name), state[1])


def eventually(is_so: Callable[[], bool], *, within_s: float, what: str, every_s: float = 0.01) -> None:
    """Poll until the check holds.

    Raises:
        LabError: it does not hold within that time; the message says what was waited for.
    """
    end = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > end:
            raise LabError(f"waited {within_s:g} s for {what}")
        time.sleep(every_s)


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        # The command's name is in parentheses and may hold anything, parentheses too.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return []


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # not our child: somebody else reaps it
        os.waitpid(pid, os.WNOHANG)
