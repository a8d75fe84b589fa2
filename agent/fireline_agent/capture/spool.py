"""The captures on this host's disk: made, found again after a crash, read for the transfer, forgotten.

One folder each. Bounded by a limit for all of them and by a reserve of free space that is left alone; where nothing is
free beyond the reserve, captures have the bytes that were set aside for that day. Every method blocks on the disk: call
it off the event loop. Leaves to others: what is written into a folder (sink, seal).
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.aside import Aside
from fireline_agent.capture.order import Folder, Order, key
from fireline_agent.errors import RefusedError
from fireline_wire import durable
from fireline_wire.transfer import CHUNK_BYTES

MIN_BUDGET_BYTES: Final = 1 << 20  # a capture that may write less is not worth its start


@dataclass(frozen=True)
class Sealed:
    """What a sealed capture holds; the manifest's hash is that of its envelope."""

    manifest_sha256: str
    manifest_bytes: int
    artifacts: int
    total_bytes: int
    partial: bool
    partial_reason: str


@dataclass(frozen=True)
class Piece:
    """Bytes of one file to be sent as one message each chunk."""

    path: Path
    offset: int
    size: int


class Spool:
    """All captures below one folder."""

    def __init__(self, path: Path, *, limit_bytes: int, reserve_bytes: int, aside_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._aside = Aside(path.with_name(f"{path.name}.aside"), wanted_bytes=aside_bytes)
        self.set_aside()

    def free_bytes(self) -> int:
        """Free bytes of the file system, for the host's description."""
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize

    def room_bytes(self) -> int:
        """How much more may be written, by the limit and by the free space or what is set aside."""
        used = sum(entry.stat().st_blocks * 512 for entry in self._path.rglob("*") if entry.is_file())
        last = self._aside.room_bytes(used_bytes=used, free_bytes=self._left_bytes())
        return max(0, min(self._limit_bytes - used, max(self._spare_bytes(), last)))

    def set_aside(self) -> None:
        """Hold bytes for captures of the day when the disk is full, if there is room for that."""
        self._aside.take_back(spare_bytes=self._spare_bytes(), free_bytes=self._left_bytes())

    def require_room(self, budget_bytes: int) -> None:
        """Let a capture begin.

        Raises:
            RefusedError: disk_full.
        """
        if budget_bytes < MIN_BUDGET_BYTES:
            raise RefusedError(
                "disk_full",
                f"{self._path}: {self.free_bytes()} bytes are free, {self._reserve_bytes} of them are left alone, and "
                f"captures may hold {self._limit_bytes}; {self._aside.held_bytes()} bytes are set aside: "
                "nothing can be collected; forget old captures or free space",
            )

    def create(self, order: Order) -> Folder:
        """Make the capture's folder with its order in it, durably: from now on a crash leaves something to seal.

        Raises:
            RefusedError: disk_full.
        """
        fresh, path = self._path / f".{order.key}", self._path / order.key
        if order.budget_bytes > self._spare_bytes():
            self._aside.give_up()
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            (fresh / "files").mkdir(mode=0o700, parents=True)
            durable.write_new(fresh / "order.json", order.to_json())
            durable.sync_folder(fresh)
            fresh.rename(path)
            durable.sync_folder(self._path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RefusedError("disk_full", f"{path}: {error.strerror}") from None
        return Folder(path)

    def find(self, request_id: str) -> Folder | None:
        """The folder of a capture, sealed or not."""
        path = self._path / key(request_id)
        return Folder(path) if path.is_dir() else None

    def unsealed(self) -> list[tuple[Folder, Order]]:
        """Captures that a crash left behind, the oldest first."""
        found = [f for f in self._folders() if not f.sealed.exists()]
        return [(f, Order.from_json(f.order.read_bytes())) for f in found]

    def forget(self, request_id: str) -> bool:
        """Delete a capture; false if there is none."""
        folder = self.find(request_id)
        if folder is not None:
            self._delete(folder)
            self.set_aside()
        return folder is not None

    def expire(self, *, older_than_s: float) -> list[str]:
        """Delete sealed captures that nobody fetched in so long; returns their names."""
        limit = time.time() - older_than_s
        old = [f for f in self._folders() if f.sealed.exists() and f.sealed.stat().st_mtime < limit]
        for folder in old:
            self._delete(folder)
        self.set_aside()
        return [folder.path.name for folder in old]

    def _spare_bytes(self) -> int:
        return self.free_bytes() - self._reserve_bytes

    def _left_bytes(self) -> int:
        """Free bytes of the file system with those that it keeps for root."""
        found = os.statvfs(self._path)
        return found.f_bfree * found.f_frsize

    def _folders(self) -> list[Folder]:
        # A name with a dot is one that was being made or deleted when the agent ended.
        for path in self._path.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)
        paths = [p for p in self._path.iterdir() if p.is_dir() and (p / "order.json").exists()]
        return [Folder(p) for p in sorted(paths, key=lambda p: p.stat().st_mtime)]

    def _delete(self, folder: Folder) -> None:
        doomed = folder.path.with_name(f".{folder.path.name}")
        # Renamed first, so that half a capture is never found.
        with suppress(FileNotFoundError):
            folder.path.rename(doomed)
            shutil.rmtree(doomed)


def read_sealed(folder: Folder) -> Sealed | None:
    """What the sealing answered, or None while the capture is not sealed."""
    try:
        return Sealed(**json.loads(folder.sealed.read_bytes()))
    except FileNotFoundError:
        return None


def manifest_piece(folder: Folder, offset: int) -> Piece:
    """The manifest from an offset on.

    Raises:
        RefusedError: invalid_request.
    """
    size = folder.manifest.stat().st_size
    if offset % CHUNK_BYTES or not 0 <= offset <= size:
        raise RefusedError(
            "invalid_request", f"manifest_offset: wanted a multiple of {CHUNK_BYTES} up to {size}, found {offset}"
        )
    return Piece(folder.manifest, offset, size - offset)


def chunk_pieces(folder: Folder, ranges: Sequence[tuple[str, int, int]]) -> list[Piece]:
    """The bytes of ranges of chunks: artifact, first chunk, count.

    Raises:
        RefusedError: not_found for an artifact, invalid_request for a range outside of it.
    """
    places: dict[str, Any] = json.loads(folder.places.read_bytes())
    return [_chunk_piece(folder, places, artifact, first, count) for artifact, first, count in ranges]


def _chunk_piece(folder: Folder, places: dict[str, Any], artifact: str, first: int, count: int) -> Piece:
    place = places.get(artifact)
    if place is None:
        raise RefusedError("not_found", f"the capture has no artifact {artifact[:200]!r}")
    chunks = -(-place["size"] // CHUNK_BYTES)
    if count < 1 or first + count > chunks:
        raise RefusedError(
            "invalid_request", f"artifact {artifact}: wanted a range within {chunks} chunks, found {count} from {first}"
        )
    offset = first * CHUNK_BYTES
    return Piece(folder.files / place["file"], offset, min(count * CHUNK_BYTES, place["size"] - offset))


def read_piece(piece: Piece) -> Iterator[bytes]:
    """The piece chunk by chunk, the last one as long as it is.

    Raises:
        OSError: the file is shorter than it was when it was sealed.
    """
    with piece.path.open("rb", buffering=0) as file:
        file.seek(piece.offset)
        left = piece.size
        while left:
            data = file.read(min(CHUNK_BYTES, left))
            if len(data) < min(CHUNK_BYTES, left):
                raise OSError(f"{piece.path}: ends {left - len(data)} bytes before the end that was sealed")
            left -= len(data)
            yield data
