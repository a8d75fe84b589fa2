"""Everything below chosen folders, gone through once by the one walk of trees, and what of it had to be left out.

Leaves to others: which of it is told, and how (recent_files).
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fireline_agent.hands import tree
from fireline_agent.hands.tree import Folder

_MAX_NAMED: Final = 100  # file systems and folders that are named as left out


class File(NamedTuple):
    """One thing in the tree: its whole path, and its name in the open folder that it lies in; none: that folder."""

    path: str
    name: str
    folder: int
    status: os.stat_result


@dataclass
class Sweep:
    """A Visitor. `tell` is told of each thing; `other_file_systems` and `lacks` name what was left out, up to a bound.

    `marks` are identities of folders; those that the walk comes to are put into `passed`.
    """

    tell: Callable[[File], None]
    mounts: Iterable[str]
    marks: frozenset[tuple[int, int]] = frozenset()
    seen: int = 0
    folders: int = 0
    other_file_systems: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    passed: set[tuple[int, int]] = field(default_factory=set)

    def below(self, root: str) -> None:
        """Tell of everything below a folder; a link is followed for the folder itself and nowhere else."""
        try:
            with tree.opened(os.path.realpath(root)) as top:
                tree.walk(top, self, self.mounts)
        except tree.NoFolder as error:
            self._note(self.lacks, f"{error.filename}: {error.strerror}")

    def enter(self, folder: Folder) -> bool:
        """See Visitor."""
        identity = (folder.found.st_dev, folder.found.st_ino)
        if identity in self.marks:
            self.passed.add(identity)
        self.folders += 1
        if folder.depth:
            self._tell(File(folder.path, "", folder.fd, folder.found))
        return True

    def files(self, folder: Folder, entries: Sequence["os.DirEntry[str]"]) -> None:
        """See Visitor."""
        for entry in entries:
            path = f"{folder.path.rstrip('/')}/{entry.name}"
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError as error:
                self._note(self.lacks, f"{path}: {error.strerror}")
                continue
            if status.st_dev != folder.found.st_dev:
                self._note(self.other_file_systems, path)
            else:
                self._tell(File(path, entry.name, folder.fd, status))

    def leave(self, folder: Folder) -> None:
        """See Visitor."""

    def skipped(self, folder: Folder, name: str, why: str) -> None:
        """See Visitor. What can't be looked into is told itself."""
        path = f"{folder.path.rstrip('/')}/{name}"
        if why in (tree.MOUNTED, tree.OTHER):
            self._note(self.other_file_systems, path)
            return
        self._note(self.lacks, f"{path[-300:]}: {why}")
        try:
            self._tell(File(path, name, folder.fd, os.lstat(name, dir_fd=folder.fd)))
        except OSError:
            return

    def _tell(self, file: File) -> None:
        self.seen += 1
        self.tell(file)

    @staticmethod
    def _note(names: list[str], name: str) -> None:
        if len(names) < _MAX_NAMED:
            names.append(os.fsencode(name).decode(errors="backslashreplace"))
