"""Files below a root chosen by age and name, as few batches that bind every single one of them by a digest.

What a plan says of a million files must be small, and yet the same file under the same name must be meant later: a
batch is a folder with all below it, or a part of what it holds, with the sum of the hashes of its files' identities.
The batches of two looks at an unchanged tree are equal. Leaves to others: what happens to the files.

Source of what a clean-up of temporary files leaves alone: tmpfiles.d(5) and systemd's tmpfiles.c (dir_cleanup).
"""

import fnmatch
import os
import re
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from fireline_agent.hands import tree
from fireline_agent.hands.holders import Holder, Identity
from fireline_agent.hands.tree import Folder

NO_AGE: Final = (1 << 63) - 1
SHOWN: Final = 200
_LOT_FILES: Final = 5_000  # a folder with more chosen files than this is told in parts
_HOUR_S: Final = 3600
_PARTS: Final = 64
_DIGEST_BYTES: Final = 32
_DIGESTS: Final = 1 << 8 * _DIGEST_BYTES
_SERVICES: Final = ("systemd-private-", "snap-private-tmp", "snap.")
_SESSIONS: Final = frozenset({".X11-unix", ".ICE-unix", ".XIM-unix", ".font-unix", ".Test-unix"})
_DISPLAY_LOCK: Final = re.compile(r"\.X\d+-lock\Z")


@dataclass(frozen=True)
class Rules:
    """Which files are chosen.

    Attributes:
        patterns: shell patterns, one of which the file's name must match.
        before_ns: a file is chosen where its time is not after this.
        is_newest_time: of a file's three times the newest counts, else the time of its content (mtime).
        is_temporary: what is in use, or is neither plain file nor link, is left alone, and so is a folder just below
            the root in which anything is in use. Else plain files are chosen, and those that are in use marked so.
    """

    patterns: tuple[str, ...] = ("*",)
    before_ns: int = NO_AGE
    is_newest_time: bool = False
    is_temporary: bool = False


@dataclass(frozen=True)
class Look:
    """What a look at files needs to know of the host besides: who uses what, and where something is mounted."""

    held: Mapping[Identity, Holder]
    mounts: Iterable[str]


@dataclass(frozen=True)
class Picked:
    """One chosen file, or a folder to be removed where it is empty, by its name in its folder.

    `size_bytes` is what it takes on the disk, 0 where it has other names.
    """

    folder: str
    name: str
    identity: Identity
    mtime_ns: int
    size_bytes: int = 0
    is_held: bool = False
    is_folder: bool = False


@dataclass
class Lot:
    """Counts over chosen files; adds up in any order."""

    files: int = 0
    held: int = 0
    size_bytes: int = 0
    newest_ns: int = 0
    digest: int = 0

    def add(self, other: "Lot") -> None:
        """Take the other's files in."""
        self.files += other.files
        self.held += other.held
        self.size_bytes += other.size_bytes
        self.newest_ns = max(self.newest_ns, other.newest_ns)
        self.digest = (self.digest + other.digest) % _DIGESTS


@dataclass(frozen=True)
class Batch:
    """What is chosen below one folder, in the parts `first` to `last` of what it holds."""

    path: str
    identity: Identity
    first: int
    last: int
    lot: Lot

    @property
    def is_part(self) -> bool:
        """Whether the folder holds more than this."""
        return (self.first, self.last) != (0, _PARTS - 1)


@dataclass
class Selected:
    """What one look at a root chose and left.

    Attributes:
        batches: the deepest folders first, in a fixed order.
        largest: chosen files, the largest first.
        spared: path to why, of what is left alone; `linked`: chosen files with other names. At most 200 of each.
    """

    batches: list[Batch] = field(default_factory=list)
    largest: list[Picked] = field(default_factory=list)
    spared: dict[str, str] = field(default_factory=dict)
    spared_count: int = 0
    linked: list[str] = field(default_factory=list)
    linked_count: int = 0


