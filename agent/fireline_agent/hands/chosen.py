"""What is said of files that were chosen: rules, single files, and batches that bind every file by a digest.

Leaves to others: choosing (choosing), which looks to take (selection).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fireline_agent.hands.holders import Holder, Identity

NO_AGE: Final = (1 << 63) - 1
SHOWN: Final = 200
PARTS: Final = 64
DIGEST_BYTES: Final = 32
DIGESTS: Final = 1 << 8 * DIGEST_BYTES


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
        self.digest = (self.digest + other.digest) % DIGESTS


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
        return (self.first, self.last) != (0, PARTS - 1)


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
