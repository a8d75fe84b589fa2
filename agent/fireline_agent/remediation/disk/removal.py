"""Removing the files of a batch one by one, each looked at in its open folder just before it goes. No action."""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from fireline_agent.hands import shares, tree
from fireline_agent.hands.chosen import Picked
from fireline_agent.hands.printable import printable
from fireline_agent.hands.tree import Folder
from fireline_agent.remediation.action import ActionError, Tools

PATH_LETTERS: Final = 500
_TOLD_EVERY: Final = 1_000


class Removal:
    """Removes picked files below an open folder."""

    def __init__(self, tools: Tools, top: Folder) -> None:
        self._tools = tools
        self._top = top
        self._counts = {"removed": 0, "truncated": 0, "left": 0, "folders": 0}

    def run(self, picked: list[Picked]) -> Mapping[str, int]:
        """All of them, folders last; returns counts."""
        by_folder: dict[str, list[Picked]] = {}
        for one in picked:
            if not one.is_folder:
                by_folder.setdefault(one.folder, []).append(one)
        for path, files in by_folder.items():
            with tree.opened_below(self._top, shares.relative(self._top, path)) as folder:
                for one in files:
                    self._remove(folder, one)
        for one in picked:
            if one.is_folder:
                self._remove_folder(one)
        return self._counts

    def _remove(self, folder: Folder, one: Picked) -> None:
        done = self._counts["removed"] + self._counts["truncated"]
        if done % _TOLD_EVERY == _TOLD_EVERY - 1:
            self._tools.tell(f"{printable(folder.path)}: {done + 1} files removed")
        try:
            found = os.stat(one.name, dir_fd=folder.fd, follow_symlinks=False)
            is_same = (found.st_dev, found.st_ino) == one.identity
            if not is_same or not (one.is_held or found.st_mtime_ns == one.mtime_ns):
                self._counts["left"] += 1
            elif one.is_held:
                _truncate(folder, one)
                self._counts["truncated"] += 1
            else:
                _unlink(folder, one)
                self._counts["removed"] += 1
        except FileNotFoundError:
            return
        except OSError as error:
            path = f"{folder.path.rstrip('/')}/{one.name}"
            raise ActionError(f"{printable(path, limit=PATH_LETTERS)}: {error.strerror}; {self._counts}") from None

    def _remove_folder(self, one: Picked) -> None:
        above = shares.relative(self._top, one.folder)
        with suppress(OSError), tree.opened_below(self._top, above) as folder:  # not empty, or gone: it stays
            found = os.stat(one.name, dir_fd=folder.fd, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == one.identity:
                os.rmdir(one.name, dir_fd=folder.fd)
                self._counts["folders"] += 1


def _unlink(folder: Folder, one: Picked) -> None:
    try:
        os.unlink(one.name, dir_fd=folder.fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _truncate(folder, one)  # a full copy-on-write file system has no room to forget a name, but gives back blocks
        os.unlink(one.name, dir_fd=folder.fd)


def _truncate(folder: Folder, one: Picked) -> None:
    descriptor = os.open(one.name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder.fd)
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) == one.identity and found.st_nlink == 1:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
