"""The vault: receiving, resuming, sharing between transfers, reading, recovering."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fireline_controller.model import EvidenceError, StoreError
from fireline_controller.vault import ChunkRange, DiskFull, Receiving, Vault
from fireline_wire.manifest import Artifact
from fireline_wire.transfer import CHUNK_BYTES
from tests.fakes.captures import Capture, artifact, noise, transfer
from tests.fakes.chunk_index import MemoryIndex

MIB = CHUNK_BYTES
TEXT = b"tcp LISTEN 0 128 0.0.0.0:22\n" * 2000


@pytest.fixture
def index() -> MemoryIndex:
    """An empty index."""
    return MemoryIndex()


@pytest.fixture
def vault(tmp_path: Path, index: MemoryIndex) -> Iterator[Vault]:
    """A vault on an empty folder, with little patience."""
    vault = Vault(tmp_path / "vault", index, reserve_bytes=0, patience_s=0.2)
    yield vault
    vault.close()


async def received(vault: Vault, key: str, capture: Capture) -> tuple[int, Receiving]:
    """Take the capture in; the bytes that crossed the wire, and the ended transfer."""
    async with vault.receive(key, capture.artifacts, envelope=capture.envelope) as receiving:
        return await transfer(receiving, capture), receiving


async def content(vault: Vault, wanted: Artifact) -> bytes:
    """All bytes of an artifact, from the vault."""
    return b"".join([data async for data in vault.read_artifact(wanted)])


async def test_a_capture_comes_back_as_it_was(vault: Vault, tmp_path: Path) -> None:
    """Every artifact and the manifest's envelope are read again, from one pack; nothing is left in `incoming`."""
    capture = Capture({"sockets": TEXT, "empty": b"", "core": noise(3 * MIB + 17)}, envelope=b'{"signed":1}')

    sent, receiving = await received(vault, "req-1", capture)

    assert sent == len(TEXT) + 3 * MIB + 17
    assert (receiving.resent_bytes, receiving.deduplicated_bytes) == (0, 0)
    for wanted in capture.artifacts:
        assert await content(vault, wanted) == capture.contents[wanted.name]
    assert [data async for data in vault.read([hashlib.sha256(capture.envelope).hexdigest()])] == [capture.envelope]
    assert [p.name for p in (tmp_path / "vault/packs").iterdir()] == ["req-1.pack"]
    assert list((tmp_path / "vault/incoming").iterdir()) == []


async def test_what_is_wanted_comes_as_ranges(vault: Vault) -> None:
    """Consecutive chunks are one range; a chunk that repeats is asked once."""
    capture = Capture({"a": noise(2 * MIB), "b": bytes(3 * MIB), "c": noise(MIB, 7) + bytes(MIB)})

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        wanted = await receiving.wanted()

    assert wanted == (ChunkRange("a", 0, 2), ChunkRange("b", 0, 1), ChunkRange("c", 0, 1))


async def test_what_the_vault_has_is_not_fetched(vault: Vault) -> None:
    """A second host with the same binary sends only what differs, and each has its own evidence."""
    binary = noise(2 * MIB + 5)
    first, second = Capture({"exe": binary, "ps": b"one"}), Capture({"exe": binary, "ps": b"two"})
    await received(vault, "req-1", first)

    sent, receiving = await received(vault, "req-2", second)

    assert sent == 3
    assert receiving.deduplicated_bytes == len(binary)
    assert await content(vault, second.artifacts[0]) == binary


async def test_a_capture_of_known_bytes_leaves_no_pack(vault: Vault, tmp_path: Path) -> None:
    """When all is there already, nothing is written."""
    capture = Capture({"a": TEXT})
    await received(vault, "req-1", capture)

    sent, _ = await received(vault, "req-2", capture)

    assert sent == 0
    assert [p.name for p in (tmp_path / "vault/packs").iterdir()] == ["req-1.pack"]
    assert list((tmp_path / "vault/incoming").iterdir()) == []


async def test_a_broken_connection_goes_on_with_the_next_chunk(vault: Vault) -> None:
    """Asked again, only what has not come is wanted; nothing is sent twice."""
    capture = Capture({"core": noise(4 * MIB)})
    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        chunks = capture.chunks(await receiving.wanted())
        for _ in range(3):
            await receiving.keep(next(chunks))

        assert await receiving.wanted() == (ChunkRange("core", 3, 1),)
        await receiving.keep(next(chunks))
        await receiving.finish()

    assert receiving.resent_bytes == 0
    assert await content(vault, capture.artifacts[0]) == capture.contents["core"]


