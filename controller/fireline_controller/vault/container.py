"""One file with evidence that verifies anywhere with nothing but the authority's certificate.

README.txt                      what this is and how to check it without Fireline
ev-…/host-chain.pem             the certificate of the host whose key signed, and the authority
ev-…/receipt.dsse.json          the controller's receipt
ev-…/manifest.dsse.json         the host's signed manifest
ev-…/artifacts/NAME             the artifacts, in the manifest's order
journal.jsonl                   the incident's lines of the journal, as they are hashed
seal.dsse.json                  name and SHA-256 of every entry before, in order, signed by the controller

The tar form is fixed (see tar), so the seal's names and hashes cover every bit of the file.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from fireline_controller.model import Evidence, Line
from fireline_controller.vault import statements, tar
from fireline_controller.vault.receipts import open_manifest
from fireline_controller.vault.statements import Signer
from fireline_controller.vault.vault import Vault

SEAL_KIND: Final = "urn:fireline:container:v1"
README: Final = "README.txt"
JOURNAL: Final = "journal.jsonl"
SEAL: Final = "seal.dsse.json"
HOST_CHAIN: Final = "host-chain.pem"
RECEIPT: Final = "receipt.dsse.json"
MANIFEST: Final = "manifest.dsse.json"
ARTIFACTS: Final = "artifacts/"

_README_TEXT: Final = """\
Evidence exported by Fireline. Every bit of this file is covered by signatures.

Verify it, with nothing but the authority's certificate (ca.pem, which you should have from another source):

    fireline evidence verify THIS-FILE --ca ca.pem

Without Fireline: `tar xf` unpacks it. Each *.dsse.json is a DSSE envelope (dsse.dev) with an in-toto statement,
signed with ECDSA P-256 over SHA-256: seal.dsse.json names every file with its SHA-256, manifest.dsse.json every
artifact as the host saw it, receipt.dsse.json when the controller had it. `sha256sum` checks the files against them.
"""


class _Writer:
    """Makes the container's bytes and remembers what the seal has to say."""

    def __init__(self) -> None:
        self.subjects: list[tuple[str, str]] = []

    def entry(self, name: str, data: bytes) -> bytes:
        return self.head(name, len(data), hashlib.sha256(data).hexdigest()) + data + tar.padding(len(data))

    def head(self, name: str, size: int, sha256: str) -> bytes:
        self.subjects.append((name, sha256))
        return tar.header(name, size)


async def export(
    vault: Vault, evidence: Sequence[Evidence], lines: Sequence[Line], *, at: datetime, signer: Signer
) -> AsyncIterator[bytes]:
    """The container's bytes, in pieces little longer than a chunk. All is verified while it is read.

    Args:
        vault: where the evidence is.
        evidence: of one incident; in the order in which it shall stand.
        lines: of the journal, in their order.
        at: the moment of sealing.
        signer: the controller's journal key.

    Raises:
        EvidenceError: something of it is missing or damaged in the vault. What was given out by then has no seal.
    """
    writer = _Writer()
    yield writer.entry(README, _README_TEXT.encode())
    for one in evidence:
        async for data in _evidence(vault, one, writer):
            yield data
    yield writer.entry(JOURNAL, b"".join(line.canonical + b"\n" for line in lines))
    predicate = {"evidence": [one.id for one in evidence]}
    seal = statements.sign(SEAL_KIND, writer.subjects, predicate, at=at, signer=signer)
    yield writer.entry(SEAL, seal) + tar.END


async def _evidence(vault: Vault, evidence: Evidence, writer: _Writer) -> AsyncIterator[bytes]:
    signed = await vault.read_manifest(evidence)
    host_chain = evidence.host_chain_pem.encode()
    yield writer.entry(f"{evidence.id}/{HOST_CHAIN}", host_chain)
    yield writer.entry(f"{evidence.id}/{RECEIPT}", evidence.receipt)
    yield writer.entry(f"{evidence.id}/{MANIFEST}", signed)
    manifest = await asyncio.to_thread(open_manifest, signed, host_chain)
    for artifact in manifest.artifacts:
        pending = writer.head(f"{evidence.id}/{ARTIFACTS}{artifact.name}", artifact.size, artifact.sha256)
        async for data in vault.read_artifact(artifact):
            yield pending + data
            pending = b""
        yield pending + tar.padding(artifact.size)
