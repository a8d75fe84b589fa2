"""system.process_kill: end processes with all their descendants, first politely.

A process is known by its pid and its start time, and is signalled through a pidfd, so that one that took its number
is never hit. Sources: pidfd_open(2), pidfd_send_signal(2), proc_pid_stat(5).
"""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import procfs
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_LOOK_S: Final = 0.05  # between two looks at what is being ended
_KILLED_S: Final = 5.0  # what SIGKILL has not ended by then hangs inside the kernel
_KEPT_WORDS: Final = 200
_ENTRANCES: Final = frozenset({"sshd", "sshd-session", "sshd-auth"})  # by which people come in


@dataclass(frozen=True)
class _Known:
    """A process as it was seen."""

    pid: int
    ppid: int
    started: int
    is_door: bool


def gather(tools: Tools, _params: Params) -> Facts:
    """Every process, and those that are never ended: the first, the agent and what it lives in."""
    proc = tools.roots.proc
    rows, now_ticks = [], _uptime_s(proc) * os.sysconf("SC_CLK_TCK")
    for process in procfs.processes(proc):
        with process:
            found = process.stat()
            if found is None or found.state in ("Z", "X"):
                continue
            rows.append(
                {
                    "pid": process.pid,
                    "ppid": found.ppid,
                    "started": found.start_ticks,
                    "name": os.fsdecode(found.comm),
                    "program": _program(process.read("cmdline") or b""),
                    "age_s": max(0, int((now_ticks - found.start_ticks) / os.sysconf("SC_CLK_TCK"))),
                    "is_kernel": bool(found.flags & procfs.PF_KTHREAD),
                    "is_door": _is_door(process, os.fsdecode(found.comm)),
                }
            )
    return {"processes": rows, "own": _ancestry(rows, os.getpid())}


def plan(facts: Facts, params: Params) -> Plan:
    """Which ones, each with its tree; or why not."""
    rows = {row["pid"]: row for row in facts["processes"]}
    if params["pid"] is None and params["command"] is None:
        raise ActionError("wanted a pid or a command, found neither", reason="refused")
    chosen = [row for row in rows.values() if _is_meant(row, params)]
    if params["pid"] is not None and not chosen:
        raise ActionError(_absent(rows, params), reason="not_found")
    roots = [row for row in chosen if not _has_ancestor(row, {c["pid"] for c in chosen}, rows)]
    protected = _protected(facts)
    for row in roots:
        _require_mortal(row, rows, protected)
    changes = tuple(
        Change(
            "process",
            f"process {row['pid']}, started at tick {row['started']}: {printable(row['name'])}",
            f"TERM to {row['pid']} ({printable(row['name'])}) and its descendants, KILL after {params['grace']} s",
            {"pid": row["pid"], "started": row["started"]},
        )
        for row in roots
    )
    count = len(_trees(roots, rows.values()))
    ends = [
        {"pid": r["pid"], "command": printable(r["name"]), "age_s": r["age_s"], "program": r["program"]} for r in roots
    ]
    summary = f"end {len(roots)} processes with their trees, {count} in all" if roots else "no such process runs"
    return Plan(summary, changes, result={"processes": ends, "count": count})


def _is_door(process: procfs.Process, name: str) -> bool:
    """By the program that it runs: everybody may call a process of his own `sshd`, and it would never be ended."""
    if name not in _ENTRANCES:
        return False
    try:
        program = Path(os.readlink("exe", dir_fd=process.directory).removesuffix(" (deleted)"))
        owner = os.stat("exe", dir_fd=process.directory).st_uid
    except OSError:  # can't be told: rather spared
        return True
    return owner == 0 and program.name in _ENTRANCES and program.is_relative_to("/usr")


def _program(cmdline: bytes) -> str:
    """What it calls its program: arguments may hold a password. It may change it, so no plan is bound to it."""
    return printable(os.fsdecode(cmdline.partition(b"\0")[0]), limit=_KEPT_WORDS)


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """TERM to the whole tree, wait, KILL to what is left of it."""
    proc, root = tools.roots.proc, (change.data["pid"], change.data["started"])
    if root not in _identities(_table(proc)):
        return {"pids": []}  # it ended by itself since it was planned, and nothing else is touched
    hit = _tree(proc, {root})
    _send(hit, signal.SIGTERM, proc)
    hit = _wait(proc, hit, params["grace"])
    left = _alive(proc, hit)
    if left:
        tools.tell(f"KILL to {len(left)} processes that did not end")
        _send(left, signal.SIGKILL, proc)
        hit = _wait(proc, hit, _KILLED_S, kills=True)
    stuck = _alive(proc, hit)
    if stuck:
        pids = ", ".join(str(pid) for pid, _ in sorted(stuck))
        raise ActionError(f"the kernel does not end {pids}: in uninterruptible sleep")
    return {"pids": sorted(pid for pid, _ in hit)}


def verify(tools: Tools, plan_: Plan, _params: Params) -> Verified:
    """None of them runs any more."""
    left = _alive(tools.roots.proc, {(c.data["pid"], c.data["started"]) for c in plan_.changes})
    if left:
        return Verified(False, f"{len(left)} of {len(plan_.changes)} processes still run")
    return Verified(True, f"none of the {len(plan_.changes)} processes runs any more")


