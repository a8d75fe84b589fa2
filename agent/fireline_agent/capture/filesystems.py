"""Collects the mount table, and free space and inodes of every file system, however dead one of them is.

Leaves to others: how they are asked (space), what is in them.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import number, refuse_unknown
from fireline_agent.hands import children, procfs, space
from fireline_agent.hands.printable import shown
from fireline_agent.hands.procfs import Mount
from fireline_agent.hands.space import Space

VERSION = "1"

_FULL_PERCENT: Final = 95


def collect(context: Context, sink: Sink) -> None:
    """Write `host/mounts.jsonl` and `host/filesystems.jsonl`; see the module. Parameter `hang_s`: how long to wait.

    Raises:
        ValueError: a parameter is unknown or out of range.
    """
    refuse_unknown(context.params, "hang_s")
    hang_s = number(context.params, "hang_s", default=space.HANG_S, highest=60.0)
    source = context.roots.proc / "self/mountinfo"
    mounts = list(procfs.mounts(procfs.read(source) or b""))
    with sink.artifact("host/mounts.jsonl", source=str(source), method="procfs") as out:
        for mount in mounts:
            out.record(_mount_record(mount))
    with sink.artifact("host/filesystems.jsonl", source="statvfs of every mount", method="syscall") as out:
        for mount, answer in space.asked(space.one_per_device(mounts), hang_s):
            record = _record(mount, answer)
            out.record(record)
            for finding in _judge(mount, answer, record):
                sink.finding(*finding)


def _mount_record(mount: Mount) -> dict[str, Any]:
    return {
        "id": mount.id,
        "device": mount.device,
        "kind": mount.kind.decode(errors="backslashreplace"),
        "options": mount.options.decode(errors="backslashreplace"),
        "super_options": mount.super_options.decode(errors="backslashreplace"),
        **text("point", mount.point),
        **text("root", mount.root),
        **text("source", mount.source),
    }


def _record(mount: Mount, answer: Space | children.ChildFailed) -> dict[str, Any]:
    record = _mount_record(mount)
    if isinstance(answer, children.Hung):
        return record | {"hangs": True, "lacks": str(answer), "unkillable_pid": answer.pid}
    if isinstance(answer, children.ChildFailed):
        return record | {"lacks": str(answer)}
    return record | asdict(answer)


def _judge(
    mount: Mount, answer: Space | children.ChildFailed, record: dict[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    subject = f"{shown(mount.point)} ({shown(mount.kind)})"
    if record.get("hangs"):
        left = (
            f"; process {record['unkillable_pid']} waits for it and can't be ended" if record["unkillable_pid"] else ""
        )
        yield "warning", "filesystem-hangs", subject, f"{shown(mount.source)} gives no answer: {record['lacks']}{left}"
    if not isinstance(answer, Space) or not space.counts(mount, answer):
        return
    for percent, what in ((answer.used_percent, "space"), (answer.inodes_used_percent, "inodes")):
        if percent >= _FULL_PERCENT:
            yield "warning", "filesystem-full", subject, f"{percent} % of its {what} is used"
