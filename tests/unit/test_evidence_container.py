"""Containers: exported, verified offline, imported elsewhere; and whatever somebody does to one is found and named."""

import asyncio
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_controller import journal
from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.vault import import_container, receipt, tar, verify_container, verify_kept
from fireline_controller.vault.receipts import check
from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE
from tests.fakes.captures import noise
from tests.fakes.sealing import NOW, Site, manifest

# A flipped bit in a certificate can make its serial number negative, which cryptography only warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

LONG_NAME = "/".join("n" * 90 for _ in range(5))
CONTENTS = {
    "network/sockets.jsonl": b'{"port":22}\n' * 90,
    "empty": b"",
    "files/exe": noise((1 << 20) + 700),
    LONG_NAME: b"deep",
}


@dataclass(frozen=True)
class Exported:
    """A site with two hosts' evidence, and the container of both."""

    site: Site
    evidence: tuple[Evidence, ...]
    container: bytes
    small: bytes
    """The container of the second host alone."""

    @property
    def ca_pem(self) -> bytes:
        """What a verifier has."""
        return self.site.authority.ca_pem


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """Made once; tests change copies."""
    site = Site.make(tmp_path_factory.mktemp("site") / "state")

    async def make() -> Exported:
        site.note("opened")
        evidence = [await site.seal(site.host("web-1"), CONTENTS)]
        site.note("web-1 sealed")
        evidence.append(await site.seal(site.host("web-2"), {"ps": b"1 init\n"}))
        site.note("web-2 sealed")
        return Exported(site, tuple(evidence), await site.export(evidence), await site.export(evidence[1:]))

    yield asyncio.run(make())
    site.vault.close()


def problems(exported: Exported, container: bytes, folder: Path) -> tuple[str, ...]:
    """What `verify` says about these bytes."""
    path = folder / "copy.fireline"
    path.write_bytes(container)
    return verify_container(path, exported.ca_pem).problems


def rewritten(
    container: bytes, change: Callable[[str, bytes], bytes | None], *, added: dict[str, bytes] | None = None
) -> bytes:
    """The container with each entry changed or left out, in perfect form again."""
    out = b""
    for info, data in entries(container):
        changed = change(info.name, data)
        if changed is not None:
            out += tar.header(info.name, len(changed)) + changed + tar.padding(len(changed))
        for name, extra in (added or {}).items() if info.name.endswith("files/exe") else ():
            out += tar.header(name, len(extra)) + extra + tar.padding(len(extra))
    return out + tar.END


