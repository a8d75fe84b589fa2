"""Collects every process in two passes, keyed by (boot id, pid, start time), and what changed between them.

The first pass takes quickly what is lost first; the second goes deep. Secrets in environments are masked unless the
order says otherwise. Leaves to others: executables (bytes of deleted programs), hidden_processes, sockets.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture import intrusion, process_detail
from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.hashes import ExecutableHashes
from fireline_agent.capture.params import flag, refuse_unknown
from fireline_agent.hands import procfs, sock_diag
from fireline_agent.hands.printable import shown
from fireline_agent.hands.procfs import Process, Stat

VERSION = "1"

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_INJECTORS: Final = ("LD_PRELOAD", "LD_AUDIT")
_STANDARD_STREAMS: Final = (0, 1, 2)


@dataclass(frozen=True)
class _Machine:
    """What every record needs to know of the host."""

    proc: Path
    boot_id: str
    booted_at_s: int


@dataclass(frozen=True)
class _Deeper:
    """What the second pass needs beyond the process."""

    machine: _Machine
    hashes: ExecutableHashes
    masks_secrets: bool


@dataclass
class _Seen:
    """A process as the first pass saw it."""

    pid: int
    stat: Stat
    record: dict[str, Any]
    exe: bytes | None = None
    denied: list[str] = field(default_factory=list)


def collect(context: Context, sink: Sink) -> None:
    """Write `processes/processes.jsonl` and `processes/churn.json`; see the module. Parameter `mask_secrets`: true.

    Raises:
        ValueError: a parameter is unknown or of the wrong kind.
    """
    refuse_unknown(context.params, "mask_secrets")
    mask = flag(context.params, "mask_secrets", default=True)
    machine = _machine(context.roots.proc)
    seen = [found for process in procfs.processes(machine.proc) if (found := _first_pass(process, machine))]
    deeper = _Deeper(machine, ExecutableHashes(), mask)
    with sink.artifact("processes/processes.jsonl", source=f"{machine.proc}/*", method="procfs") as out:
        for found in seen:
            detail, findings = _second_pass(found, deeper)
            out.record({**found.record, **detail})
            for finding in findings:
                sink.finding(*finding)
        out.facts |= {"processes": len(seen), "secrets_masked": mask, "unreadable": _unreadable(seen)}
    _write_churn(sink, machine, seen)
    _judge_host(context, sink)


def _machine(proc: Path) -> _Machine:
    lines = (procfs.words(proc / "stat") or "").splitlines()
    booted_at = next((int(line.split()[1]) for line in lines if line.startswith("btime ")), 0)
    return _Machine(proc, procfs.words(proc / "sys/kernel/random/boot_id") or "unknown", booted_at)


def _first_pass(process: Process, machine: _Machine) -> _Seen | None:
    with process:
        stat = process.stat()
        if stat is None:
            return None  # gone between listing and reading: nothing is known but its number
        cgroup = process.read("cgroup") or b""
        exe = process.link("exe")
        record = {
            "key": f"{machine.boot_id}:{process.pid}:{stat.start_ticks}",
            "pid": process.pid,
            **_from_stat(stat, machine),
            **_arguments(process.read("cmdline") or b""),
            **_path("exe", exe),
            **_path("cwd", process.link("cwd")),
            **_path("root", process.link("root")),
            "cgroup": cgroup.decode(errors="backslashreplace").splitlines(),
            "container": procfs.container_id(cgroup),
            "namespaces": dict(_namespaces(process)),
            "login_uid": _number(process.read("loginuid")),
            "audit_session": _number(process.read("sessionid")),
        }
        return _Seen(process.pid, stat, record, exe, process.denied)


def _from_stat(stat: Stat, machine: _Machine) -> dict[str, Any]:
    return {
        **text("comm", stat.comm),
        "state": stat.state,
        "ppid": stat.ppid,
        "group": stat.group,
        "session": stat.session,
        "terminal": stat.terminal,
        "is_kernel_thread": bool(stat.flags & procfs.PF_KTHREAD),
        "started_at_s": round(machine.booted_at_s + stat.start_ticks / _TICKS_PER_S, 2),
        "user_s": stat.user_ticks / _TICKS_PER_S,
        "system_s": stat.system_ticks / _TICKS_PER_S,
        "threads": stat.threads,
        "virtual_bytes": stat.virtual_bytes,
        "resident_bytes": stat.resident_pages * _PAGE_BYTES,
    }


def _arguments(raw: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = text("cmdline", raw)
    fields["cmdline"] = fields["cmdline"].removesuffix("\0").split("\0") if raw else []
    return fields


def _path(name: str, link: bytes | None) -> dict[str, str]:
    return {} if link is None else text(name, link)


def _namespaces(process: Process) -> Iterator[tuple[str, int]]:
    for name in _NAMESPACES:
        link = process.link(f"ns/{name}")
        inode = link.partition(b"[")[2].removesuffix(b"]") if link is not None else b""
        if inode.isdigit():
            yield name, int(inode)


def _number(raw: bytes | None) -> int | None:
    """An audit id; the kernel shows 2^32 - 1 for "never set"."""
    return None if raw is None or int(raw) == 0xFFFFFFFF else int(raw)


def _second_pass(found: _Seen, deeper: _Deeper) -> tuple[dict[str, Any], list[tuple[str, str, str, str]]]:
    process = procfs.opened(deeper.machine.proc, found.pid)
    if process is None:
        return {"vanished": True}, []
    with process:
        stat = process.stat()
        if stat is None or stat.start_ticks != found.stat.start_ticks:
            return {"vanished": True}, []
        environment = process_detail.environment(process)
        status = procfs.parse_status(process.read("status") or b"")
        record = {
            "exe_sha256": deeper.hashes.of(process),
            **process_detail.credentials(status),
            "environment": process_detail.shown(environment, mask=deeper.masks_secrets),
            **process_detail.files(process),
            "maps": process_detail.maps(process),
            "limits": process_detail.limits(process),
            "io": process_detail.figures(process.read("io")),
            "waits_in": (process.read("wchan") or b"").decode(errors="backslashreplace"),
            "oom_score_adj": _number(process.read("oom_score_adj")),
        }
        found.denied = sorted({*found.denied, *process.denied})
        findings = [*_judge(found, environment, status), *_judge_intrusion(found, process, deeper.machine.proc)]
        return record | {"denied": found.denied}, findings


def _judge(
    found: _Seen, environment: list[tuple[bytes, bytes]], status: dict[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    subject = f"pid {found.pid} ({shown(found.stat.comm)})"
    for name, value in environment:
        if name.decode(errors="replace") in _INJECTORS and value:
            # Images set it for their allocator; on the host itself hardly anybody does.
            severity = "notice" if found.record["container"] else "warning"
            yield severity, "ld-preload", subject, f"{shown(name)}={shown(value)} puts code into this program"
    tracer = status.get("TracerPid", "0")
    if tracer != "0":
        yield "warning", "tracer-attached", subject, f"process {tracer} traces it: it can read and change all it does"


def _judge_intrusion(found: _Seen, process: Process, proc: Path) -> Iterator[tuple[str, str, str, str]]:
    if found.exe is None:  # of the kernel, or closed to us
        return
    descriptors, sockets = _streams(process, found, proc)
    subject = f"pid {found.pid} ({shown(found.stat.comm)})"
    for severity, code, summary in intrusion.judge_process(found.exe, found.record["cmdline"], descriptors, sockets):
        # A health check in a container fetches something every few seconds.
        is_usual = found.record["container"] and severity == "warning"
        yield "notice" if is_usual else severity, code, subject, summary


def _streams(process: Process, found: _Seen, proc: Path) -> tuple[dict[int, bytes], dict[bytes, str]]:
    """What a shell or an interpreter reads from and writes to, and its sockets over the network with their peers."""
    if not intrusion.is_worth_a_look(found.exe):
        return {}, {}
    links = ((number, process.link(f"fd/{number}")) for number in _STANDARD_STREAMS)
    descriptors = {number: link for number, link in links if link is not None}
    if not any(link.startswith(b"socket:[") for link in descriptors.values()):
        return descriptors, {}
    entries = sock_diag.from_tables(proc / str(found.pid) / "net").entries
    kinds = ("tcp", "udp", "sctp")
    peers = {b"socket:[%d]" % e.inode: f"{e.remote}:{e.remote_port}" for e in entries if e.kind in kinds}
    return descriptors, peers


def _unreadable(seen: list[_Seen]) -> int:
    return sum(bool(found.denied) for found in seen)


def _write_churn(sink: Sink, machine: _Machine, seen: list[_Seen]) -> None:
    """A third, short look: who came, went or became another program meanwhile."""
    before = {(found.pid, found.stat.start_ticks): found for found in seen}
    now: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}
    for process in procfs.processes(machine.proc):
        with process:
            stat = process.stat()
            if stat is not None:
                now[process.pid, stat.start_ticks] = (stat.comm, process.link("exe"))
    document = {
        "appeared": [{"pid": key[0], **text("comm", now[key][0])} for key in sorted(set(now) - set(before))],
        "vanished": [{"pid": key[0], "key": before[key].record["key"]} for key in sorted(set(before) - set(now))],
        "became_another": [
            {"pid": key[0], "key": found.record["key"], **_path("exe_before", found.exe), **_path("exe", now[key][1])}
            for key, found in sorted(before.items())
            if key in now and now[key][1] is not None and now[key][1] != found.exe
        ],
    }
    with sink.artifact("processes/churn.json", source=f"{machine.proc}/*", method="procfs") as out:
        out.write(json.dumps(document, indent=1).encode())


def _judge_host(context: Context, sink: Sink) -> None:
    restriction = procfs.restriction(context.roots.proc)
    if restriction:
        sink.finding("notice", "proc-restricted", str(context.roots.proc), restriction)
    path = context.roots.root / "etc/ld.so.preload"
    preload = procfs.read(path)
    if preload is not None:
        with sink.artifact("processes/ld.so.preload", source=str(path), method="file") as out:
            out.write(preload)
        if preload.strip():
            sink.finding("critical", "ld-preload", str(path), f"puts code into every program: {shown(preload.strip())}")
