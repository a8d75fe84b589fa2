"""The vault when its process is killed, when its disk is full, and when it is large."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fireline_controller.model import EvidenceError
from fireline_controller.vault import DiskFull, Vault
from fireline_controller.vault.packs import scan_file
from fireline_wire.transfer import CHUNK_BYTES
from tests.fakes.captures import Capture, artifact, noise, transfer
from tests.fakes.chunk_index import MemoryIndex
from tests.faults.vault_child import CAPTURE, KEY

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs: needs root")


def killed_at(folder: Path, place: str, *, after_s: float = 0.0) -> None:
    """Receive in a process of its own and end it with kill -9 when it is there."""
    command = [sys.executable, "-m", "tests.faults.vault_child", str(folder), place]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            if after_s:
                time.sleep(after_s)
            else:
                assert child.stdout.readline() == "reached\n"
        finally:
            child.send_signal(signal.SIGKILL)


async def resumed(vault: Vault) -> tuple[int, int]:
    """Receive the same capture again: bytes sent now, and bytes that had come in vain."""
    async with vault.receive(KEY, CAPTURE.artifacts, envelope=CAPTURE.envelope) as receiving:
        return await transfer(receiving, CAPTURE), receiving.resent_bytes


async def require_whole(vault: Vault) -> None:
    """The capture is in the vault as it was."""
    for each in CAPTURE.artifacts:
        kept = b"".join([data async for data in vault.read_artifact(each)])
        assert kept == CAPTURE.contents[each.name]


@pytest.mark.parametrize("chunks", [0, 1, 5, 9])
async def test_after_kill_9_only_what_had_not_come_is_sent(tmp_path: Path, chunks: int) -> None:
    """Every chunk that was written is there after a kill; the rest comes by the next try."""
    killed_at(tmp_path, str(chunks))
    vault = Vault(tmp_path, MemoryIndex(), reserve_bytes=0)

    sent, resent = await resumed(vault)

    assert sent == sum(map(len, CAPTURE.contents.values())) - min(chunks * CHUNK_BYTES, (8 << 20) + 11)
    assert resent == 0
    await require_whole(vault)
    vault.close()


async def test_after_kill_9_before_indexing_nothing_is_sent(tmp_path: Path) -> None:
    """The pack is durable: recovery takes it in, and so does the next try without recovery."""
    killed_at(tmp_path, "published")
    index = MemoryIndex()
    vault = Vault(tmp_path, index, reserve_bytes=0)

    assert (await resumed(vault))[0] == 0
    assert index.known_packs == {KEY}
    await require_whole(vault)
    vault.close()


async def test_kill_9_at_any_moment_leaves_a_vault_that_goes_on(tmp_path: Path) -> None:
    """At moments that nobody chose: what is left are whole records, and the capture is completed."""
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for turn in range(4):
        folder = tmp_path / str(turn)
        killed_at(folder, "published", after_s=moments.uniform(0.25, 0.6))
        vault = Vault(folder, MemoryIndex(), reserve_bytes=0)

        await resumed(vault)

        await require_whole(vault)
        vault.close()
        assert all(scan_file(p).torn_bytes == 0 for p in (folder / "packs").iterdir()), f"seed {seed}"


async def test_a_pack_torn_by_a_power_cut_is_repaired(tmp_path: Path) -> None:
    """A lost page in the middle: what was before it is used, what comes after it is sent again, and counted."""
    killed_at(tmp_path, "5")
    pack = tmp_path / "incoming" / f"{KEY}~.pack"
    with pack.open("r+b") as file:
        file.seek(2 * CHUNK_BYTES + 4096)
        file.write(bytes(4096))
    vault = Vault(tmp_path, MemoryIndex(), reserve_bytes=0)

    sent, resent = await resumed(vault)

    assert sent == sum(map(len, CAPTURE.contents.values())) - 2 * CHUNK_BYTES
    assert 3 * CHUNK_BYTES <= resent < 3 * CHUNK_BYTES + 500
    await require_whole(vault)
    vault.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "fireline-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@needs_root
async def test_a_full_disk_fails_one_capture_and_nothing_else(tiny_disk: Path) -> None:
    """Refused before a byte is fetched when it can't fit; what is there stays readable, what fits still comes in."""
    vault = Vault(tiny_disk, MemoryIndex(), reserve_bytes=0)
    small, large = Capture({"a": noise(2 << 20)}), Capture({"b": noise(5 << 20, 1)})
    async with vault.receive("small", small.artifacts, envelope=b"{}") as receiving:
        await transfer(receiving, small)

    with pytest.raises(DiskFull, match=r"no room for 5242880 bytes of evidence: \d+ are free"):
        async with vault.receive("large", large.artifacts, envelope=b"{}"):
            pass
    other = Capture({"c": noise(1 << 20, 2)})
    async with vault.receive("other", other.artifacts, envelope=b"{}") as receiving:
        await transfer(receiving, other)

    for capture in (small, other):
        (kept,) = capture.artifacts
        assert b"".join([d async for d in vault.read_artifact(kept)]) == capture.contents[kept.name]
    vault.close()