def entries(container: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The entries as any tar program reads them."""
    with tarfile.open(fileobj=io.BytesIO(container)) as archive:
        for info in archive:
            file: IO[bytes] | None = archive.extractfile(info)
            assert file is not None
            yield info, file.read()


def unchanged(_: str, data: bytes) -> bytes:
    """No change."""
    return data


def test_a_container_verifies_with_nothing_but_the_authority(exported: Exported, tmp_path: Path) -> None:
    """The report tells what is in it."""
    path = tmp_path / "a.fireline"
    path.write_bytes(exported.container)

    report = verify_container(path, exported.ca_pem)

    assert report.problems == ()
    assert report.evidence == exported.evidence
    assert (report.artifacts, report.total_bytes) == (5, sum(map(len, CONTENTS.values())) + 7)
    assert report.sealed_at == NOW + timedelta(minutes=5)


def test_any_tar_program_unpacks_it(exported: Exported) -> None:
    """Names, sizes and bytes are as an ordinary reader sees them, long names too."""
    found = {info.name: data for info, data in entries(exported.container)}

    first = exported.evidence[0].id
    assert {
        n.removeprefix(f"{first}/artifacts/"): d for n, d in found.items() if n.startswith(f"{first}/a")
    } == CONTENTS
    assert found["journal.jsonl"].count(b"\n") == 3
    assert list(found)[-1] == "seal.dsse.json"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_i7_any_flipped_bit_is_found_and_named(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """I7: wherever one bit is flipped, a problem names the entry that it is in, or the byte."""
    offset = data.draw(st.integers(0, len(exported.container) - 1) | st.sampled_from(interesting(exported.container)))
    bit = data.draw(st.integers(0, 7))
    flipped = bytearray(exported.container)
    flipped[offset] ^= 1 << bit

    found = problems(exported, bytes(flipped), tmp_path_factory.getbasetemp())

    assert any(where in problem for problem in found for where in places(exported.container, offset)), found


def interesting(container: bytes) -> list[int]:
    """Offsets in everything but the one big artifact, which would draw nearly all of the flips."""
    big = next(i for i, _ in entries(container) if i.name.endswith("files/exe"))
    return [*range(0, big.offset_data, 3), *range(big.offset_data + big.size, len(container), 3)]


def places(container: bytes, offset: int) -> list[str]:
    """How the place of a byte may be named: its entry's name, or where its header begins."""
    found = ["the end"]
    start = 0
    for info, _ in entries(container):
        end = info.offset_data + info.size + -info.size % 512
        if offset < end:
            return [info.name, f"byte {info.offset},", f"byte {start},"]
        start = end
    return [f"byte {start},", f"byte {start + 512},", *found]


@pytest.mark.parametrize("bit", range(8))
def test_i7_certificates_damaged_in_any_byte_are_named(exported: Exported, tmp_path: Path, bit: int) -> None:
    """I7: versions, serial numbers and texts that no parser likes are problems like any other."""
    info = next(i for i, _ in entries(exported.small) if i.name.endswith("host-chain.pem"))
    for offset in (*range(info.offset_data + 28, info.offset_data + 64), info.offset_data + info.size - 3):
        flipped = bytearray(exported.small)
        flipped[offset] ^= 1 << bit

        assert info.name in problems(exported, bytes(flipped), tmp_path)[0], offset


def test_i7_a_flipped_bit_all_over_a_small_container(exported: Exported, tmp_path: Path) -> None:
    """I7: evenly over headers, certificates, receipt, manifest, journal, seal and padding."""
    for offset in range(0, len(exported.small), 61):
        flipped = bytearray(exported.small)
        flipped[offset] ^= 1 << offset % 8

        found = problems(exported, bytes(flipped), tmp_path)

        assert any(where in problem for problem in found for where in places(exported.small, offset)), (offset, found)


@pytest.mark.parametrize("name", ["network/sockets.jsonl", "empty", "files/exe"])
def test_i7_a_missing_artifact_is_named(exported: Exported, tmp_path: Path, name: str) -> None:
    """I7: taking an artifact out, in perfect form, is found by the manifest."""
    place = f"{exported.evidence[0].id}/artifacts/{name}"

    found = problems(exported, rewritten(exported.container, lambda n, d: None if n == place else d), tmp_path)

    assert found == (f"{place} is missing: the manifest names it",)


@pytest.mark.parametrize("name", ["artifacts/planted", "notes.txt"])
def test_i7_an_added_file_is_named(exported: Exported, tmp_path: Path, name: str) -> None:
    """I7: an artifact or any other file that nobody signed."""
    place = f"{exported.evidence[0].id}/{name}"

    found = problems(exported, rewritten(exported.container, unchanged, added={place: b"planted"}), tmp_path)

    assert len(found) == 1
    assert found[0].startswith(place)
    assert found[0].endswith("it was added")


def test_i7_a_changed_artifact_is_named_with_its_chunk(exported: Exported, tmp_path: Path) -> None:
    """I7: in a file of perfect form."""
    place = f"{exported.evidence[0].id}/artifacts/files/exe"
    forged = rewritten(exported.container, lambda n, d: d[:-1] + b"!" if n == place else d)

    assert problems(exported, forged, tmp_path) == (
        f"{place}: chunk 1 (from byte 1048576) does not match the manifest",
    )


def test_i7_a_whole_evidence_taken_out_is_named(exported: Exported, tmp_path: Path) -> None:
    """I7: nothing else in the file speaks of it but the seal."""
    gone = exported.evidence[1].id

    found = problems(exported, rewritten(exported.container, lambda n, d: None if gone in n else d), tmp_path)

    assert f"{gone}/manifest.dsse.json is missing: the seal names it" in found
    assert all(problem.startswith(gone) for problem in found)


def test_i7_entries_in_another_order_are_found(exported: Exported, tmp_path: Path) -> None:
    """I7: the seal has an order."""
    parts = [tar.header(i.name, i.size) + d + tar.padding(i.size) for i, d in entries(exported.container)]
    parts[0], parts[-2] = parts[-2], parts[0]

    found = problems(exported, b"".join(parts) + tar.END, tmp_path)

    assert found == ("the entries are in another order than the seal says",)


def test_i7_a_manifest_signed_anew_is_found(exported: Exported, tmp_path: Path) -> None:
    """I7: by a key of one's own, and even by the host's own key: the receipt is for another manifest."""
    site, first = exported.site, exported.evidence[0]
    forged = manifest("web-1", {**CONTENTS, "empty": b"not any more"}).statement()
    mine, other = site.host("web-1"), Site.make(tmp_path / "other")

    by_stranger = resigned(exported, envelope.seal(forged, PAYLOAD_TYPE, other.host("web-1").key))
    by_host = resigned(exported, envelope.seal(forged, PAYLOAD_TYPE, mine.key), host_chain=mine.chain_pem.encode())
    other.vault.close()

    assert problems(exported, by_stranger, tmp_path)[0].startswith(
        f"{first.id}/manifest.dsse.json: envelope is signed by "
    )
    assert problems(exported, by_host, tmp_path)[0] == (
        f"{first.id}/manifest.dsse.json: the controller's receipt is for another manifest: it was signed anew"
    )


def resigned(exported: Exported, signed: bytes, host_chain: bytes | None = None) -> bytes:
    """The container with another manifest for the first host."""
    first = exported.evidence[0].id

    def change(name: str, data: bytes) -> bytes:
        if name == f"{first}/manifest.dsse.json":
            return signed
        return host_chain if host_chain and name == f"{first}/host-chain.pem" else data

    return rewritten(exported.container, change)


async def test_i7_a_manifest_of_another_host_is_found(exported: Exported, tmp_path: Path) -> None:
    """I8: a host that signs as if it were another, even when the controller was made to sign for it."""
    site = exported.site
    evidence = await site.seal(site.host("evil"), {"ps": b"clean\n"}, said=manifest("web-9", {"ps": b"clean\n"}))

    found = problems(exported, await site.export([evidence]), tmp_path)

    assert found[0] == (
        f"{evidence.id}/manifest.dsse.json: it is of host 'web-9' and signed by spiffe://fireline/agent/evil"
    )


async def test_i7_another_authority_is_not_believed(exported: Exported, tmp_path: Path) -> None:
    """A whole container by somebody else's controller: each signature is refused."""
    other = Site.make(tmp_path / "other")
    evidence = await other.seal(other.host("web-1"), {"ps": b"x"})

    found = problems(exported, await other.export([evidence]), tmp_path)
    other.vault.close()

    assert [f.split(": ")[0] for f in found] == [f"{evidence.id}/receipt.dsse.json", "seal.dsse.json"]
    assert all("is not signed by the authority" in f for f in found)


async def test_an_agent_can_not_countersign(exported: Exported, tmp_path: Path) -> None:
    """A host's certificate is by the authority too, but it is no controller."""
    site = exported.site
    host = site.host("evil")
    evil = replace(site.authority, journal_key=host.key, journal_chain_pem=host.chain_pem.encode())
    evidence = await Site(site.folder, evil, site.vault).seal(host, {"ps": b"forged"})

    found = problems(exported, await Site(site.folder, evil, site.vault).export([evidence]), tmp_path)

    assert found == (
        f"{evidence.id}/receipt.dsse.json: it is signed by spiffe://fireline/agent/evil, wanted a controller",
        "seal.dsse.json: it is signed by spiffe://fireline/agent/evil, wanted a controller",
    )


async def test_i7_a_rewritten_journal_contradicts_its_witnesses(exported: Exported, tmp_path: Path) -> None:
    """I7: a controller that seals another history is given away by the receipts and the hosts' manifests."""
    rewritten_site = Site(exported.site.folder, exported.site.authority, exported.site.vault)
    for summary in ("opened", "nothing happened", "web-2 sealed"):
        rewritten_site.note(summary)

    found = problems(exported, await rewritten_site.export(exported.evidence), tmp_path)

    assert found == ("journal.jsonl: line 2 is not the one that a host or a receipt was a witness of",)


async def test_i7_a_journal_out_of_order_is_found(exported: Exported, tmp_path: Path) -> None:
    """I7: lines that do not follow on each other."""
    swapped = Site(exported.site.folder, exported.site.authority, exported.site.vault)
    swapped.lines = [exported.site.lines[i] for i in (0, 2, 1)]

    found = problems(exported, await swapped.export(exported.evidence), tmp_path)

    assert found == ("journal.jsonl: line 2 does not follow on line 3",)


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 700, 5000, -1, -512, -1024, -3000])
def test_i7_a_file_cut_off_anywhere_is_found(exported: Exported, tmp_path: Path, keep: int) -> None:
    """I7: a download that broke."""
    assert problems(exported, exported.container[:keep], tmp_path)


