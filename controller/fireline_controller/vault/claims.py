"""Who of the transfers under way fetches a chunk that several of them want, so that it crosses the wire once.

All in one event loop, nothing here blocks. A claim is taken before the index is asked, and given up after the index
was told: a chunk is therefore always seen in one of the two. Leaves to others: what is done while waiting (receive).
"""

import asyncio
from dataclasses import dataclass, field

from fireline_controller.model import ChunkPlace


@dataclass(eq=False)
class Claim:
    """One transfer's promise to fetch a chunk.

    `place` is set once the chunk was written, though it is not durable yet. `over` says that the transfer ended: the
    chunk is in the index, or the transfer failed.
    """

    place: ChunkPlace | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Claims:
    """The claims of all transfers of one vault, by the chunk's SHA-256."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Claim] = {}

    def take(self, digest: str) -> tuple[Claim, bool]:
        """The claim on this chunk, and whether it is new and so the caller's own."""
        found = self._by_digest.get(digest)
        if found is not None:
            return found, False
        return self.take_over(digest), True

    def take_over(self, digest: str) -> Claim:
        """A claim of one's own, though another transfer has one: it was too slow. Later transfers wait for this."""
        claim = Claim()
        self._by_digest[digest] = claim
        return claim

    def give_up(self, digest: str, claim: Claim) -> None:
        """End a claim of one's own: the chunk is in the index now, or somebody else has to fetch it."""
        claim.over.set()
        if self._by_digest.get(digest) is claim:
            del self._by_digest[digest]


async def until_over(claims: list[Claim], *, patience_s: float) -> None:
    """Wait until all of these are over, but no longer than that."""
    try:
        async with asyncio.timeout(patience_s):
            for claim in claims:
                await claim.over.wait()
    except TimeoutError:
        pass
