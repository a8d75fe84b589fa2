"""Collects programs that run without a file: deleted executables and memfd, whole; and fake kernel threads.

Each such program is copied from /proc/PID/exe, once per file. Leaves to others: every other process (processes),
recovery of deleted libraries and memory.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import procfs, sock_diag
from fireline_agent.hands.printable import shown
from fireline_agent.hands.procfs import Process, Stat

VERSION = "1"

_DELETED: Final = b" (deleted)"
_MEMFD: Final = b"/memfd:"
_COPY_BYTES: Final = 1 << 20
_VOLATILE_FOLDERS: Final = (b"/tmp/", b"/var/tmp/", b"/dev/shm/", b"/run/user/", b"/dev/mqueue/")
# runc starts each container from a copy of itself in memory (CVE-2019-5736).
_RUNC_COPIES: Final = (b"/memfd:runc_cloned:", b"/memfd:crun_cloned:")
_BRACKETED: Final = re.compile(rb"\[[^\[\]]+\]\Z")
_KTHREADD: Final = 2


@dataclass(frozen=True)
class _Program:
    """A process that runs what has no file (any more)."""

    pid: int
    stat: Stat
    link: bytes
    container: str
    identity: tuple[int, int]
    size: int
    is_memfd: bool
    is_replaced: bool
    listens: bool
    artifact: str = ""


def collect(context: Context, sink: Sink) -> None:
    """Write `executables/index.jsonl`, and each program as `executables/PID-START.bin`; see the module.

    The smallest come first, so that an output limit costs as few of them as it can.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    proc = context.roots.proc
    programs: list[_Program] = []
    unreadable = 0
    for process in procfs.processes(proc):
        with process:
            stat = process.stat()
            if stat is None:
                continue
            for finding in _judge_kernel_thread(process, stat):
                sink.finding(*finding)
            program = _program(proc, process, stat)
            unreadable += "exe" in process.denied
            if program is not None:
                programs.append(program)
    programs = _with_artifacts(programs)
    with sink.artifact("executables/index.jsonl", source=f"{proc}/*/exe", method="procfs") as out:
        out.facts["unreadable"] = unreadable
        for program in programs:
            out.record(_record(program))
    _note(sink, programs)
    for name, program in {program.artifact: program for program in reversed(programs)}.items():
        if name:
            _copy(sink, proc, program)


def _program(proc: Path, process: Process, stat: Stat) -> _Program | None:
    link = process.link("exe")
    if link is None or not (link.startswith(_MEMFD) or link.endswith(_DELETED)):
        return None
    path = link.removesuffix(_DELETED)
    if not link.startswith(_MEMFD) and _exists(process, link):
        return None  # a file that is really called "… (deleted)"
    try:
        found = os.stat("exe", dir_fd=process.directory)
        identity, size = (found.st_dev, found.st_ino), found.st_size
    except OSError:
        identity, size = (0, 0), 0
    return _Program(
        pid=process.pid,
        stat=stat,
        link=link,
        container=procfs.container_id(process.read("cgroup") or b""),
        identity=identity,
        size=size,
        is_memfd=link.startswith(_MEMFD),
        is_replaced=_exists(process, path),
        listens=_listens(proc, process),
    )


def _exists(process: Process, path: bytes) -> bool:
    """Whether the path is there as the process itself sees it: in a container, the host's path says nothing."""
    try:
        os.stat(b"root" + path, dir_fd=process.directory)
    except OSError:
        return False
    return True


def _listens(proc: Path, process: Process) -> bool:
    held = {link for _, link in process.descriptors() if link.startswith(b"socket:[")}
    if not held:
        return False
    entries = sock_diag.from_tables(proc / str(process.pid) / "net").entries
    return any(b"socket:[%d]" % entry.inode in held for entry in entries if entry.is_listening)


def _with_artifacts(programs: list[_Program]) -> list[_Program]:
    """The programs from the smallest on, each with the artifact that its copy goes into; one for each file."""
    names: dict[tuple[int, int], str] = {}
    named = []
    for program in sorted(programs, key=lambda program: (program.size, program.pid)):
        if program.identity != (0, 0):
            names.setdefault(program.identity, f"executables/{program.pid}-{program.stat.start_ticks}.bin")
        named.append(replace(program, artifact=names.get(program.identity, "")))
    return named


def _record(program: _Program) -> dict[str, Any]:
    return {
        "pid": program.pid,
        "start_ticks": program.stat.start_ticks,
        **text("comm", program.stat.comm),
        **text("exe", program.link),
        "size_bytes": program.size,
        "container": program.container,
        "is_memfd": program.is_memfd,
        "is_replaced": program.is_replaced,
        "listens": program.listens,
        "artifact": program.artifact,
    }


def _note(sink: Sink, programs: list[_Program]) -> None:
    """One finding for all processes that run the same in the same way: a daemon may have hundreds."""
    alike: dict[tuple[str, str, str], list[_Program]] = {}
    for program in sorted(programs, key=lambda program: program.pid):
        alike.setdefault(_judge(program), []).append(program)
    for (severity, code, summary), those in alike.items():
        more = f" and {len(those) - 1} more" if len(those) > 1 else ""
        sink.finding(severity, code, f"pid {those[0].pid} ({shown(those[0].stat.comm)}){more}", summary)


def _judge(program: _Program) -> tuple[str, str, str]:
    link = shown(program.link)
    also = " and listens" if program.listens else ""
    if program.is_memfd:
        severity = "notice" if program.link.startswith(_RUNC_COPIES) and not program.listens else "critical"
        return severity, "memfd-executable", f"runs from memory only, {link}{also}"
    if program.link.startswith(_VOLATILE_FOLDERS):
        return "critical", "deleted-executable", f"runs {link}, from a folder for temporary files{also}"
    if program.is_replaced:
        summary = f"runs {link}{also}; another file has its place: an upgrade without a restart looks like this"
        return "notice", "deleted-executable", summary
    severity = "critical" if program.listens else "warning"
    return severity, "deleted-executable", f"runs {link}{also}"


def _copy(sink: Sink, proc: Path, program: _Program) -> None:
    source = proc / str(program.pid) / "exe"
    with sink.artifact(program.artifact, source=str(source), method="procfs") as out:
        out.facts |= {"pid": program.pid, **text("exe", program.link), "size_bytes": program.size}
        try:
            with source.open("rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                if (found.st_dev, found.st_ino) != program.identity:
                    out.facts["lacks"] = "the process ended, or became another program, before its bytes were read"
                    return
                while block := file.read(_COPY_BYTES):
                    out.write(block)
        except OSError as error:  # the process ended meanwhile: what was read until then is kept
            out.facts["lacks"] = str(error)


def _judge_kernel_thread(process: Process, stat: Stat) -> Iterator[tuple[str, str, str, str]]:
    """A kernel thread has a flag that user space can't set, and neither a program nor memory of its own."""
    if stat.flags & procfs.PF_KTHREAD or stat.state == "Z":
        return
    link = process.link("exe")
    if link is None and not process.read("maps"):
        return
    title = (process.read("cmdline") or b"").partition(b"\0")[0].rstrip()
    runs = shown(link or b"unknown")
    subject = f"pid {process.pid} ({shown(stat.comm)})"
    if _BRACKETED.match(title):
        yield "critical", "fake-kernel-thread", subject, f"calls itself {shown(title)} but is a program: {runs}"
    elif stat.ppid == _KTHREADD:
        # The kernel starts helpers such as modprobe and the core dump's reader this way too, for moments.
        yield "warning", "fake-kernel-thread", subject, f"is a child of kthreadd but runs a program: {runs}"