@pytest.mark.parametrize("tail", [b"\0", bytes(512), b"x" * 512])
def test_i7_bytes_after_the_end_are_found(exported: Exported, tmp_path: Path, tail: bytes) -> None:
    """I7: no room for a message behind the end blocks."""
    (found,) = problems(exported, exported.container + tail, tmp_path)

    assert "wanted a block of zeros and then the end of the file" in found


def hostile_entries() -> dict[str, tarfile.TarInfo]:
    """Entries that a forged container may begin with."""

    def info(name: str, **fields: object) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(made, field, value)
        return made

    return {
        "symlink": info("ev-0123456789abcdef/artifacts/a", type=tarfile.SYMTYPE, linkname="/etc/shadow"),
        "hard link": info("README.txt", type=tarfile.LNKTYPE, linkname="/etc/shadow"),
        "device": info("README.txt", type=tarfile.CHRTYPE, devmajor=1, devminor=8),
        "sparse": info("README.txt", type=tarfile.GNUTYPE_SPARSE, size=1 << 60),
        "directory": info("ev-0123456789abcdef", type=tarfile.DIRTYPE),
        "set-uid": info("README.txt", mode=0o4755),
        "pax comment": info("README.txt", pax_headers={"comment": "hello"}),
        "pax sparse": info("README.txt", pax_headers={"GNU.sparse.realsize": str(1 << 60)}),
        "pax path": info("README.txt", pax_headers={"path": "/etc/passwd"}),
        "pax long": info("README.txt", pax_headers={"comment": "x" * 100_000}),
        "global pax": info("README.txt", type=tarfile.XGLTYPE),
        "GNU long name": info("x" * 300, type=tarfile.GNUTYPE_LONGNAME),
    }


