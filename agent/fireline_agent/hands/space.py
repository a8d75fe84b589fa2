"""The door to file systems as a whole: which are mounted, and how full they are, however dead one of them is.

A file system whose server is gone hangs whoever asks it. So they are asked in forked children: the ones that may
hang each in its own and all at once, the local ones in turn.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from fireline_agent.hands import children
from fireline_agent.hands.procfs import Mount

HANG_S: Final = 0.9  # a healthy one answers within milliseconds; a hanging one may cost a second in all
_REMOTE: Final = (b"fuse", b"nfs", b"cifs", b"smb", b"9p", b"ceph", b"afs", b"lustre", b"gfs2", b"ocfs2", b"virtiofs")
# These have no space of their own, or are pictures of something else: never called full.
_NEVER_FULL: Final = (b"squashfs", b"iso9660", b"erofs", b"udf", b"cramfs", b"efivarfs", b"nsfs")
_ANSWER: Final = struct.Struct("=8Q")
_MAX_LANES: Final = 32  # children at once, well below the processes a collector may have: each tells one that hangs


@dataclass(frozen=True)
class Space:
    """How full a file system is. Percentages as df(1) counts: of what an ordinary user could have."""

    size_bytes: int
    used_bytes: int
    available_bytes: int
    used_percent: float
    inodes: int
    inodes_used: int
    inodes_used_percent: float


def one_per_device(mounts: list[Mount]) -> list[Mount]:
    """One mount of each file system, the one with the shortest path: bind mounts would only repeat it.

    Where mounts lie on top of one another at a path, the last is the one that can be reached. An automount point is
    left out: to ask it would make it mount.
    """
    reachable = {mount.point: mount for mount in mounts if mount.kind != b"autofs"}
    chosen: dict[str, Mount] = {}
    for mount in sorted(reachable.values(), key=lambda mount: len(mount.point)):
        chosen.setdefault(mount.device, mount)
    return list(chosen.values())


def asked(mounts: list[Mount], hang_s: float) -> Iterator[tuple[Mount, Space | children.ChildFailed]]:
    """Each with its space, or why it gave none, as the answers come."""

    def lane_of(mount: Mount) -> int:
        return mount.id % _MAX_LANES if mount.kind.startswith(_REMOTE) else -1

    def ask(mount: Mount) -> bytes:
        found = os.statvfs(mount.point)
        return _ANSWER.pack(*found[:8])

    for mount, answer in children.each(mounts, ask, timeout_s=hang_s, lane_of=lane_of):
        yield mount, answer if isinstance(answer, children.ChildFailed) else _space(answer)


def counts(mount: Mount, space: Space) -> bool:
    """Whether it matters how full this one is.

    An overlay has its upper layer's space: of a hundred containers' overlays, each would tell the same disk again.
    """
    is_repeated = mount.kind == b"overlay" and mount.point != b"/"
    return not is_repeated and not mount.kind.startswith(_NEVER_FULL) and space.size_bytes > 0


def of(path: str) -> Space:
    """The space of the local file system that a path lies on.

    Raises:
        OSError: the path is not there.
    """
    return _space(_ANSWER.pack(*os.statvfs(path)[:8]))


def _space(answer: bytes) -> Space:
    _, block, blocks, free, available, inodes, inodes_free, _ = _ANSWER.unpack(answer)
    return Space(
        size_bytes=blocks * block,
        used_bytes=(blocks - free) * block,
        available_bytes=available * block,
        used_percent=_percent(blocks - free, blocks - free + available),
        inodes=inodes,
        inodes_used=inodes - inodes_free,
        inodes_used_percent=_percent(inodes - inodes_free, inodes),
    )


def _percent(used: int, total: int) -> float:
    return round(100 * used / total, 1) if total else 0.0
