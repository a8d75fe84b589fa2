"""A ChunkIndex in memory, that a test can also break."""

from collections.abc import Mapping, Sequence

from fireline_controller.model import ChunkPlace, StoreError


class MemoryIndex:
    """Keeps places as the store does: all or none, and the newest place of a chunk wins."""

    def __init__(self) -> None:
        self.by_digest: dict[str, ChunkPlace] = {}
        self.known_packs: set[str] = set()
        self.is_down = False

    async def places(self, digests: Sequence[str]) -> Mapping[str, ChunkPlace]:
        """The known ones."""
        assert len(digests) <= 5_000
        return {d: self.by_digest[d] for d in digests if d in self.by_digest}

    async def add(self, places: Sequence[ChunkPlace]) -> None:
        """Remember them, or fail when the test says so."""
        if self.is_down:
            raise StoreError("the index is down")
        self.by_digest.update({p.sha256: p for p in places})
        self.known_packs.update(p.pack for p in places)

    async def packs(self) -> set[str]:
        """Every pack that ever had a chunk."""
        return set(self.known_packs)