async def test_a_later_try_goes_on_where_the_former_ended(vault: Vault, tmp_path: Path) -> None:
    """After a failed transfer whole chunks are not fetched again; the torn one is, and counted."""
    capture = Capture({"core": noise(3 * MIB)})
    with pytest.raises(ConnectionError):
        async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
            chunks = capture.chunks(await receiving.wanted())
            await receiving.keep(next(chunks))
            await receiving.keep(next(chunks))
            raise ConnectionError
    with (tmp_path / "vault/incoming/req-1~.pack").open("ab") as pack:
        pack.write(b"FLP1 torn")

    sent, receiving = await received(vault, "req-1", capture)

    assert sent == MIB
    assert receiving.resent_bytes == 9
    assert await content(vault, capture.artifacts[0]) == capture.contents["core"]


async def test_a_wrong_chunk_is_named(vault: Vault, index: MemoryIndex) -> None:
    """Bytes that do not match the manifest fail the transfer; nothing of it is known afterwards."""
    capture = Capture({"core": noise(3 * MIB)})

    with pytest.raises(EvidenceError, match="artifact core, chunk 1: its bytes do not match the manifest's SHA-256"):
        async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
            chunks = list(capture.chunks(await receiving.wanted()))
            for data in (chunks[0], chunks[2], chunks[1]):
                await receiving.keep(data)
            await receiving.finish()

    assert index.by_digest == {}


@pytest.mark.parametrize("size", [0, MIB - 1, MIB + 1])
async def test_a_chunk_of_wrong_length_is_named(vault: Vault, size: int) -> None:
    """Too short or too long is told before anything is hashed."""
    capture = Capture({"core": noise(2 * MIB)})

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        await receiving.wanted()
        with pytest.raises(EvidenceError, match=f"artifact core, chunk 0: wanted {MIB} bytes, found {size}"):
            await receiving.keep(bytes(size))


async def test_an_endless_stream_ends_with_the_last_wanted_chunk(vault: Vault) -> None:
    """One message more than was asked for is refused."""
    capture = Capture({"a": b"x"})

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        await receiving.wanted()
        await receiving.keep(b"x")
        with pytest.raises(EvidenceError, match="req-1: the host sends more than was asked for: 5 bytes too many"):
            await receiving.keep(b"extra")


async def test_a_stream_that_ends_early_is_not_finished(vault: Vault) -> None:
    """The first missing chunk is named."""
    capture = Capture({"core": noise(3 * MIB)})

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        chunks = capture.chunks(await receiving.wanted())
        await receiving.keep(next(chunks))
        with pytest.raises(EvidenceError, match="artifact core, chunk 1: missing, with 2 chunks in all not sent"):
            await receiving.finish()


async def test_a_whole_that_its_chunks_do_not_make_is_found(vault: Vault, index: MemoryIndex) -> None:
    """A manifest whose artifact hash belongs to other bytes than its chunks is refused, also when all was known."""
    honest = Capture({"core": noise(2 * MIB + 9)})
    lying = replace(honest.artifacts[0], sha256="0" * 64)

    for _ in range(2):
        with pytest.raises(EvidenceError, match="artifact core: its chunks match, its own SHA-256 does not"):
            async with vault.receive("req-1", [lying], envelope=b"{}") as receiving:
                await transfer(receiving, honest)
        assert index.by_digest == {}


@pytest.mark.parametrize(
    ("artifacts", "message"),
    [
        ([replace(artifact("a", b"x"), sha256="0" * 64)], "artifact a: its SHA-256 is not that of its only chunk"),
        ([replace(artifact("a", b""), sha256="0" * 64)], "artifact a: its SHA-256 is not that of its only chunk"),
        (
            [artifact("a", b"x"), replace(artifact("b", b"x"), size=2)],
            "artifact b, chunk 0: 2 bytes by the manifest, but that hash is of 1 bytes",
        ),
    ],
)
async def test_a_manifest_that_contradicts_itself_is_refused(
    vault: Vault, artifacts: list[Artifact], message: str
) -> None:
    """What can't be true is refused before anything is fetched."""
    with pytest.raises(EvidenceError, match=message):
        async with vault.receive("req-1", artifacts, envelope=b"{}"):
            pass


