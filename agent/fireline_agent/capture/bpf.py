"""eBPF objects: programs, maps and links by id, what is pinned where. Programs that hook the kernel itself stand out.

Leaves to others: programs on network links (network names them by link), which process holds a descriptor.
"""

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from fireline_agent.capture.collector import Absent, Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import bpf

VERSION: Final = "1"

_T = TypeVar("_T")

MAX_OBJECTS: Final = 100_000  # of each kind; ids are handed out by the kernel, so only memory limits them
MAX_NOTED: Final = 20  # kinds of hook that are worth a line each; a host with a tracing product has hundreds
# Types that see or change what every process does. A tracing or security product loads them too: a notice, no alarm.
_KERNEL_HOOKS: Final = frozenset(
    {"kprobe", "tracepoint", "raw_tracepoint", "raw_tracepoint_writable", "perf_event", "tracing", "lsm", "struct_ops"}
)


def collect(context: Context, sink: Sink) -> None:
    """Write `kernel/bpf-*.jsonl`.

    Raises:
        Absent: the kernel has no bpf(2).
        PermissionError: the agent lacks CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON.
        ValueError: the order has params; there are none.
    """
    refuse_unknown(context.params)
    try:
        programs = _write_programs(sink)
        _write_maps(sink)
        _write_links(sink)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Absent(f"this kernel has no bpf(2): {error.strerror}") from None
        if error.errno == errno.EPERM:
            raise PermissionError("bpf(2) was refused: wanted CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON") from None
        raise
    _write_pins(context.roots.sys / "fs/bpf", sink)
    _note_hooks(programs, sink)


def _write_programs(sink: Sink) -> list[bpf.Program]:
    kept = []
    with sink.artifact("kernel/bpf-programs.jsonl", source="bpf(2) by id", method="bpf") as artifact:
        for program in _bounded(bpf.programs()):
            kept.append(program)
            artifact.record(_program_record(program))
    return kept


def _program_record(program: bpf.Program) -> dict[str, Any]:
    return {"id": program.id, "type": program.kind, "tag": program.tag, "uid": program.uid} | {
        **text("name", program.name),
        "loaded_at": _since_boot(program.loaded_at_ns),
        "loaded_at_boot_ns": program.loaded_at_ns,
        "instructions": program.instructions,
        "map_ids": list(program.map_ids),
        "gpl": program.is_gpl,
    }


def _since_boot(boot_ns: int) -> str:
    """A time since boot as a time of day, by the clocks as they are now."""
    at_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + boot_ns
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds")


def _write_maps(sink: Sink) -> None:
    with sink.artifact("kernel/bpf-maps.jsonl", source="bpf(2) by id", method="bpf") as artifact:
        for found in _bounded(bpf.maps()):
            sizes = {"key_bytes": found.key_bytes, "value_bytes": found.value_bytes, "max_entries": found.max_entries}
            artifact.record(
                {"id": found.id, "type": found.kind, **text("name", found.name), **sizes} | {"flags": found.flags}
            )


def _write_links(sink: Sink) -> None:
    with sink.artifact("kernel/bpf-links.jsonl", source="bpf(2) by id", method="bpf") as artifact:
        for link in _bounded(bpf.links()):
            artifact.record({"id": link.id, "type": link.kind, "program_id": link.program_id, **link.place})


def _bounded(objects: Iterator[_T]) -> Iterator[_T]:
    return islice(objects, MAX_OBJECTS)


def _write_pins(base: Path, sink: Sink) -> None:
    if not base.is_dir():
        return
    with sink.artifact("kernel/bpf-pinned.jsonl", source=str(base), method="bpf") as artifact:
        for path in _pins(base):
            found = bpf.pinned(path)
            kind, number = found or ("unknown", 0)
            artifact.record(text("path", os.fsencode(path)) | {"kind": kind, "id": number})


def _pins(base: Path) -> Iterator[Path]:
    left = MAX_OBJECTS
    for folder, folders, files in os.walk(base):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            left -= 1
            if left < 0:
                return
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _note_hooks(programs: list[bpf.Program], sink: Sink) -> None:
    hooks = Counter((program.kind, program.name, program.uid) for program in programs if program.kind in _KERNEL_HOOKS)
    for (kind, raw, uid), count in hooks.most_common(MAX_NOTED):
        name = raw.decode(errors="backslashreplace") or "(no name)"
        summary = f"{count} eBPF programs of type {kind} called {name}, loaded by uid {uid}, hook the kernel"
        sink.finding("notice", "bpf-kernel-hook", f"{kind} {name}", summary)
