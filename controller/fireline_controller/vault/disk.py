"""The vault's folder, its index and its threads: what every transfer and every reader shares.

Packs under way are in `incoming/`, durable ones in `packs/`. A pack's name is its key with a tilde while it comes; then
the key, and when that is taken already, the key with `~2` and so on. Keys have no tilde.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

from fireline_controller.model import ChunkPlace
from fireline_controller.vault import packs
from fireline_controller.vault.plan import batches
from fireline_wire import durable

P = ParamSpec("P")
T = TypeVar("T")

# Hashing, compressing and writing of all transfers together; more would only take turns on the processors.
_THREADS: Final = 4
# Below the number of variables that one statement of SQLite may have.
_BATCH: Final = 5_000


class ChunkIndex(Protocol):
    """Where the chunks are: the store keeps it."""

    async def places(self, digests: Sequence[str]) -> Mapping[str, ChunkPlace]:
        """The places of those chunks that are known, by SHA-256; at most 5,000 are asked at once."""

    async def add(self, places: Sequence[ChunkPlace]) -> None:
        """Remember places, durably, all or none. A chunk that is known already gets the new place."""

    async def packs(self) -> set[str]:
        """The names of all packs that any place was ever added for."""


class Disk:
    """A folder of packs with its index. Blocking work goes through `run`."""

    def __init__(self, folder: Path, index: ChunkIndex, *, reserve_bytes: int) -> None:
        self.incoming = folder / "incoming"
        self.kept = folder / "packs"
        self.index = index
        self.reserve_bytes = reserve_bytes
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vault")
        for wanted in (folder, self.incoming, self.kept):
            if not wanted.exists():
                wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
                durable.sync_folder(wanted.parent)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread of the vault's own."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*args, **kwargs))

    def path(self, pack: str) -> Path:
        """Where the file of a pack is."""
        return (self.incoming if pack.endswith("~") else self.kept) / f"{pack}.pack"

    def incoming_path(self, key: str) -> Path:
        """Where the pack of this key is while it comes."""
        return self.path(f"{key}~")

    def free_path(self, key: str) -> Path:
        """The place for a pack of this key; never one that is taken. Only the holder of the key's lock asks."""
        names = (key if n == 1 else f"{key}~{n}" for n in count(1))
        return next(path for name in names if not (path := self.kept / f"{name}.pack").exists())

    def read(self, place: ChunkPlace) -> bytes:
        """The chunk at this place, verified. Blocks.

        Raises:
            EvidenceError: it is missing or damaged.
        """
        return packs.read_record(self.path(place.pack), place)

    async def places(self, digests: Sequence[str]) -> dict[str, ChunkPlace]:
        """Where those chunks are that the vault has, by SHA-256: indexed, and with a pack long enough to hold them."""
        known: dict[str, ChunkPlace] = {}
        for batch in batches(digests, _BATCH):
            known.update(await self.index.places(batch))
        ends = await self.run(self._pack_sizes, {place.pack for place in known.values()})
        return {d: p for d, p in known.items() if p.offset + p.stored_bytes <= ends[p.pack]}

    def _pack_sizes(self, names: Iterable[str]) -> dict[str, int]:
        paths = {name: self.kept / f"{name}.pack" for name in names}
        return {name: path.stat().st_size if path.exists() else -1 for name, path in paths.items()}

    async def adopt(self, pattern: str) -> tuple[str, ...]:
        """Index packs that were published and not indexed: the process ended between the two.

        Args:
            pattern: of the file names to look at, as in `Path.glob`.

        Returns:
            The names of the packs adopted.
        """
        paths = await self.run(lambda: sorted(self.kept.glob(pattern)))
        known = await self.index.packs() if paths else set()
        adopted = []
        for path in (p for p in paths if p.stem not in known):
            found = await self.run(packs.scan_file, path)
            await self.index.add(found.places)
            adopted.append(path.stem)
        return tuple(adopted)
