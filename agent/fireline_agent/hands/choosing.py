"""The choosing itself: walks a tree and adds up, batch by batch, what the rules choose.

Leaves to others: what is known of a chosen file and of batches (selection), the walk (tree).

Source of what a clean-up of temporary files leaves alone: tmpfiles.d(5) and systemd's tmpfiles.c (dir_cleanup).
"""

import fnmatch
import heapq
import os
import re
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

from fireline_agent.hands.chosen import DIGEST_BYTES, DIGESTS, PARTS, SHOWN, Batch, Look, Lot, Picked, Rules, Selected
from fireline_agent.hands.holders import Holder, Identity
from fireline_agent.hands.tree import Folder

_Candidate = tuple[int, str, str, Identity, int, bool]  # a Picked, its size first
_LOT_FILES: Final = 5_000  # a folder with more chosen files than this is told in parts
_NOWHERE: Final = Folder("", "", -1, 0, os.stat_result((0,) * 10))
_SERVICES: Final = ("systemd-private-", "snap-private-tmp", "snap.")
_SESSIONS: Final = frozenset({".X11-unix", ".ICE-unix", ".XIM-unix", ".font-unix", ".Test-unix"})
_DISPLAY_LOCK: Final = re.compile(r"\.X\d+-lock\Z")


def identity(found: os.stat_result) -> Identity:
    """What a file is known by, whatever it is called."""
    return found.st_dev, found.st_ino


def _part(name: str) -> int:
    return zlib.crc32(os.fsencode(name)) % PARTS


@dataclass
class Level:
    """A folder on the way down, the lots of its parts, and what was told before it: it may have to be forgotten."""

    folder: Folder
    batches_before: int
    picked_before: int
    lots: dict[int, Lot] = field(default_factory=dict)
    held_by: Holder | None = None
    is_closed: bool = False


@dataclass
class Share:
    """What a part of a tree came to, that another process has looked through: told already, and what is left to add."""

    selected: Selected
    lot: Lot
    held_by: Holder | None