def before_ns(older_than_s: int, now_s: float) -> int:
    """The moment before which files are old enough.

    Counted from the last full hour at most, so that a plan stays the same while somebody reads it: files come of age
    by the second.
    """
    if older_than_s == 0:
        return NO_AGE
    step = min(_HOUR_S, older_than_s // 24) or 1
    return (int(now_s) // step * step - older_than_s) * 1_000_000_000


def select(root: Folder, rules: Rules, look: Look) -> Selected:
    """Everything that is chosen below a root, as batches."""
    chooser = _Chooser(rules, look, _whole(root), None)
    tree.walk(root, chooser, look.mounts)
    selected = chooser.selected
    selected.largest = _largest(selected.largest)
    selected.batches.sort(key=lambda batch: (batch.path, batch.first), reverse=True)
    return selected


def pick(folder: Folder, batch: Batch, rules: Rules, look: Look) -> tuple[Lot, list[Picked]]:
    """The files of a batch one by one as they are now, each folder after what is in it; `folder` is the batch's."""
    picked: list[Picked] = []
    chooser = _Chooser(rules, look, batch, picked)
    tree.walk(folder, chooser, look.mounts)
    total = Lot()
    for found in chooser.selected.batches:
        if found.path == folder.path:
            total.add(found.lot)
    return total, picked


def _whole(root: Folder) -> Batch:
    return Batch(root.path, _identity(root.found), 0, _PARTS - 1, Lot())


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _part(name: str) -> int:
    return zlib.crc32(os.fsencode(name)) % _PARTS


def _largest(picked: list[Picked]) -> list[Picked]:
    return sorted(picked, key=lambda one: (-one.size_bytes, one.folder, one.name))[:SHOWN]


@dataclass
class _Level:
    """A folder on the way down, the lots of its parts, and what was told before it: it may have to be forgotten."""

    folder: Folder
    batches_before: int
    picked_before: int
    lots: dict[int, Lot] = field(default_factory=dict)
    held_by: Holder | None = None
    is_closed: bool = False


class _Chooser:
    """Walks a tree and chooses; see Visitor. With `picked`, chosen files are told there one by one."""

    def __init__(self, rules: Rules, look: Look, batch: Batch, picked: list[Picked] | None) -> None:
        self._rules = rules
        self._held = look.held
        self._batch = batch
        self._matches = re.compile("|".join(fnmatch.translate(pattern) for pattern in rules.patterns)).match
        self._levels: list[_Level] = []
        self._floor = 0
        self._picked = picked
        self.selected = Selected()

    def enter(self, folder: Folder) -> bool:
        """See Visitor."""
        before = len(self._picked) if self._picked is not None else 0
        level = _Level(folder, len(self.selected.batches), before)
        self._levels.append(level)
        if len(self._levels) == 1:
            return True
        if len(self._levels) == 2 and not self._is_in_batch(folder.name):
            level.is_closed = True
        elif self._rules.is_temporary:
            level.held_by = self._held.get(_identity(folder.found))
            if folder.name in _SESSIONS or folder.name.startswith(_SERVICES):
                self._spare(folder.path, "belongs to a running service or session")
                level.is_closed = True
        return not level.is_closed

    def files(self, folder: Folder, entries: Sequence["os.DirEntry[str]"]) -> None:
        """See Visitor."""
        level, is_newest, before_ns = self._levels[-1], self._rules.is_newest_time, self._rules.before_ns
        is_temporary = self._rules.is_temporary
        if len(self._levels) == 1 and self._batch.is_part:
            entries = [entry for entry in entries if self._is_in_batch(entry.name)]
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:  # it went meanwhile
                continue
            if is_temporary and level.held_by is None:
                level.held_by = self._held.get(_identity(found))
            time_ns = found.st_mtime_ns
            if is_newest:
                time_ns = max(time_ns, found.st_atime_ns, found.st_ctime_ns)
            if time_ns <= before_ns and self._matches(entry.name):
                self._consider(level, entry.name, found, time_ns)

    def leave(self, folder: Folder) -> None:
        """See Visitor."""
        level = self._levels.pop()
        if not self._levels:
            self._emit(level, self._batch.first, self._batch.last)
            return
        parent = self._levels[-1]
        if level.held_by is not None and self._is_forgotten(level, parent):
            return
        total = Lot()
        for lot in level.lots.values():
            total.add(lot)
        if total.files > _LOT_FILES:
            self._emit(level, 0, _PARTS - 1)
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

    def _is_forgotten(self, level: _Level, parent: _Level) -> bool:
        """Pass on that a folder is in use; the one just below the root is forgotten with all that was chosen in it."""
        if len(self._levels) > 1:
            parent.held_by = parent.held_by or level.held_by
            return False
        del self.selected.batches[level.batches_before :]
        inside = f"{level.folder.path}/"
        self.selected.largest = [one for one in self.selected.largest if not f"{one.folder}/".startswith(inside)]
        self._forget_picked(level)
        self._spare(level.folder.path, f"in use by {level.held_by}")
        return True

    def _forget_picked(self, level: _Level) -> None:
        if self._picked is not None:
            del self._picked[level.picked_before :]

    def _offer_folder(self, level: _Level, parent: _Level) -> None:
        """A folder that is as old as the files may go after them, if it is empty by then."""
        found = level.folder.found
        if self._picked is None or not self._rules.is_temporary or level.is_closed or level.held_by is not None:
            return
        # Reading it has changed its atime.
        time_ns = max(found.st_mtime_ns, found.st_ctime_ns) if self._rules.is_newest_time else found.st_mtime_ns
        if time_ns <= self._rules.before_ns:
            one = Picked(parent.folder.path, level.folder.name, _identity(found), found.st_mtime_ns, is_folder=True)
            self._picked.append(one)

    def _consider(self, level: _Level, name: str, found: os.stat_result, time_ns: int) -> None:
        holder = self._held.get(_identity(found))
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
        lot.digest = (lot.digest + _hashed(found, name, is_held=holder is not None)) % _DIGESTS
        if self._picked is not None or size >= self._floor:
            one = Picked(level.folder.path, name, _identity(found), found.st_mtime_ns, size, holder is not None)
            self._remember(one)

    def _note_link(self, path: str) -> None:
        self.selected.linked_count += 1
        if len(self.selected.linked) < SHOWN:
            self.selected.linked.append(path)

    def _remember(self, one: Picked) -> None:
        if self._picked is not None:
            self._picked.append(one)
            return
        largest = self.selected.largest
        largest.append(one)
        if len(largest) >= 8 * SHOWN:
            self.selected.largest = _largest(largest)
            self._floor = self.selected.largest[-1].size_bytes + 1

    def _emit(self, level: _Level, first: int, last: int) -> None:
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
        self.selected.batches.append(Batch(folder.path, _identity(folder.found), first, last, lot))


def _hashed(found: os.stat_result, name: str, *, is_held: bool) -> int:
    """Of a file that is written to, the time of its content changes and is left out."""
    identity = b"%d %d %d " % (found.st_dev, found.st_ino, -1 if is_held else found.st_mtime_ns)
    return int.from_bytes(blake2b(identity + os.fsencode(name), digest_size=_DIGEST_BYTES).digest())


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