@pytest.mark.parametrize("kind", hostile_entries())
def test_i8_hostile_entries_are_refused(exported: Exported, tmp_path: Path, kind: str) -> None:
    """I8: links, devices, sparse files and foreign headers are damage, wherever they point."""
    forged = hostile_entries()[kind].tobuf(format=tarfile.PAX_FORMAT) + tar.END

    found = problems(exported, forged, tmp_path)

    assert "the block at byte 0, after the start, is damaged" in found[0] or "it was added" in found[0]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc/passwd", "ev-x/artifacts/../../up", "a\nb", "ev-x/artifacts/"]
)
def test_i8_names_that_are_paths_elsewhere_are_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    """I8: no such name is ever opened; each is told."""
    forged = tar.header(name, 1) + b"x" + tar.padding(1) + tar.END

    assert problems(exported, forged, tmp_path)[0].startswith(name)


@pytest.mark.parametrize("size", [1 << 33, (1 << 63) - 1])
def test_i8_a_size_that_is_not_there_is_refused(exported: Exported, tmp_path: Path, size: int) -> None:
    """I8: a size is believed only as far as there are bytes."""
    for name in ("README.txt", "seal.dsse.json", "ev-0123456789abcdef/manifest.dsse.json"):
        (found,) = problems(exported, tar.header(name, size) + b"x" * 600, tmp_path)
        assert found == f"{name}: the file ends in the middle of it, {size - 600} bytes too early"


# What parsers of certificates, keys, JSON and base64 say in their own words.
FOREIGN = re.compile(r"asn1|ParseError|https?:|<ObjectIdentifier|PEM file|Error\b|unpack|Expecting|cryptography")


@pytest.mark.parametrize("part", ["host-chain.pem", "receipt.dsse.json"])
def test_a_flipped_bit_in_a_certificate_is_told_in_our_own_words(exported: Exported, part: str) -> None:
    """I7: in each byte: the entry is named, and what is wrong with it, never what a library says of it."""
    signed = {info.name.partition("/")[2]: data for info, data in entries(exported.small)}
    said = set()
    for place in range(0, len(signed[part]), 3):
        flipped = bytearray(signed[part])
        flipped[place] ^= 1 << place % 8
        parts = signed | {part: bytes(flipped)}
        try:  # what stands behind the host's own certificate in its chain is for the seal to find
            check(parts["manifest.dsse.json"], parts["receipt.dsse.json"], parts["host-chain.pem"], exported.ca_pem)
        except EvidenceError as error:
            said.add(str(error))

    assert len(said) > 4
    assert [words for words in said if FOREIGN.search(words)] == []
    assert {words.partition(": ")[0] for words in said} <= {part, "manifest.dsse.json"}


def test_i8_endless_entries_end_the_look(exported: Exported, tmp_path: Path) -> None:
    """I8: after a hundred problems nothing more is read."""
    forged = b"".join(tar.header(f"junk-{n}", 0) for n in range(5000)) + tar.END

    found = problems(exported, forged, tmp_path)

    assert len(found) == 101
    assert found[-1] == "there are more problems; the rest was not looked at"