class Chooser:
    """Walks a tree and chooses; see Visitor.

    Args:
        rules: what is chosen.
        look: what is known of the host.
        batch: to stay within it.
        picked: where chosen files are told one by one; None: only counted.
        shares: what is known of folders already, by path: those are not looked into.
        above: so many folders of the tree lie above the one that is walked.
    """

    def __init__(
        self,
        rules: Rules,
        look: Look,
        batch: Batch,
        picked: list[Picked] | None,
        *,
        shares: Mapping[str, Share] = MappingProxyType({}),
        above: int = 0,
    ) -> None:
        self._rules = rules
        self._held = look.held
        self._batch = batch
        self._matches = re.compile("|".join(fnmatch.translate(pattern) for pattern in rules.patterns)).match
        self._levels: list[Level] = [Level(_NOWHERE, 0, 0) for _ in range(above)]
        self._shares = shares
        self._floor = 0
        self._candidates: list[_Candidate] = []
        self._picked = picked
        self.selected = Selected()

    def ended(self) -> Selected:
        """What the walk chose and left."""
        self.selected.largest = [
            Picked(folder, name, which, mtime_ns, size, is_held)
            for size, folder, name, which, mtime_ns, is_held in heapq.nlargest(SHOWN, self._candidates)
        ]
        return self.selected

    def share(self) -> Share:
        """The same, for who walks above it; only with `above`."""
        level = self._levels[-1]
        return Share(self.ended(), _sum(level.lots.values()), level.held_by)

    def enter(self, folder: Folder) -> bool:
        """See Visitor."""
        before = len(self._picked) if self._picked is not None else 0
        level = Level(folder, len(self.selected.batches), before)
        self._levels.append(level)
        if folder.path in self._shares:
            return False
        if len(self._levels) == 1:
            return True
        if len(self._levels) == 2 and not self._is_in_batch(folder.name):
            level.is_closed = True
        elif self._rules.is_temporary:
            level.held_by = self._held.get(identity(folder.found))
            if folder.name in _SESSIONS or folder.name.startswith(_SERVICES):
                self._spare(folder.path, "belongs to a running service or session")
                level.is_closed = True
        return not level.is_closed

    def files(self, folder: Folder, entries: Sequence["os.DirEntry[str]"]) -> None:
        """See Visitor."""
        level, is_newest, before_ns = self._levels[-1], self._rules.is_newest_time, self._rules.before_ns
        is_temporary, matches = self._rules.is_temporary, self._matches
        if len(self._levels) == 1 and self._batch.is_part:
            entries = [entry for entry in entries if self._is_in_batch(entry.name)]
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:  # it went meanwhile
                continue
            if is_temporary and level.held_by is None:
                level.held_by = self._held.get(identity(found))
            time_ns = found.st_mtime_ns
            if is_newest:
                time_ns = max(time_ns, found.st_atime_ns, found.st_ctime_ns)
            if time_ns <= before_ns and matches(entry.name):
                self._consider(level, entry.name, found, time_ns)

    def leave(self, folder: Folder) -> None:
        """See Visitor."""
        level = self._levels.pop()
        if not self._levels:
            self._emit(level, self._batch.first, self._batch.last)
            return
        parent = self._levels[-1]
        if folder.path in self._shares:
            self._take_share(self._shares[folder.path], folder, parent)
            return
        if level.held_by is not None and self._is_forgotten(level, parent):
            return
        total = _sum(level.lots.values())
        if total.files > _LOT_FILES:
            self._emit(level, 0, PARTS - 1)
            self._forget_picked(level)
            return
        if total.files:
            parent.lots.setdefault(_part(folder.name), Lot()).add(total)
        self._offer_folder(level, parent)

    def skipped(self, folder: Folder, name: str, why: str) -> None:
        """See Visitor."""
        self._spare(f"{folder.path.rstrip('/')}/{name}", why)

    def _is_in_batch(self, name: str) -> bool:
        return self._batch.first <= _part(name) <= self._batch.last

    def _spare(self, path: str, why: str) -> None:
        self.selected.spared_count += 1
        if len(self.selected.spared) < SHOWN:
            self.selected.spared[path] = why

    def _is_forgotten(self, level: Level, parent: Level) -> bool:
        """Pass on that a folder is in use; the one just below the root is forgotten with all that was chosen in it."""
        if len(self._levels) > 1:
            parent.held_by = parent.held_by or level.held_by
            return False
        del self.selected.batches[level.batches_before :]
        inside = f"{level.folder.path}/"
        self._candidates = [one for one in self._candidates if not f"{one[1]}/".startswith(inside)]
        self._forget_picked(level)
        self._spare(level.folder.path, f"in use by {level.held_by}")
        return True

    def _take_share(self, share: Share, folder: Folder, parent: Level) -> None:
        mine, theirs = self.selected, share.selected
        mine.batches += theirs.batches
        for one in theirs.largest:
            self._remember((one.size_bytes, one.folder, one.name, one.identity, one.mtime_ns, one.is_held))
        for path, why in theirs.spared.items():
            self._spare(path, why)
        mine.spared_count += theirs.spared_count - len(theirs.spared)
        for path in theirs.linked:
            self._note_link(path)
        mine.linked_count += theirs.linked_count - len(theirs.linked)
        parent.held_by = parent.held_by or share.held_by
        if share.lot.files:
            parent.lots.setdefault(_part(folder.name), Lot()).add(share.lot)

    def _forget_picked(self, level: Level) -> None:
        if self._picked is not None:
            del self._picked[level.picked_before :]

    def _offer_folder(self, level: Level, parent: Level) -> None:
        """A folder that is as old as the files may go after them, if it is empty by then."""
        found = level.folder.found
        if self._picked is None or not self._rules.is_temporary or level.is_closed or level.held_by is not None:
            return
        # Reading it has changed its atime.
        time_ns = max(found.st_mtime_ns, found.st_ctime_ns) if self._rules.is_newest_time else found.st_mtime_ns
        if time_ns <= self._rules.before_ns:
            one = Picked(parent.folder.path, level.folder.name, identity(found), found.st_mtime_ns, is_folder=True)
            self._picked.append(one)

    def _consider(self, level: Level, name: str, found: os.stat_result, time_ns: int) -> None:
        holder = self._held.get(identity(found))
        if why := _refused(self._rules, found, holder, name):
            self._spare(f"{level.folder.path.rstrip('/')}/{name}", why)
            return
        size = found.st_blocks * 512
        if found.st_nlink > 1:
            size = 0
            self._note_link(f"{level.folder.path.rstrip('/')}/{name}")
        lot = level.lots.get(part := _part(name))
        if lot is None:
            lot = level.lots[part] = Lot()
        lot.files += 1
        lot.held += holder is not None
        lot.size_bytes += size
        if time_ns > lot.newest_ns:
            lot.newest_ns = time_ns
        lot.digest = (lot.digest + _hashed(found, name, is_held=holder is not None)) % DIGESTS
        if self._picked is not None:
            one = Picked(level.folder.path, name, identity(found), found.st_mtime_ns, size, holder is not None)
            self._picked.append(one)
        elif size > self._floor:
            self._remember((size, level.folder.path, name, identity(found), found.st_mtime_ns, holder is not None))

    def _note_link(self, path: str) -> None:
        self.selected.linked_count += 1
        if len(self.selected.linked) < SHOWN:
            self.selected.linked.append(path)

    def _remember(self, one: _Candidate) -> None:
        self._candidates.append(one)
        if len(self._candidates) >= 8 * SHOWN:
            self._candidates = heapq.nlargest(SHOWN, self._candidates)
            self._floor = self._candidates[-1][0]

    def _emit(self, level: Level, first: int, last: int) -> None:
        """The folder's parts as batches, neighbours together as long as they stay small."""
        run = Lot()
        for part in sorted(level.lots):
            lot = level.lots[part]
            if run.files and run.files + lot.files > _LOT_FILES:
                self._add_batch(level.folder, first, part - 1, run)
                first, run = part, Lot()
            run.add(lot)
        if run.files:
            self._add_batch(level.folder, first, last, run)

    def _add_batch(self, folder: Folder, first: int, last: int, lot: Lot) -> None:
        self.selected.batches.append(Batch(folder.path, identity(folder.found), first, last, lot))


