"""A process that receives a capture into a vault and is killed by the test: `python vault_child.py FOLDER PLACE`.

PLACE is where it stops and waits for its end: a number of chunks kept, or a step of finishing.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from fireline_controller.model import ChunkPlace
from fireline_controller.vault import Vault
from tests.fakes.captures import Capture, noise, transfer
from tests.fakes.chunk_index import MemoryIndex

CAPTURE = Capture({"core": noise((8 << 20) + 11), "ps": b"1 init\n"}, envelope=b'{"signed":true}')
KEY = "req-1"


class StoppingIndex(MemoryIndex):
    """Never gets to remember: the process is killed between publishing and indexing."""

    async def add(self, places: Sequence[ChunkPlace]) -> None:
        """Wait for the end."""
        await stop()


async def stop() -> None:
    """Say that the place is reached, and wait for kill -9."""
    print("reached", flush=True)
    await asyncio.Event().wait()


async def main(folder: Path, place: str) -> None:
    """Receive up to the place."""
    vault = Vault(folder, StoppingIndex(), reserve_bytes=0)
    async with vault.receive(KEY, CAPTURE.artifacts, envelope=CAPTURE.envelope) as receiving:
        if place == "published":
            await transfer(receiving, CAPTURE)
        chunks = CAPTURE.chunks(await receiving.wanted())
        for _ in range(int(place)):
            await receiving.keep(next(chunks))
        await receiving.wanted()
        await stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
