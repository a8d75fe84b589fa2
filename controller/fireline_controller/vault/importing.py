"""Take the evidence of a container into a vault, once all of it was verified."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.vault import container
from fireline_controller.vault.plan import ChunkRange
from fireline_controller.vault.receipts import open_manifest
from fireline_controller.vault.vault import Vault
from fireline_controller.vault.verify import VerifyReport, verify_container
from fireline_wire.transfer import CHUNK_BYTES


async def import_container(path: Path, ca_pem: bytes, vault: Vault) -> tuple[Evidence, ...]:
    """Verify the container and keep its bytes; the heads that are to be stored with them.

    Imported twice, nothing changes: the same heads come back.

    Raises:
        EvidenceError: it does not verify; the message says how many problems there are, and the first of them.
        StoreError: it could not be kept.
    """
    report = await asyncio.to_thread(verify_container, path, ca_pem)
    if report.problems:
        count, shown = len(report.problems), "; ".join(report.problems[:3])
        raise EvidenceError(f"it does not verify, {count} problem{'s' * (count != 1)}: {shown}")
    for evidence in report.evidence:
        await _keep(path, report, evidence, vault)
    return report.evidence


async def _keep(path: Path, report: VerifyReport, evidence: Evidence, vault: Vault) -> None:
    signed = await asyncio.to_thread(_slice, path, report, f"{evidence.id}/{container.MANIFEST}")
    manifest = await asyncio.to_thread(open_manifest, signed, evidence.host_chain_pem.encode())
    async with vault.receive(f"import-{evidence.id}", manifest.artifacts, envelope=signed) as receiving:
        while ranges := await receiving.wanted():
            for artifact, index in _each(ranges):
                name = f"{evidence.id}/{container.ARTIFACTS}{artifact}"
                await receiving.keep(await asyncio.to_thread(_slice, path, report, name, chunk=index))
        await receiving.finish()


def _each(ranges: Sequence[ChunkRange]) -> Iterator[tuple[str, int]]:
    return ((r.artifact, index) for r in ranges for index in range(r.first, r.first + r.count))


def _slice(path: Path, report: VerifyReport, name: str, *, chunk: int | None = None) -> bytes:
    """An entry's bytes, or one chunk of them. The vault verifies them once more: the file may change under us."""
    entry = report.entries[name]
    start, size = (0, entry.size) if chunk is None else (chunk * CHUNK_BYTES, CHUNK_BYTES)
    with path.open("rb") as file:
        file.seek(entry.offset + start)
        return file.read(min(size, entry.size - start))
