"""Collects the mount table, and free space and inodes of every file system, however dead one of them is.

A file system whose server is gone hangs whoever asks it. So they are asked in forked children: the ones that may
hang each in its own and all at once, the local ones in turn. Leaves to others: what is in them.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import number, refuse_unknown
from fireline_agent.hands import children, procfs
from fireline_agent.hands.printable import shown
from fireline_agent.hands.procfs import Mount

VERSION = "1"

_HANG_S: Final = 0.9  # a healthy one answers within milliseconds; a hanging one may cost a second in all
_FULL_PERCENT: Final = 95
_REMOTE: Final = (b"fuse", b"nfs", b"cifs", b"smb", b"9p", b"ceph", b"afs", b"lustre", b"gfs2", b"ocfs2", b"virtiofs")
# These have no space of their own, or are pictures of something else: asked too, but never called full.
_NEVER_FULL: Final = (b"squashfs", b"iso9660", b"erofs", b"udf", b"cramfs", b"efivarfs", b"nsfs")
_ANSWER: Final = struct.Struct("=8Q")
_MAX_LANES: Final = 32  # children at once, well below the processes a collector may have: each tells one that hangs


def collect(context: Context, sink: Sink) -> None:
    """Write `host/mounts.jsonl` and `host/filesystems.jsonl`; see the module. Parameter `hang_s`: how long to wait.

    Raises:
        ValueError: a parameter is unknown or out of range.
    """
    refuse_unknown(context.params, "hang_s")
    hang_s = number(context.params, "hang_s", default=_HANG_S, highest=60.0)
    source = context.roots.proc / "self/mountinfo"
    mounts = list(procfs.mounts(procfs.read(source) or b""))
    with sink.artifact("host/mounts.jsonl", source=str(source), method="procfs") as out:
        for mount in mounts:
            out.record(_mount_record(mount))
    with sink.artifact("host/filesystems.jsonl", source="statvfs of every mount", method="syscall") as out:
        for mount, answer in _ask_all(_one_per_device(mounts), hang_s):
            record = _record(mount, answer)
            out.record(record)
            for finding in _judge(mount, record):
                sink.finding(*finding)


def _one_per_device(mounts: list[Mount]) -> list[Mount]:
    """One mount of each file system, the one with the shortest path: bind mounts would only repeat it.

    Where mounts lie on top of one another at a path, the last is the one that can be reached. An automount point is
    left out: to ask it would make it mount.
    """
    reachable = {mount.point: mount for mount in mounts if mount.kind != b"autofs"}
    chosen: dict[str, Mount] = {}
    for mount in sorted(reachable.values(), key=lambda mount: len(mount.point)):
        chosen.setdefault(mount.device, mount)
    return list(chosen.values())


def _ask_all(mounts: list[Mount], hang_s: float) -> Iterator[tuple[Mount, bytes | children.ChildFailed]]:
    def lane_of(mount: Mount) -> int:
        return mount.id % _MAX_LANES if mount.kind.startswith(_REMOTE) else -1

    def ask(mount: Mount) -> bytes:
        found = os.statvfs(mount.point)
        return _ANSWER.pack(*found[:8])

    return children.each(mounts, ask, timeout_s=hang_s, lane_of=lane_of)


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


def _record(mount: Mount, answer: bytes | children.ChildFailed) -> dict[str, Any]:
    record = _mount_record(mount)
    if isinstance(answer, children.Hung):
        return record | {"hangs": True, "lacks": str(answer), "unkillable_pid": answer.pid}
    if isinstance(answer, children.ChildFailed):
        return record | {"lacks": str(answer)}
    _, block, blocks, free, available, inodes, inodes_free, _ = _ANSWER.unpack(answer)
    return record | {
        "size_bytes": blocks * block,
        "used_bytes": (blocks - free) * block,
        "available_bytes": available * block,
        "used_percent": _percent(blocks - free, blocks - free + available),
        "inodes": inodes,
        "inodes_used": inodes - inodes_free,
        "inodes_used_percent": _percent(inodes - inodes_free, inodes),
    }


def _percent(used: int, total: int) -> float:
    """As df(1) counts: of what an ordinary user could have."""
    return round(100 * used / total, 1) if total else 0.0


def _judge(mount: Mount, record: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    subject = f"{shown(mount.point)} ({shown(mount.kind)})"
    if record.get("hangs"):
        left = (
            f"; process {record['unkillable_pid']} waits for it and can't be ended" if record["unkillable_pid"] else ""
        )
        yield "warning", "filesystem-hangs", subject, f"{shown(mount.source)} gives no answer: {record['lacks']}{left}"
    # An overlay has its upper layer's space: of a hundred containers' overlays, each would tell the same disk again.
    is_repeated = mount.kind == b"overlay" and mount.point != b"/"
    if is_repeated or mount.kind.startswith(_NEVER_FULL) or "size_bytes" not in record:
        return
    for key, what in (("used_percent", "space"), ("inodes_used_percent", "inodes")):
        if record[key] >= _FULL_PERCENT:
            yield "warning", "filesystem-full", subject, f"{record[key]} % of its {what} is used"