async def test_a_manifest_that_contradicts_the_vault_is_refused(vault: Vault) -> None:
    """A hash that the vault knows, said of another length, is a lie; the key is free afterwards."""
    await received(vault, "req-1", Capture({"a": b"x"}))

    for _ in range(2):
        with pytest.raises(EvidenceError, match="artifact a, chunk 0: 2 bytes by the manifest, but that hash is of 1"):
            async with vault.receive("req-2", [replace(artifact("a", b"x"), size=2)], envelope=b"{}"):
                pass


@pytest.mark.parametrize("key", ["", "..", "../up", "a/b", "a\0b", "~", "x" * 241, ".hidden"])
async def test_a_key_is_never_a_path(vault: Vault, key: str) -> None:
    """Only a plain name can name a transfer."""
    with pytest.raises(ValueError, match="can't be a pack's key"):
        async with vault.receive(key, [], envelope=b"{}"):
            pass


async def test_what_does_not_fit_is_refused_before_it_is_fetched(tmp_path: Path, index: MemoryIndex) -> None:
    """A manifest of a terabyte fails at once, with the figures."""
    vault = Vault(tmp_path / "vault", index, reserve_bytes=1 << 60)

    with pytest.raises(DiskFull, match=r"incoming: no room for 1048576 bytes of evidence: \d+ are free") as caught:
        async with vault.receive("req-1", [artifact("a", bytes(MIB))], envelope=b"{}"):
            pass
    vault.close()

    assert caught.value.reason == "disk_full"


async def test_twenty_hosts_with_one_binary_fetch_it_once(vault: Vault, tmp_path: Path) -> None:
    """What one transfer under way brings, the others wait for: on the wire once, on the disk once."""
    binary = noise(5 * MIB)
    captures = [Capture({"ps": f"host {n}".encode(), "exe": binary}, f"{n}".encode()) for n in range(20)]

    ended = await asyncio.gather(*(received(vault, f"req-{n}", c) for n, c in enumerate(captures)))

    own = sum(len(c.contents["ps"]) for c in captures)
    assert sum(sent for sent, _ in ended) == len(binary) + own
    assert sum(r.deduplicated_bytes for _, r in ended) == 19 * len(binary)
    assert sum(p.stat().st_size for p in (tmp_path / "vault/packs").iterdir()) < len(binary) + own + 20 * 400
    for capture in captures:
        assert await content(vault, capture.artifacts[1]) == binary


async def test_a_host_that_promises_and_does_not_send_holds_up_nobody(vault: Vault) -> None:
    """I8: after a moment the others fetch for themselves what a mute host's manifest lists too."""
    capture = Capture({"exe": noise(2 * MIB)})
    async with vault.receive("mute", capture.artifacts, envelope=b"{}") as mute:
        await mute.wanted()

        async with asyncio.timeout(5):
            sent, receiving = await received(vault, "req-2", capture)

    assert sent == 2 * MIB
    assert receiving.deduplicated_bytes == 0


async def test_what_a_slow_host_has_sent_is_not_fetched_again(vault: Vault) -> None:
    """Chunks that another transfer has written but not sealed are copied, the rest is fetched."""
    capture = Capture({"exe": noise(2 * MIB)})
    async with vault.receive("slow", capture.artifacts, envelope=b"{}") as slow:
        chunks = capture.chunks(await slow.wanted())
        await slow.keep(next(chunks))
        assert await slow.wanted() == (ChunkRange("exe", 1, 1),)

        sent, receiving = await received(vault, "req-2", capture)

    assert sent == MIB
    assert receiving.deduplicated_bytes == MIB
    assert await content(vault, capture.artifacts[0]) == capture.contents["exe"]


async def test_what_a_failed_transfer_promised_is_fetched_by_one_other(vault: Vault) -> None:
    """When the first transfer fails, one of those that waited fetches, the rest go on waiting for that one."""
    capture = Capture({"exe": noise(2 * MIB)})

    async def failing() -> None:
        async with vault.receive("failing", capture.artifacts, envelope=b"{}") as receiving:
            await receiving.wanted()
            await asyncio.sleep(0.05)
            raise ConnectionError

    results = await asyncio.gather(
        failing(), *(received(vault, f"req-{n}", capture) for n in range(5)), return_exceptions=True
    )

    assert isinstance(results[0], ConnectionError)
    assert sum(r[0] for r in results[1:] if isinstance(r, tuple)) == 2 * MIB


