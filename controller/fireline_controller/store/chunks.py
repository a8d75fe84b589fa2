"""The store as the vault's index of chunks."""

from collections.abc import Iterable, Mapping, Sequence

from fireline_controller.model import ChunkPlace
from fireline_controller.store.store import Store


class StoredChunks:
    """Where chunks are, kept in the store; fits the vault's ChunkIndex."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def places(self, digests: Iterable[str]) -> Mapping[str, ChunkPlace]:
        """Where these chunks are kept; those that are not kept are left out."""
        wanted = tuple(digests)
        return await self._store.read(lambda tx: tx.chunk_places(wanted))

    async def add(self, places: Sequence[ChunkPlace]) -> None:
        """Remember where chunks are kept; a chunk that is known already gets the new place."""
        await self._store.run(lambda tx: tx.put_chunks(places))

    async def packs(self) -> set[str]:
        """The packs for which any place was ever added."""
        return await self._store.read(lambda tx: tx.packs())
