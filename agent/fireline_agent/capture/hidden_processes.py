"""Compares views of which processes there are: what one view shows and the directory listing doesn't is hidden.

Views: reading /proc, asking for each number in /proc, signal 0 to each number, the members of control groups, the
children and the parent that visible processes name, and mounts laid over a process's directory. A candidate must be
missing from the listing twice and be there in another view twice, since processes come and go meanwhile.

Leaves to others: what the visible processes are (processes).
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import number, refuse_unknown
from fireline_agent.hands import procfs

VERSION = "1"

_MARGIN: Final = 1_024  # pids given out while we look
_MAX_PID: Final = 131_072  # asking for this many numbers takes about a quarter of a second
_HIGHEST_PID: Final = 4_194_304  # PID_MAX_LIMIT of 64-bit kernels
_MAX_CGROUPS: Final = 20_000


@dataclass
class _Look:
    """One round: what is listed, which numbers are threads, and what each view shows beyond."""

    listed: set[int]
    threads: set[int] = field(default_factory=set)
    views: dict[str, set[int]] = field(default_factory=dict)

    def hidden(self) -> set[int]:
        """What any view shows that is neither listed nor a thread of something listed."""
        return set().union(*self.views.values()) - self.listed - self.threads


def collect(context: Context, sink: Sink) -> None:
    """Write `processes/views.json`; see the module. Parameter `highest_pid`: up to which number to ask.

    Raises:
        Absent: there is no process directory to compare.
        ValueError: a parameter is unknown or out of range.
    """
    refuse_unknown(context.params, "highest_pid")
    proc = context.roots.proc
    try:
        listed = procfs.pids(proc)
    except OSError as error:
        raise Absent(f"no processes to compare: {proc} can't be listed ({error.strerror})") from error
    highest = int(number(context.params, "highest_pid", default=_default_highest(proc, listed), highest=_HIGHEST_PID))
    look, again = _look(context, highest), None
    hidden = look.hidden()
    if hidden:
        again = _look(context, highest)
        hidden &= again.hidden() - look.listed
    restriction = procfs.restriction(proc)
    covered = _mounted_over(proc)
    document = _document(look, again, hidden, highest) | {"restricted": restriction, "mounted_over": covered}
    with sink.artifact("processes/views.json", source=f"{proc}, {context.roots.sys}/fs/cgroup", method="procfs") as out:
        out.write(json.dumps(document, indent=1).encode())
    _judge(sink, look, sorted(hidden), covered, restriction)


def _default_highest(proc: Path, listed: list[int]) -> int:
    """As far as numbers were given out, and a little more."""
    last = (procfs.words(proc / "loadavg") or "0").split()[-1]
    limit = int(procfs.words(proc / "sys/kernel/pid_max") or _MAX_PID)
    given = max([int(last) if last.isdecimal() else 0, *listed], default=0)
    return max(1, min(given + _MARGIN, limit, _MAX_PID))


def _look(context: Context, highest: int) -> _Look:
    proc = context.roots.proc
    look = _Look(set(procfs.pids(proc)))
    children, parents = _family(proc, look)
    look.views = {
        "children": children,
        "parents": parents,
        "cgroup.procs": _members(context.roots.sys / "fs/cgroup"),
        "stat": _asked(highest, look, _is_there(proc)),
    }
    if _is_own(proc):
        look.views["kill"] = _asked(highest, look, _answers_signal)
    look.listed |= set(procfs.pids(proc))  # who came while we looked isn't hidden
    _family(proc, look)
    return look


def _family(proc: Path, look: _Look) -> tuple[set[int], set[int]]:
    """The children and parents that listed processes name; notes their threads in `look`."""
    children: set[int] = set()
    parents: set[int] = set()
    for process in procfs.processes(proc):
        with process:
            stat = process.stat()
            parents |= {stat.ppid} if stat is not None else set()
            for thread in process.names("task"):
                look.threads.add(int(thread))
                named = process.read(f"task/{thread}/children") or b""
                children.update(int(word) for word in named.split())
    return children - {0}, parents - {0}


def _members(root: Path) -> set[int]:
    """The members of every control group; 0 stands for a process outside our process namespace."""
    members: set[int] = set()
    for count, (folder, _, names) in enumerate(os.walk(root)):
        if count >= _MAX_CGROUPS:
            break
        if "cgroup.procs" in names:
            raw = procfs.read(Path(folder, "cgroup.procs")) or b""
            members.update(int(word) for word in raw.split())
    return members - {0}


def _asked(highest: int, look: _Look, is_there: Callable[[int], bool]) -> set[int]:
    known = look.listed | look.threads
    return {pid for pid in range(1, highest + 1) if pid not in known and is_there(pid)}


def _is_there(proc: Path) -> Callable[[int], bool]:
    prefix = f"{proc}/"
    return lambda pid: os.access(f"{prefix}{pid}", os.F_OK)


def _answers_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_own(proc: Path) -> bool:
    """Whether this directory shows our own process namespace: elsewhere a signal would ask about other processes."""
    try:
        return (proc / "self").resolve().name == str(os.getpid())
    except OSError:
        return False


def _mounted_over(proc: Path) -> list[str]:
    """Mounts that lie over a process's directory, the oldest way to hide one."""
    over = re.compile(re.escape(os.fsencode(proc)) + rb"/[0-9]+(/|\Z)")
    mounts = procfs.mounts(procfs.read(proc / "self/mountinfo") or b"")
    return [mount.point.decode(errors="backslashreplace") for mount in mounts if over.match(mount.point)]


def _document(look: _Look, again: _Look | None, hidden: set[int], highest: int) -> dict[str, Any]:
    beyond = {name: sorted(pids - look.listed - look.threads) for name, pids in look.views.items()}
    return {
        "listed": len(look.listed),
        "threads": len(look.threads),
        "asked_up_to": highest,
        "views": sorted(look.views),
        "beyond_the_listing": beyond,
        "looked_twice": again is not None,
        "hidden": sorted(hidden),
    }


def _judge(sink: Sink, look: _Look, hidden: list[int], covered: list[str], restriction: str) -> None:
    for point in covered:
        sink.finding("critical", "hidden-process", point, "something is mounted over this process's directory")
    if restriction:  # the kernel itself hides others from us: no sign of an intruder
        sink.finding("notice", "proc-restricted", "/proc", restriction)
        return
    for pid in hidden:
        views = ", ".join(name for name, pids in look.views.items() if pid in pids)
        sink.finding("critical", "hidden-process", f"pid {pid}", f"isn't listed in /proc, but is there by {views}")
