"""What the vault costs: 512 MiB received with hash and durable write, beside a plain loop that does the same.

    python -m tests.bench.vault_bench [--mib 512] [--turns 5] [--folder DIR]

Both get the same chunks from memory, in turns, and write to the same disk. The plain loop is one thread that hashes
each chunk, writes it, and ends with fsync. The vault hashes each chunk and the whole artifact, and verifies both.
"""

import argparse
import asyncio
import hashlib
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fireline_controller.vault import Vault
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES
from tests.fakes.captures import artifact, noise
from tests.fakes.chunk_index import MemoryIndex

MIB = 1 << 20


@dataclass(frozen=True)
class Source:
    """An artifact made of one block with a number in each chunk, so that no two are the same."""

    artifact: Artifact
    block: bytes

    @classmethod
    def of(cls, block: bytes, count: int) -> "Source":
        """So many chunks of it."""
        source = cls(artifact("core", b""), block)
        whole = hashlib.sha256()
        digests = []
        for data in source.chunks(count):
            whole.update(data)
            digests.append(hashlib.sha256(data).hexdigest())
        size = count * CHUNK_BYTES
        described = replace(source.artifact, size=size, sha256=whole.hexdigest(), chunks=tuple(digests))
        return cls(described, block)

    def chunks(self, count: int) -> Iterator[bytes]:
        """The chunks, made one at a time."""
        for index in range(count):
            yield index.to_bytes(8) + self.block[8:]


@dataclass(frozen=True)
class Figures:
    """Wall and processor seconds of one run, and what was on the disk afterwards."""

    wall_s: float
    cpu_s: float
    stored_bytes: int
    grown_bytes: int


def measured(folder: Path, work: Callable[[Path], None]) -> Figures:
    """Run the work in an empty folder, with the disk at rest before."""
    here = Path(tempfile.mkdtemp(dir=folder))
    os.sync()
    before, rss = resource.getrusage(resource.RUSAGE_SELF), rss_bytes()
    start = time.perf_counter()
    work(here)
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    stored = sum(p.stat().st_size for p in here.rglob("*") if p.is_file())
    shutil.rmtree(here)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(wall_s, cpu_s, stored, rss_bytes() - rss)


def rss_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def plain(source: Source, folder: Path) -> None:
    """SHA-256, write, fsync: the floor."""
    with (folder / "plain").open("wb", buffering=0) as file:
        for data in source.chunks(len(source.artifact.chunks)):
            hashlib.sha256(data).digest()
            file.write(data)
        os.fsync(file.fileno())


def through_vault(source: Source, folder: Path, *, pause_s: float = 0.0) -> None:
    """The whole way in; with a pause after each chunk, as a network would make it."""

    async def receive() -> None:
        vault = Vault(folder, MemoryIndex(), reserve_bytes=0)
        async with vault.receive("bench", [source.artifact], envelope=b"{}") as receiving:
            (wanted,) = await receiving.wanted()
            for data in source.chunks(wanted.count):
                await receiving.keep(data)
                if pause_s:
                    await asyncio.sleep(pause_s)
            await receiving.finish()
        vault.close()

    asyncio.run(receive())


def compare(name: str, source: Source, folder: Path, turns: int) -> None:
    """Both in turns; the medians and their ratio."""
    plains, vaults = [], []
    for _ in range(turns):
        plains.append(measured(folder, lambda here: plain(source, here)))
        vaults.append(measured(folder, lambda here: through_vault(source, here)))
    ratio = statistics.median(p.wall_s for p in plains) / statistics.median(v.wall_s for v in vaults)
    print(f"{name}: vault / plain loop = {ratio:.2f} of its speed (median of {turns}, in turns)")
    for label, runs in (("plain", plains), ("vault", vaults)):
        wall_s, cpu_s = (statistics.median(getattr(r, f) for r in runs) for f in ("wall_s", "cpu_s"))
        size = source.artifact.size
        print(
            f"  {label}: {size / wall_s / 1e6:6.0f} MB/s, {cpu_s * (1 << 30) / size:.2f} CPU s/GiB,"
            f" stored {runs[-1].stored_bytes / size:.2f}, RSS {max(r.grown_bytes for r in runs) / MIB:+.0f} MiB"
        )


def slow(name: str, source: Source, folder: Path, mb_per_s: int) -> None:
    """What compression does with a source of that speed."""
    pause_s = CHUNK_BYTES / (mb_per_s * 1e6)
    run = measured(folder, lambda here: through_vault(source, here, pause_s=pause_s))
    size = source.artifact.size
    print(f"{name} at {mb_per_s} MB/s: {size / run.wall_s / 1e6:.0f} MB/s, stored {run.stored_bytes / size:.2f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="how much (default: 512)")
    parser.add_argument("--turns", type=int, default=5, help="how often (default: 5)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on which disk")
    args = parser.parse_args()
    text = b"".join(
        b"%d sshd[812]: Accepted publickey for root from 198.18.0.%d\n" % (n * n, n % 251) for n in range(20_000)
    )
    random = Source.of(noise(CHUNK_BYTES), args.mib)
    logs = Source.of((text * 2)[:CHUNK_BYTES], args.mib)
    compare("random", random, args.folder, args.turns)
    compare("text", logs, args.folder, args.turns)
    slow("text", logs, args.folder, 100)


if __name__ == "__main__":
    main()