@pytest.mark.parametrize(
    "line", [b'{"seq":1e400,"prev":""}\n', b"[" * 5000 + b"\n", b"no json\n", b"{}\n", b'{"seq":1']
)
async def test_i8_a_journal_of_garbage_is_named(exported: Exported, tmp_path: Path, line: bytes) -> None:
    """I8: whatever the lines are, the file's name comes with the problem."""
    forged = rewritten(exported.container, lambda n, d: line if n == "journal.jsonl" else d)

    assert any(f.startswith("journal.jsonl: ") for f in problems(exported, forged, tmp_path))


async def test_imported_elsewhere_it_is_the_same_evidence(exported: Exported, tmp_path: Path) -> None:
    """Import into an empty vault, verify there, export and verify again; a second import changes nothing."""
    path = tmp_path / "a.fireline"
    path.write_bytes(exported.container)
    elsewhere = Site.make(tmp_path / "elsewhere")

    imported = await import_container(path, exported.ca_pem, elsewhere.vault)
    again = await import_container(path, exported.ca_pem, elsewhere.vault)
    kept = [await verify_kept(elsewhere.vault, e, exported.ca_pem) for e in imported]
    moved = Site(elsewhere.folder, exported.site.authority, elsewhere.vault, exported.site.lines)
    second = await moved.export(imported)
    elsewhere.vault.close()

    assert imported == again == exported.evidence
    assert [k.problems for k in kept] == [(), ()]
    assert [k.total_bytes for k in kept] == [e.total_bytes for e in exported.evidence]
    assert problems(exported, second, tmp_path) == ()


async def test_what_does_not_verify_is_not_imported(exported: Exported, tmp_path: Path) -> None:
    """Nothing of it is kept, and the message says why."""
    path = tmp_path / "a.fireline"
    path.write_bytes(exported.container[:-1] + b"x")
    elsewhere = Site.make(tmp_path / "elsewhere")

    with pytest.raises(EvidenceError, match=r"^it does not verify, 1 problem: the block at byte \d+"):
        await import_container(path, exported.ca_pem, elsewhere.vault)
    elsewhere.vault.close()

    assert list((tmp_path / "elsewhere/vault/packs").iterdir()) == []


async def test_i7_kept_evidence_that_was_changed_is_named(exported: Exported, tmp_path: Path) -> None:
    """I7: a flipped bit in a pack, a changed record in the store, a lost manifest."""
    site = Site.make(tmp_path / "state")
    evidence = await site.seal(site.host("web-1"), {"core": noise(3 << 20)})
    pack = tmp_path / "state/vault/packs/req-web-1.pack"
    whole = pack.read_bytes()

    assert (await verify_kept(site.vault, evidence, site.authority.ca_pem)).problems == ()
    renamed = await verify_kept(site.vault, replace(evidence, host="web-7"), site.authority.ca_pem)
    pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    flipped = await verify_kept(site.vault, evidence, site.authority.ca_pem)
    pack.unlink()
    lost = await verify_kept(site.vault, evidence, site.authority.ca_pem)
    site.vault.close()

    assert renamed.problems == (f"{evidence.id}: the store's record of it is not what manifest and receipt say",)
    # Two threads write, so any chunk may be the last one of the pack.
    assert re.match(rf"{evidence.id}/artifacts/core: artifact core, chunk [0-2]: chunk ", flipped.problems[0])
    assert lost.problems[0].endswith("is not in the vault")


async def test_evidence_outlives_the_certificates(exported: Exported, tmp_path: Path) -> None:
    """What counts is that they held when it was sealed; a receipt dated outside of that is refused."""
    site = exported.site
    host = site.host("web-3")
    said = manifest("web-3", {"ps": b"x"})
    signed = envelope.seal(said.statement(), PAYLOAD_TYPE, host.key)

    good = site.countersigned(host, said, signed)
    late = replace(good, sealed_at=NOW + timedelta(days=30))
    late_receipt = receipt(late, journal_seq=0, journal_hash=journal.GENESIS, signer=site.signer)

    assert check(signed, good.receipt, host.chain_pem.encode(), exported.ca_pem)[0] == good
    with pytest.raises(
        EvidenceError, match=r"host-chain.pem: certificate \w+ holds from 2026-05-02 .* not at 2026-06-01"
    ):
        check(signed, late_receipt, host.chain_pem.encode(), exported.ca_pem)