def _sum(lots: Iterable[Lot]) -> Lot:
    total = Lot()
    for lot in lots:
        total.add(lot)
    return total


def _hashed(found: os.stat_result, name: str, *, is_held: bool) -> int:
    """Of a file that is written to, the time of its content changes and is left out."""
    identity = b"%d %d %d " % (found.st_dev, found.st_ino, -1 if is_held else found.st_mtime_ns)
    return int.from_bytes(blake2b(identity + os.fsencode(name), digest_size=DIGEST_BYTES).digest())


def _refused(rules: Rules, found: os.stat_result, holder: Holder | None, name: str) -> str:
    """Why a file that is old enough and of the right name is left alone; empty where it is chosen."""
    is_plain = stat.S_ISREG(found.st_mode)
    if not rules.is_temporary:
        if holder is not None and found.st_nlink > 1:
            return f"in use by {holder}, and has other names: truncating would empty those too"
        return "" if is_plain else "no plain file"
    if holder is not None:
        return f"in use by {holder}"
    if not is_plain:
        return "" if stat.S_ISLNK(found.st_mode) else "a socket, pipe or device"
    if found.st_mode & stat.S_ISVTX:
        return "has the sticky bit, which tells clean-up to leave it"
    if found.st_uid == 0 and not found.st_mode & stat.S_IWUSR:
        return "of root and read-only"
    return "the lock of a display" if _DISPLAY_LOCK.match(name) else ""