async def test_a_cancelled_transfer_frees_its_key(vault: Vault) -> None:
    """Ctrl-C in the middle of writing leaves a pack that the next try goes on with."""
    capture = Capture({"core": noise(3 * MIB)})
    was_reached = asyncio.Event()

    async def cut_off() -> None:
        async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
            for data in list(capture.chunks(await receiving.wanted()))[:2]:
                await receiving.keep(data)
            was_reached.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(cut_off())
    await was_reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await received(vault, "req-1", capture))[0] == MIB


async def test_one_key_is_received_once_at_a_time(vault: Vault) -> None:
    """The second is told so."""
    capture = Capture({"a": b"x"})
    async with vault.receive("req-1", capture.artifacts, envelope=b"{}"):
        with pytest.raises(StoreError, match=r"req-1~.pack is being received by another process"):
            await received(vault, "req-1", capture)


async def test_a_store_that_fails_at_the_end_loses_nothing(vault: Vault, index: MemoryIndex, tmp_path: Path) -> None:
    """The pack is durable; received again, it is known at once and nothing is fetched."""
    capture = Capture({"core": noise(2 * MIB)})
    index.is_down = True
    with pytest.raises(StoreError, match="the index is down"):
        await received(vault, "req-1", capture)
    index.is_down = False

    sent, _ = await received(vault, "req-1", capture)

    assert sent == 0
    assert [p.name for p in (tmp_path / "vault/packs").iterdir()] == ["req-1.pack"]
    assert await content(vault, capture.artifacts[0]) == capture.contents["core"]


async def test_recovery_knows_packs_that_the_index_does_not(vault: Vault, index: MemoryIndex) -> None:
    """A process that ended between publishing and indexing leaves a pack that the next start takes in."""
    capture = Capture({"core": noise(2 * MIB)})
    await received(vault, "req-1", capture)
    index.by_digest.clear()
    index.known_packs.clear()

    recovery = await vault.recover(expired_before=datetime.now(UTC) - timedelta(days=7))

    assert recovery.adopted == ("req-1",)
    assert (await received(vault, "req-2", capture))[0] == 0
    assert (await vault.recover(expired_before=datetime.now(UTC) - timedelta(days=7))).adopted == ()


async def test_recovery_removes_old_rests_but_not_what_is_coming(vault: Vault, tmp_path: Path) -> None:
    """What nobody went on with for long is removed; a transfer under way is not."""
    capture = Capture({"core": noise(MIB)})
    (tmp_path / "vault/incoming/old~.pack").write_bytes(b"FLP1")
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    async with vault.receive("req-1", capture.artifacts, envelope=b"{}") as receiving:
        recovery = await vault.recover(expired_before=tomorrow)
        await transfer(receiving, capture)

    assert recovery.expired == ("old~",)
    assert await content(vault, capture.artifacts[0]) == capture.contents["core"]


async def test_i7_a_flipped_bit_in_the_vault_is_found_on_reading(
    vault: Vault, index: MemoryIndex, tmp_path: Path
) -> None:
    """I7: the artifact and the chunk are named."""
    capture = Capture({"core": noise(2 * MIB)})
    await received(vault, "req-1", capture)
    pack = tmp_path / "vault/packs/req-1.pack"
    data = bytearray(pack.read_bytes())
    data[index.by_digest[capture.artifacts[0].chunks[1]].offset + 48] ^= 1
    pack.write_bytes(data)

    with pytest.raises(EvidenceError, match=r"artifact core, chunk 1: chunk .*req-1.pack does not match its SHA-256"):
        await content(vault, capture.artifacts[0])


async def test_a_lost_pack_is_fetched_again(vault: Vault, tmp_path: Path) -> None:
    """Chunks whose pack is gone or cut off count as not there: the next capture that has them heals the vault."""
    capture = Capture({"core": noise(2 * MIB)})
    await received(vault, "req-1", capture)
    (tmp_path / "vault/packs/req-1.pack").unlink()
    with pytest.raises(EvidenceError, match=r"artifact core, chunk 0: chunk .* is not in the vault"):
        await content(vault, capture.artifacts[0])

    sent, _ = await received(vault, "req-2", capture)

    assert sent == 2 * MIB
    assert await content(vault, capture.artifacts[0]) == capture.contents["core"]
