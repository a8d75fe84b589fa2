"""The vault: a folder where evidence is kept by content, once for all hosts, and verified whenever it is read."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from fireline_controller.model import ChunkPlace, Evidence, EvidenceError
from fireline_controller.vault import packs
from fireline_controller.vault.claims import Claims
from fireline_controller.vault.disk import ChunkIndex, Disk
from fireline_controller.vault.plan import batches, slots
from fireline_controller.vault.receive import Receiving
from fireline_wire.manifest import Artifact

# Left free on the vault's file system: the journal and the store go on when evidence has filled all else.
RESERVE_BYTES: Final = 256 << 20
# How long a transfer waits for chunks that another host's transfer promised, before it fetches them itself.
PATIENCE_S: Final = 2.0

_LOOK_UP: Final = 256  # chunks whose places are asked at once while reading


@dataclass(frozen=True)
class Recovery:
    """What was found at the start: packs that had been published but not indexed, and old rests of transfers."""

    adopted: tuple[str, ...]
    expired: tuple[str, ...]


class Vault:
    """Evidence bytes on a local disk. Several processes may use one folder; a key is received by one at a time."""

    def __init__(
        self, folder: Path, index: ChunkIndex, *, reserve_bytes: int = RESERVE_BYTES, patience_s: float = PATIENCE_S
    ) -> None:
        self._disk = Disk(folder, index, reserve_bytes=reserve_bytes)
        self._claims = Claims()
        self._patience_s = patience_s

    @asynccontextmanager
    async def receive(self, key: str, artifacts: Sequence[Artifact], *, envelope: bytes) -> AsyncIterator[Receiving]:
        """Take in a capture; use it as a context. Received again under the same key, it goes on where it was left.

        Args:
            key: names the transfer; safe as a file name (the request id).
            artifacts: of the manifest, whose signature was verified.
            envelope: the manifest's own bytes; kept as one more chunk, found again by its SHA-256.

        Raises:
            EvidenceError: the manifest contradicts itself or what the vault has.
            DiskFull: what is missing does not fit; nothing was fetched.
            StoreError: another process receives this key, or the folder can't be written.
        """
        wanted = await self._disk.run(slots, artifacts)
        receiving = Receiving(self._disk, self._claims, key, artifacts, wanted, patience_s=self._patience_s)
        await receiving.open(envelope)
        try:
            yield receiving
        finally:
            await receiving.close()

    async def read(self, digests: Sequence[str]) -> AsyncIterator[bytes]:
        """The chunks with these SHA-256, in order, each verified before it is given out.

        Raises:
            EvidenceError: one is missing or damaged; the message says which.
        """
        for batch in batches(digests, _LOOK_UP):
            known = await self._disk.places(batch)
            for digest in batch:
                yield await self._disk.run(self._read, digest, known.get(digest))

    def _read(self, digest: str, place: ChunkPlace | None) -> bytes:
        if place is None:
            raise EvidenceError(f"chunk {digest[:16]} is not in the vault")
        return self._disk.read(place)

    async def read_artifact(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """An artifact's bytes, chunk by chunk; the last one comes only if the whole matches its SHA-256 too.

        Raises:
            EvidenceError: a chunk is missing or damaged, or the whole does not match; the message names the artifact.
        """
        whole = hashlib.sha256()
        index = 0
        try:
            async for data in self.read(artifact.chunks):
                await asyncio.to_thread(whole.update, data)
                index += 1
                if index == len(artifact.chunks) and whole.hexdigest() != artifact.sha256:
                    raise EvidenceError("its chunks match, its own SHA-256 does not")
                yield data
        except EvidenceError as error:
            raise EvidenceError(f"artifact {artifact.name}, chunk {index}: {error}") from None

    async def read_manifest(self, evidence: Evidence) -> bytes:
        """The signed envelope of the evidence's manifest, as the host sent it.

        Raises:
            EvidenceError: it is missing or damaged.
        """
        (signed,) = [data async for data in self.read([evidence.manifest_sha256])]
        return signed

    async def recover(self, *, expired_before: datetime) -> Recovery:
        """Put in order what an ended process left; once, at the start.

        Args:
            expired_before: rests of transfers that nobody went on with since are removed.
        """
        adopted = await self._disk.adopt("*.pack")
        expired = await self._disk.run(self._expire, expired_before.timestamp())
        return Recovery(adopted, expired)

    def _expire(self, before_s: float) -> tuple[str, ...]:
        rests = sorted(self._disk.incoming.glob("*.pack"))
        return tuple(path.stem for path in rests if packs.remove_stale(path, before_s=before_s))

    def close(self) -> None:
        """End the vault's threads, after what they are doing."""
        self._disk.threads.shutdown()
