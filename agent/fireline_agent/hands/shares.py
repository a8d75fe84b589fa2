"""One walk over a large tree, spread over the processors: which folders hold the work, and a forked child a lane.

Leaves to others: what is done with a folder, and putting the answers together. See tree for what a walk never does.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from fireline_agent.hands import children, tree
from fireline_agent.hands.tree import Folder

_WANTED: Final = 32  # folders among which the work is spread, so that the lanes end at about the same time
_MOST: Final = 640
_DEPTH: Final = 3
_LANES: Final = 4
_SHARE_S: Final = 900.0


def spread(root: Folder, mounts: Iterable[str]) -> list[str]:
    """Folders of one depth, at most three below the root, that hold the work between them; none in a small tree."""
    points, level = frozenset(mounts), [root.path]
    for _ in range(_DEPTH):
        below = [path for above in level for path in _folders(root, above, points)]
        if not below or len(below) > _MOST:
            break
        level = below
        if len(level) >= _WANTED:
            break
    return level if len(level) > 1 else []


def each(
    root: Folder, paths: list[str], work: Callable[[Folder], bytes]
) -> Iterator[tuple[str, bytes | children.ChildFailed]]:
    """Do the work in every folder, as many at once as there are processors; answers come as they are ready."""
    lanes = min(_LANES, os.cpu_count() or 1)

    def inside(item: tuple[int, str]) -> bytes:
        with tree.opened_below(root, relative(root, item[1])) as folder:
            return work(folder)

    numbered = list(enumerate(paths))
    answers = children.each(numbered, inside, timeout_s=_SHARE_S, lane_of=lambda item: item[0] % lanes)
    return ((path, answer) for (_, path), answer in answers)


def relative(root: Folder, path: str) -> str:
    """A path below the root as seen from it; empty for the root itself."""
    return path[len(root.path.rstrip("/")) + 1 :]


def _folders(root: Folder, path: str, mounts: frozenset[str]) -> Iterator[str]:
    try:
        with tree.opened_below(root, relative(root, path)) as folder, os.scandir(folder.fd) as entries:
            for entry in entries:
                below = f"{path.rstrip('/')}/{entry.name}"
                if entry.is_dir(follow_symlinks=False) and below not in mounts:
                    yield below
    except OSError:
        return