@needs_root
async def test_a_disk_that_fills_up_meanwhile_is_named_and_the_transfer_goes_on_later(tiny_disk: Path) -> None:
    """Somebody else takes the room: the folder is named; with room again, only the rest is sent."""
    vault = Vault(tiny_disk, MemoryIndex(), reserve_bytes=0)
    capture = Capture({"core": noise(4 << 20)})
    with pytest.raises(DiskFull, match=rf"{tiny_disk}/incoming: ") as caught:
        async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
            chunks = capture.chunks(await receiving.wanted())
            await receiving.keep(next(chunks))
            await receiving.wanted()
            (tiny_disk / "ballast").write_bytes(bytes(3 << 20))
            await transfer(receiving, capture)
    (tiny_disk / "ballast").unlink()

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        sent = await transfer(receiving, capture)

    assert caught.value.reason == "disk_full"
    assert sent < 3 << 20
    assert receiving.resent_bytes == 0
    vault.close()


async def test_a_lying_host_leaves_the_others_alone(tmp_path: Path) -> None:
    """I8: while one sends garbage under another's hashes, the other's capture is kept and right."""
    vault = Vault(tmp_path, MemoryIndex(), reserve_bytes=0, patience_s=0.2)
    capture = Capture({"exe": noise(3 << 20)})
    with pytest.raises(EvidenceError, match="artifact exe, chunk 0: its bytes do not match"):
        async with vault.receive("liar", capture.artifacts, envelope=b"{}") as liar:
            await liar.wanted()
            async with vault.receive("honest", capture.artifacts, envelope=b"{}") as honest:
                await liar.keep(bytes(CHUNK_BYTES))
                await transfer(honest, capture)
            await liar.wanted()

    (kept,) = capture.artifacts
    assert b"".join([d async for d in vault.read_artifact(kept)]) == capture.contents["exe"]
    vault.close()


async def test_memory_stays_flat_however_large_the_artifact_is(tmp_path: Path) -> None:
    """192 MiB pass through without the process growing by more than a few chunks."""
    vault = Vault(tmp_path, MemoryIndex(), reserve_bytes=0)
    block = noise(CHUNK_BYTES)
    large = _ManyChunks(block, 192)
    before = None
    async with vault.receive("req-1", [large.artifact], envelope=b"{}") as receiving:
        (wanted,) = await receiving.wanted()
        for index in range(wanted.count):
            await receiving.keep(large.chunk(index))
            if index == 32:
                before = _rss_bytes()
        await receiving.finish()

    assert before is not None
    assert _rss_bytes() - before < 24 << 20
    vault.close()


class _ManyChunks:
    """An artifact that is never whole in memory: one block, numbered."""

    def __init__(self, block: bytes, count: int) -> None:
        self._block = block
        whole = hashlib.sha256()
        digests = []
        for index in range(count):
            whole.update(self.chunk(index))
            digests.append(hashlib.sha256(self.chunk(index)).hexdigest())
        self.artifact = replace(
            artifact("core", b""), size=count * CHUNK_BYTES, sha256=whole.hexdigest(), chunks=tuple(digests)
        )

    def chunk(self, index: int) -> bytes:
        return index.to_bytes(8) + self._block[8:]


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
