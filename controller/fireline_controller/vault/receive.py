"""One capture on its way into the vault: what is still wanted, keeping it, and making it durable as a whole.

Chunks are hashed, compressed and written in threads, two at a time, while the next ones arrive; so an error may be
raised by a later call than the one that brought the bytes. Leaves to others: asking the agent for the chunks (hosts),
the manifest's signature (sealed), what happens after a failure (the engine: it receives again under the same key,
and goes on where this ended).
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fireline_controller.model import ChunkPlace, EvidenceError
from fireline_controller.vault import packs
from fireline_controller.vault.claims import Claim, Claims, until_over
from fireline_controller.vault.disk import Disk
from fireline_controller.vault.plan import ChunkRange, Slot, ranges, require_key, require_size
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES

if TYPE_CHECKING:
    from hashlib import _Hash

_IN_FLIGHT: Final = 2  # chunks; two hide the hash behind the write, more only cost memory
_PAUSE: Final = 32  # chunks kept raw after compressing was found to hold up the source


@dataclass
class _Whole:
    """The running hash over an artifact of several chunks, for as long as they come in order."""

    artifact: Artifact
    digest: "_Hash" = field(default_factory=hashlib.sha256)
    following: int = 0


class Receiving:
    """A transfer under way; made by `Vault.receive`."""

    def __init__(
        self,
        disk: Disk,
        claims: Claims,
        key: str,
        artifacts: Sequence[Artifact],
        wanted: Mapping[str, Slot],
        *,
        patience_s: float,
    ) -> None:
        self._key = require_key(key)
        self._disk = disk
        self._claims = claims
        self._slots = wanted
        self._total_bytes = sum(a.size for a in artifacts)
        self._wholes = {a.name: _Whole(a) for a in artifacts if len(a.chunks) > 1}
        self._patience_s = patience_s
        self._mine: dict[str, Claim] = {}
        self._theirs: dict[str, Claim] = {}
        self._places: dict[str, ChunkPlace] = {}
        self._own: dict[str, ChunkPlace] = {}
        self._expected: deque[Slot] = deque()
        self._writing: deque[tuple[Slot, asyncio.Future[ChunkPlace]]] = deque()
        self._hashing: asyncio.Future[None] | None = None
        self._fetched_bytes = 0
        self._raw_ahead = 0
        self.resent_bytes = 0
        """Bytes that had arrived in an earlier try and have to be sent again: the torn end of what that left."""

    @property
    def deduplicated_bytes(self) -> int:
        """Bytes of the artifacts that the host need not send, since the vault has them or gets them from another."""
        return self._total_bytes - self._fetched_bytes - sum(slot.size for slot in self._missing())

    async def open(self, envelope: bytes) -> None:
        """Find what an earlier try left and what the vault has, and claim the rest. Only `Vault.receive` calls this."""
        await self._disk.adopt(f"{self._key}.pack")
        self._pack, left = await self._open_pack()
        try:
            self._go_on(left)
            await self._look_up(envelope)
        except BaseException:
            await self.close()
            raise

    async def _open_pack(self) -> tuple[packs.PackWriter, packs.Scan]:
        path = self._disk.incoming_path(self._key)
        reserve_bytes = self._disk.reserve_bytes
        opening = asyncio.ensure_future(self._disk.run(packs.PackWriter.open, path, reserve_bytes=reserve_bytes))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)  # else the key's lock is held for as long as the process lives
            raise

    def _go_on(self, left: packs.Scan) -> None:
        self.resent_bytes = left.torn_bytes
        self._claim(self._slots)
        for place in left.places:
            slot = self._slots.get(place.sha256)
            if slot is not None:
                self._fetched_bytes += slot.size
                self._kept(slot, place)
            self._own[place.sha256] = place

    async def _look_up(self, envelope: bytes) -> None:
        sealed = hashlib.sha256(envelope).hexdigest()
        known = await self._disk.places([*(self._slots.keys() - self._own.keys()), sealed])
        for digest in known.keys() & self._slots.keys():
            self._found(digest, known[digest])
        missing_bytes = sum(slot.size for slot in self._missing())
        reserve_bytes = self._disk.reserve_bytes
        await self._disk.run(packs.require_room, self._disk.incoming, missing_bytes, reserve_bytes=reserve_bytes)
        if sealed not in known and sealed not in self._own:
            self._own[sealed] = await self._disk.run(self._pack.append, sealed, envelope, compress=True)

    def _claim(self, digests: Iterable[str]) -> None:
        for digest in digests:
            claim, is_mine = self._claims.take(digest)
            (self._mine if is_mine else self._theirs)[digest] = claim

    def _found(self, digest: str, place: ChunkPlace) -> None:
        require_size(self._slots[digest], place.raw_bytes)
        self._places[digest] = place
        self._theirs.pop(digest, None)
        if digest in self._mine:
            self._claims.give_up(digest, self._mine.pop(digest))

    def _missing(self) -> list[Slot]:
        return [slot for d, slot in self._slots.items() if d in self._mine and d not in self._own]

    async def wanted(self) -> tuple[ChunkRange, ...]:
        """What to ask the host for now, in order; nothing once the vault has or gets everything.

        Asked again after a broken connection it gives what is still missing. When all that is left comes from other
        hosts' transfers it waits for those, but not for long: a host that claims and does not send holds up nobody.

        Raises:
            EvidenceError: what was brought before does not match its hash.
            StoreError: it could not be written.
        """
        await self._settle(0)
        while self._theirs and not self._missing():
            await until_over(list(self._theirs.values()), patience_s=self._patience_s)
            await self._take_from_others()
        self._expected = deque(self._missing())
        return ranges(self._expected)

    async def _take_from_others(self) -> None:
        theirs = dict(self._theirs)
        for digest, place in (await self._disk.places([*theirs])).items():
            self._found(digest, place)
        for digest in [*self._theirs]:
            del self._theirs[digest]
            if theirs[digest].over.is_set():
                self._claim([digest])  # its host failed: the first to come here fetches it, once for all
            else:
                self._mine[digest] = self._claims.take_over(digest)
        for digest in self._mine.keys() & theirs.keys():
            await self._copy(digest, theirs[digest].place)

    async def _copy(self, digest: str, place: ChunkPlace | None) -> None:
        """Take a chunk that another transfer may have written and will not, or not soon, make durable."""
        if place is None:
            return
        try:
            data = await self._disk.run(self._disk.read, place)
        except (EvidenceError, OSError):
            return  # that transfer ended and its pack with it: the chunk stays wanted
        self._kept(self._slots[digest], await self._disk.run(self._pack.append, digest, data, compress=False))

    async def keep(self, data: bytes) -> None:
        """Keep the next of the wanted chunks.

        Raises:
            EvidenceError: the host sends more than was asked, or a chunk that has not the length or the hash of the
                manifest.
            StoreError: it could not be written (`disk_full` when there is no room).
        """
        if not self._expected:
            raise EvidenceError(f"{self._key}: the host sends more than was asked for: {len(data)} bytes too many")
        slot = self._expected.popleft()
        if len(data) != slot.size:
            raise EvidenceError(f"{slot}: wanted {slot.size} bytes, found {len(data)}")
        compress = self._may_compress(slot)
        await self._settle(_IN_FLIGHT - 1)
        loop = asyncio.get_running_loop()
        self._writing.append((slot, loop.run_in_executor(self._disk.threads, self._write, slot, data, compress)))
        await self._hash_whole(slot, data)

    def _may_compress(self, slot: Slot) -> bool:
        """Whether time is left for it: zstd is five times slower than all else, so a fast source is kept raw.

        What has room in one chunk is worth it always; for the rest the sign is that everything before was written
        when this came.
        """
        is_idle = all(future.done() for _, future in self._writing)
        self._raw_ahead = max(0, self._raw_ahead - 1) if is_idle else _PAUSE
        return slot.size < CHUNK_BYTES or not self._raw_ahead

    def _write(self, slot: Slot, data: bytes, compress: bool) -> ChunkPlace:
        if hashlib.sha256(data).hexdigest() != slot.digest:
            raise EvidenceError(f"{slot}: its bytes do not match the manifest's SHA-256 {slot.digest[:16]}…")
        return self._pack.append(slot.digest, data, compress=compress)

    async def _hash_whole(self, slot: Slot, data: bytes) -> None:
        whole = self._wholes.get(slot.artifact)
        if whole is None or slot.index != whole.following:
            return
        if self._hashing is not None:
            await self._hashing
        whole.following += 1
        loop = asyncio.get_running_loop()
        self._hashing = loop.run_in_executor(self._disk.threads, whole.digest.update, data)

    async def _settle(self, room: int) -> None:
        while len(self._writing) > room:
            slot, future = self._writing[0]
            place = await asyncio.shield(future)
            self._writing.popleft()
            self._fetched_bytes += slot.size
            self._kept(slot, place)

    def _kept(self, slot: Slot, place: ChunkPlace) -> None:
        self._own[slot.digest] = self._places[slot.digest] = place
        self._theirs.pop(slot.digest, None)
        if slot.digest in self._mine:
            self._mine[slot.digest].place = place

    async def finish(self) -> None:
        """Make everything durable and known: only after this the evidence is kept.

        Raises:
            EvidenceError: a chunk is missing (the host ended its stream too early), or an artifact as a whole does not
                have the manifest's hash though its chunks have theirs.
            StoreError: the disk or the store would not keep it.
        """
        if await self.wanted():
            raise EvidenceError(f"{self._expected[0]}: missing, with {len(self._expected)} chunks in all not sent")
        if self._hashing is not None:
            await self._hashing
        for whole in self._wholes.values():
            await self._disk.run(self._verify, whole)
        if not self._own:
            await self._disk.run(self._pack.discard)
            return
        target = await self._disk.run(self._disk.free_path, self._key)
        await self._disk.run(self._pack.publish, target)
        self._own = {d: _moved(place, target.stem) for d, place in self._own.items()}
        await self._disk.index.add(tuple(self._own.values()))
        self._give_up()

    def _verify(self, whole: _Whole) -> None:
        for digest in whole.artifact.chunks[whole.following :]:
            whole.digest.update(self._disk.read(self._places[digest]))
        if whole.digest.hexdigest() != whole.artifact.sha256:
            raise EvidenceError(f"artifact {whole.artifact.name}: its chunks match, its own SHA-256 does not")

    def _give_up(self) -> None:
        for digest, claim in self._mine.items():
            self._claims.give_up(digest, claim)
        self._mine = {}

    async def close(self) -> None:
        """End the transfer: what was not finished stays in `incoming` for the next try."""
        hashing = (self._hashing,) if self._hashing else ()
        await asyncio.gather(*(future for _, future in self._writing), *hashing, return_exceptions=True)
        self._give_up()
        await self._disk.run(self._pack.close)


def _close_opened(opening: "asyncio.Future[tuple[packs.PackWriter, packs.Scan]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


def _moved(place: ChunkPlace, pack: str) -> ChunkPlace:
    return ChunkPlace(place.sha256, pack, place.offset, place.stored_bytes, place.raw_bytes)
