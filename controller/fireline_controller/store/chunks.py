"""The store as the vault's index of chunks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fireline_controller.model import ChunkPlace

if TYPE_CHECKING:
    from fireline_controller.store.store import Store


class StoredChunks:
    """Where chunks are, kept in the store; fits the vault's ChunkIndex."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def places(self, digests: Iterable[str]) -> Mapping[str, ChunkPlace]:
        """Where these chunks are kept; those that are not kept are left out."""
        wanted = tuple(digests)
        return await self._store.read(lambda tx: tx.chunk_places(wanted))

    async def add(self, places: Sequence[ChunkPlace], *, packs: Iterable[str] = ()) -> None:
        """Remember where chunks are kept."""
        named = tuple(packs)
        await self._store.run(lambda tx: tx.put_chunks(places, packs=named))

    async def packs(self) -> set[str]:
        """The packs of which the store knows."""
        return await self._store.read(lambda tx: tx.packs())
