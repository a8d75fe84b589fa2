"""Sealed evidence and the journal, read back: list, show, verify, export, import. Every access is a journal line."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fireline_controller import vault
from fireline_controller.journal import JournalReport
from fireline_controller.model import Entry, Evidence, EvidenceError, Line, NotFound, PolicyError
from fireline_controller.pki import Authority
from fireline_controller.store import Store, Transaction
from fireline_controller.vault import receipts, statements
from fireline_wire import chain
from fireline_wire.manifest import Manifest

_LINES_AT_ONCE = 500
_MAX_CA_BYTES = 16 << 10


@dataclass(frozen=True)
class Shown:
    """Evidence with the statement that the host signed and what the controller's receipt says, both verified, JSON."""

    evidence: Evidence
    statement: bytes
    receipt: bytes


class Records:
    """What the controller keeps as proof.

    `trusted` is a folder with the certificates of other authorities whose evidence was imported, named by SHA-256.
    """

    def __init__(
        self,
        store: Store,
        kept: vault.Vault,
        authority: Callable[[], Authority],
        trusted: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._vault = kept
        self._authority = authority
        self._trusted = trusted
        self._now = now

    async def list(self, *, incident_id: str, host: str) -> Sequence[Evidence]:
        """Sealed captures, the newest first.

        Raises:
            NotFound: neither an incident nor imported evidence has this id.
        """
        return await self._store.read(lambda tx: _listed(tx, incident_id, host))

    async def show(self, evidence_id: str, *, operator: str, reason: str) -> Shown:
        """The manifest and the receipt of sealed evidence.

        Raises:
            NotFound: it is not known.
            EvidenceError: manifest or receipt do not hold.
        """
        evidence = await self._store.read(lambda tx: tx.evidence(evidence_id))
        await self._custody("evidence.shown", evidence, operator, f"{evidence_id} looked at", reason)
        manifest = await self._manifest(evidence)
        receipt = statements.verify(evidence.receipt, receipts.KIND, self._authority_of(evidence))
        return Shown(evidence, manifest.statement(), json.dumps(receipt.predicate, sort_keys=True).encode())

    async def verify(self, evidence_id: str, *, operator: str) -> vault.VerifyReport:
        """Read everything of sealed evidence and check it.

        Raises:
            NotFound: it is not known.
        """
        evidence = await self._store.read(lambda tx: tx.evidence(evidence_id))
        report = await vault.verify_kept(self._vault, evidence, self._authority_of(evidence))
        count = len(report.problems)
        result = f"{count} problem{'s' * (count != 1)}" if count else "everything holds"
        await self._custody("evidence.verified", evidence, operator, f"{evidence_id} verified: {result}", "")
        return report

    async def export(self, name: str, *, operator: str, reason: str) -> AsyncIterator[bytes]:
        """The bytes of the container with one evidence, or with all of an incident.

        Raises:
            NotFound: neither an evidence nor an incident with evidence has this id.
            PolicyError: it was imported from under another authority.
            EvidenceError: something of it is missing or damaged.
        """
        evidence, lines = await self._store.read(lambda tx: _to_export(tx, name))
        for one in evidence:
            if self._authority_of(one) != self._authority().ca_pem:
                message = f"{one.id} was sealed under another authority: pass on the file that it was imported from"
                raise PolicyError(message, reason="invalid_request")
            await self._custody("evidence.exported", one, operator, f"{one.id} exported", reason)
        authority = self._authority()
        signer = vault.Signer(authority.journal_key, authority.journal_chain_pem)
        async for part in vault.export(self._vault, evidence, lines, at=self._now(), signer=signer):
            yield part

    async def take_in(self, parts: AsyncIterator[bytes], *, operator: str) -> Sequence[Evidence]:
        """Keep the evidence of a container. The first part is the authority's certificate, the rest the file.

        Raises:
            EvidenceError: it does not verify against that authority.
            StoreError: it can't be kept.
        """
        ca_pem = await anext(parts, b"")
        fingerprint = _fingerprint(ca_pem)
        with tempfile.TemporaryDirectory(prefix="fireline-import-") as folder:
            file = Path(folder) / "container.fireline"
            with file.open("wb") as out:
                async for part in parts:
                    out.write(part)
            found = await vault.import_container(file, ca_pem, self._vault)
        if ca_pem != self._authority().ca_pem:
            await asyncio.to_thread(_trust, self._trusted, fingerprint, ca_pem)
        now = self._now()

        def record(tx: Transaction) -> None:
            for evidence in found:
                tx.put_evidence(evidence)
                tx.append(
                    _custody("evidence.imported", evidence, operator, now, f"{evidence.id} imported", fingerprint)
                )

        await self._store.run(record)
        return found

    async def lines(self, incident_id: str, from_seq: int) -> AsyncIterator[Line]:
        """Lines in order, of one incident or all."""
        while True:
            lines = await self._store.read(lambda tx: tx.lines(from_seq, incident_id, limit=_LINES_AT_ONCE))  # noqa: B023 - done before from_seq changes
            for line in lines:
                yield line
            if len(lines) < _LINES_AT_ONCE:
                return
            from_seq = lines[-1].seq + 1

    async def verify_journal(self) -> JournalReport:
        """Check chain, checkpoints and anchor."""
        return await self._store.verify()

    async def _manifest(self, evidence: Evidence) -> Manifest:
        signed = await self._vault.read_manifest(evidence)
        chain_pem = evidence.host_chain_pem.encode()
        authority = self._authority_of(evidence)
        head, manifest = await asyncio.to_thread(receipts.check, signed, evidence.receipt, chain_pem, authority)
        if head != evidence:
            raise EvidenceError(f"{evidence.id}: the store's record differs from what was signed")
        return manifest

    def _authority_of(self, evidence: Evidence) -> bytes:
        """The certificate to verify with: this controller's, or one that an operator named when importing."""
        issuer = chain.certificates(evidence.host_chain_pem.encode())[-1]
        imported = self._trusted / f"{chain.fingerprint(issuer)}.pem"
        return imported.read_bytes() if imported.exists() else self._authority().ca_pem

    async def _custody(self, kind: str, evidence: Evidence, operator: str, summary: str, reason: str) -> None:
        now = self._now()
        await self._store.run(lambda tx: tx.append(_custody(kind, evidence, operator, now, summary, reason)))


def _custody(kind: str, evidence: Evidence, operator: str, now: datetime, summary: str, reason: str) -> Entry:
    return Entry(
        kind=kind,
        actor=operator,
        at=now,
        summary=summary,
        incident_id=evidence.incident_id,
        operation_id=evidence.operation_id,
        host=evidence.host,
        data={"evidence": evidence.id, "manifest_sha256": evidence.manifest_sha256, "reason": reason},
    )


def _listed(tx: Transaction, incident_id: str, host: str) -> Sequence[Evidence]:
    if incident_id and not tx.evidence_list(incident_id=incident_id):
        tx.incident(incident_id)  # it may have no evidence yet; imported evidence has no incident here
    return tx.evidence_list(incident_id=incident_id, host=host)


def _to_export(tx: Transaction, name: str) -> tuple[Sequence[Evidence], Sequence[Line]]:
    if name.startswith("ev-"):
        evidence: Sequence[Evidence] = (tx.evidence(name),)
    else:
        tx.incident(name)
        evidence = tx.evidence_list(incident_id=name)
        if not evidence:
            raise NotFound(f"{name} has no evidence to export")
    incident_id = evidence[0].incident_id
    return evidence, tx.lines(1, incident_id) if incident_id else ()


def _fingerprint(ca_pem: bytes) -> str:
    try:
        (certificate,) = chain.certificates(ca_pem[:_MAX_CA_BYTES])
    except (ValueError, chain.ChainError):
        raise EvidenceError("the authority's certificate is no single certificate in PEM form") from None
    return chain.fingerprint(certificate)


def _trust(folder: Path, fingerprint: str, ca_pem: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"{fingerprint}.pem").write_bytes(ca_pem)
