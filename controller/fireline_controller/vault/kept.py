"""Verify evidence where it is kept: the same checks as of a container, on the vault's own bytes."""

import asyncio

from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.vault import container, receipts
from fireline_controller.vault.vault import Vault
from fireline_controller.vault.verify import MAX_PROBLEMS, VerifyReport


async def verify_kept(vault: Vault, evidence: Evidence, ca_pem: bytes) -> VerifyReport:
    """Verify manifest, receipt and certificate, and read every artifact; each problem is named."""
    problems: list[str] = []
    try:
        signed = await vault.read_manifest(evidence)
        host_chain = evidence.host_chain_pem.encode()
        found, manifest = await asyncio.to_thread(receipts.check, signed, evidence.receipt, host_chain, ca_pem)
    except EvidenceError as error:
        return VerifyReport((f"{evidence.id}/{error}",), (), 0, 0, None, {})
    if found != evidence:
        problems.append(f"{evidence.id}: the store's record of it is not what manifest and receipt say")
    for artifact in manifest.artifacts:
        try:
            async for _ in vault.read_artifact(artifact):
                pass
        except EvidenceError as error:
            problems.append(f"{evidence.id}/{container.ARTIFACTS}{artifact.name}: {error}")
        if len(problems) >= MAX_PROBLEMS:
            break
    return VerifyReport(tuple(problems), (found,), found.artifacts, found.total_bytes, found.sealed_at, {})