def _is_meant(row: Mapping[str, Any], params: Params) -> bool:
    if params["pid"] is not None and row["pid"] != params["pid"]:
        return False
    if params["command"] is not None and row["name"] != params["command"]:
        return False
    return bool(row["age_s"] >= params["older_than"])


def _absent(rows: Mapping[int, Mapping[str, Any]], params: Params) -> str:
    row = rows.get(params["pid"])
    if row is None:
        return f"there is no process {params['pid']}"
    return f"process {row['pid']} is {printable(row['name'])}, {row['age_s']} s old: not what was asked for"


def _require_mortal(
    root: Mapping[str, Any], rows: Mapping[int, Mapping[str, Any]], protected: Mapping[int, str]
) -> None:
    for pid in _trees([root], rows.values()):
        row = rows[pid]
        why = "a kernel thread" if row["is_kernel"] else protected.get(pid, "")
        if why:
            through = "" if pid == root["pid"] else f", a descendant of {root['pid']}"
            raise ActionError(
                f"process {pid} ({printable(row['name'])}{through}) is {why}: it is never ended", reason="refused"
            )


def _protected(facts: Facts) -> dict[int, str]:
    found = dict.fromkeys(facts["own"], "the agent, or what it lives in")
    for row in facts["processes"]:
        if row["is_door"]:
            found[row["pid"]] = "a door by which people come in"
    return {**found, 1: "the first process"}


def _ancestry(rows: Iterable[Mapping[str, Any]], pid: int) -> list[int]:
    """A process and all above it: this one is the agent's child."""
    parents = {row["pid"]: row["ppid"] for row in rows}
    found = []
    while pid in parents and pid not in found:
        found.append(pid)
        pid = parents[pid]
    return found


def _has_ancestor(row: Mapping[str, Any], pids: set[int], rows: Mapping[int, Mapping[str, Any]]) -> bool:
    return any(pid in pids for pid in _ancestry(rows.values(), row["pid"])[1:])


def _trees(roots: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """The pids of these and of all below them."""
    children: dict[int, list[int]] = {}
    for row in rows:
        children.setdefault(row["ppid"], []).append(row["pid"])
    found: set[int] = set()
    waiting = [root["pid"] for root in roots]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _table(proc: Path) -> list[_Known]:
    found = []
    for process in procfs.processes(proc):
        with process:
            stat = process.stat()
            if stat is not None and stat.state not in ("Z", "X"):
                is_door = _is_door(process, os.fsdecode(stat.comm))
                found.append(_Known(process.pid, stat.ppid, stat.start_ticks, is_door))
    return found


def _identities(table: Iterable[_Known]) -> set[tuple[int, int]]:
    return {(known.pid, known.started) for known in table}


def _tree(proc: Path, roots: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """These and all their descendants, as they are now; never a door, which may have come in since."""
    table = _table(proc)
    alive = [{"pid": known.pid, "ppid": known.ppid} for known in table]
    starts = [{"pid": known.pid} for known in table if (known.pid, known.started) in roots]
    below = _trees(starts, alive)
    own = set(_ancestry(alive, os.getpid()))
    doors = [known.pid for known in table if known.is_door or known.pid in own]
    if below.intersection(doors):
        raise ActionError("the agent or a door by which people come in has become one of its descendants")
    return {(known.pid, known.started) for known in table if known.pid in below}


def _alive(proc: Path, wanted: set[tuple[int, int]]) -> set[tuple[int, int]]:
    return wanted & _identities(_table(proc))


def _wait(proc: Path, hit: set[tuple[int, int]], within_s: float, *, kills: bool = False) -> set[tuple[int, int]]:
    """Wait until all have ended; children that they make meanwhile are found, and killed too where `kills`."""
    until = time.monotonic() + within_s
    while left := _alive(proc, hit):
        fresh = _tree(proc, left) - hit
        hit = hit | fresh
        if kills:
            _send(fresh, signal.SIGKILL, proc)
        if time.monotonic() >= until:
            break
        time.sleep(_LOOK_S)
    return hit


def _send(wanted: Iterable[tuple[int, int]], number: signal.Signals, proc: Path) -> None:
    for pid, started in wanted:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                # The pidfd holds whoever has the number now: signalled only if that is the one that is meant.
                process = procfs.opened(proc, pid)
                if process is not None:
                    with process:
                        stat = process.stat()
                    if stat is not None and stat.start_ticks == started:
                        signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def _uptime_s(proc: Path) -> float:
    return float((procfs.words(proc / "uptime") or "0").split()[0])


ACTION: Final = Action(
    ActionSpec(
        "system.process_kill",
        "End a process, or all of a command, with their descendants: TERM, then KILL",
        Risk.DISRUPTIVE,
        (
            Parameter("pid", Kind.INT, "the process", least=2, most=1 << 22),
            Parameter("command", Kind.TEXT, "the exact name, as in /proc/PID/comm (at most 15 letters)"),
            Parameter("older_than", Kind.DURATION, "only processes that have run so long", default=0),
            Parameter("grace", Kind.DURATION, "how long they may take to end after TERM", default=10, most=300),
        ),
        (
            Result("processes", Kind.ROWS, "what is ended: pid, command, age_s, program; no arguments"),
            Result("count", Kind.INT, "processes in all, descendants among them"),
        ),
    ),
    gather,
    plan,
    do,
    verify,
)
