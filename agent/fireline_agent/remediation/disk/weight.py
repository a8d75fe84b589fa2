"""How much lies below a folder, and which folders and files hold most of it. No action.

As `du -x`: what the disk gives for it, a file with several names once, one file system. The work is spread over the
processors in forked children, by folders. Leaves to others: what is walked how (tree).
"""

import heapq
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fireline_agent.hands import children, shares, tree
from fireline_agent.hands.tree import Folder

_MAX_LINKS: Final = 200_000  # files with several names that are remembered in one share, 100 bytes each
_MAX_SKIPPED: Final = 50

Weighed = tuple[int, str]  # bytes, path


@dataclass
class Weight:
    """What lies below a root. `largest_folders` count all below them; `skipped`: path and why, at most 50."""

    size_bytes: int = 0
    files: int = 0
    folders: int = 0
    largest_folders: list[Weighed] = field(default_factory=list)
    largest_files: list[Weighed] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class _Scale:
    """Visits a tree and weighs it; see Visitor. `shares`: folders that are left to others."""

    def __init__(self, top: int, shares: frozenset[str] = frozenset()) -> None:
        self._top = top
        self.shares = shares
        self._open: list[int] = []
        self._floor = 0
        self.links: dict[int, int] = {}
        self.weight = Weight()
        self.totals: dict[str, int] = {}

    def enter(self, folder: Folder) -> bool:
        """See Visitor."""
        is_ours = folder.path not in self.shares
        self._open.append(folder.found.st_blocks * 512 if is_ours else 0)
        self.weight.folders += is_ours
        return is_ours

    def files(self, folder: Folder, entries: Sequence["os.DirEntry[str]"]) -> None:
        """See Visitor."""
        total, floor = 0, self._floor
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:  # it went meanwhile
                continue
            blocks = found.st_blocks
            if found.st_nlink > 1 and not self._is_first(found):
                continue
            total += blocks
            if blocks > floor:
                self._keep(blocks * 512, f"{folder.path.rstrip('/')}/{entry.name}")
                floor = self._floor
        self._open[-1] += total * 512
        self.weight.files += len(entries)

    def leave(self, folder: Folder) -> None:
        """See Visitor."""
        total = self._open.pop()
        if self._open:
            self._open[-1] += total
        else:
            self.weight.size_bytes = total
        if not self.shares:
            _push(self.weight.largest_folders, (total, folder.path), self._top)
        elif folder.path not in self.shares:
            self.totals[folder.path] = total  # so far: the shares below it are added later

    def skipped(self, folder: Folder, name: str, why: str) -> None:
        """See Visitor."""
        if len(self.weight.skipped) < _MAX_SKIPPED:
            self.weight.skipped.append((f"{folder.path.rstrip('/')}/{name}", why))

    def _is_first(self, found: os.stat_result) -> bool:
        if found.st_ino in self.links:
            return False
        if len(self.links) < _MAX_LINKS:
            self.links[found.st_ino] = found.st_blocks * 512
        return True

    def _keep(self, size: int, path: str) -> None:
        largest = self.weight.largest_files
        _push(largest, (size, path), self._top)
        if len(largest) == self._top:
            self._floor = largest[0][0] // 512


def weigh(root: Folder, mounts: frozenset[str], top: int) -> Weight:
    """Weigh everything below a root; the `top` largest folders and files, the largest first."""
    spread = shares.spread(root, mounts)
    scale = _Scale(top, frozenset(spread))
    tree.walk(root, scale, mounts)
    for path, answer in shares.each(root, spread, lambda folder: _weighed(folder, mounts, top)):
        if isinstance(answer, children.ChildFailed):
            scale.weight.skipped.append((path, str(answer)))
        else:
            _merge(scale, path, json.loads(answer), top)
    return _finished(scale, root, top)


def _weighed(folder: Folder, mounts: frozenset[str], top: int) -> bytes:
    scale = _Scale(top)
    tree.walk(folder, scale, mounts)
    weight = scale.weight
    document: dict[str, Any] = {
        "size_bytes": weight.size_bytes,
        "files": weight.files,
        "folders": weight.folders,
        "largest_folders": weight.largest_folders,
        "largest_files": weight.largest_files,
        "skipped": weight.skipped,
        "links": list(scale.links.items()),
    }
    return json.dumps(document).encode()


def _merge(scale: _Scale, path: str, document: dict[str, Any], top: int) -> None:
    weight, size = scale.weight, int(document["size_bytes"])
    for inode, link_size in document["links"]:
        if inode in scale.links:  # another share has counted it too
            size -= link_size
        scale.links[inode] = link_size
    weight.size_bytes += size
    weight.files += document["files"]
    weight.folders += document["folders"]
    weight.skipped.extend((where, why) for where, why in document["skipped"])
    for found, where in document["largest_folders"]:
        _push(weight.largest_folders, (found, where), top)
    for found, where in document["largest_files"]:
        _push(weight.largest_files, (found, where), top)
    for above in scale.totals:
        if path.startswith(f"{above.rstrip('/')}/"):
            scale.totals[above] += size


def _finished(scale: _Scale, root: Folder, top: int) -> Weight:
    weight = scale.weight
    for path, size in scale.totals.items():
        _push(weight.largest_folders, (size, path), top)
    below = [one for one in weight.largest_folders if one[1] != root.path]
    weight.largest_folders = sorted(below, key=lambda one: (-one[0], one[1]))
    weight.largest_files.sort(key=lambda one: (-one[0], one[1]))
    del weight.skipped[_MAX_SKIPPED:]
    return weight


def _push(heap: list[Weighed], one: Weighed, most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, one)
    elif one > heap[0]:
        heapq.heapreplace(heap, one)
