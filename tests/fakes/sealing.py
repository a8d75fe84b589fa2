"""A controller's side of evidence, with real keys: an authority, a vault, hosts that sign, receipts, exports."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fireline_controller import journal, pki
from fireline_controller.model import Entry, Evidence, Line
from fireline_controller.vault import Signer, Vault, evidence_id, export, receipt
from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest
from tests.fakes.captures import Capture, artifact, transfer
from tests.fakes.chunk_index import MemoryIndex

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class SigningHost:
    """A host with a certified key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    chain_pem: str


def manifest(host: str, contents: Mapping[str, bytes], head: tuple[int, str] = (0, "0" * 64)) -> Manifest:
    """What the host says about these artifacts."""
    return Manifest(
        host=host,
        request_id=f"req-{host}",
        operation_id="op-1",
        incident_id="INC-20260502-120000",
        operator="alice",
        reason="drill",
        profile="initial",
        agent_version="0.1.0",
        boot_id="b",
        machine_id="m",
        started_at="2026-05-02T12:00:00Z",
        ended_at="2026-05-02T12:00:01Z",
        clock_offset_ns=0,
        clock_round_trip_ns=1000,
        journal_seq=head[0],
        journal_hash=head[1],
        partial=False,
        partial_reason="",
        lacks=(),
        collectors=(),
        artifacts=tuple(artifact(name, data) for name, data in contents.items()),
        findings=(),
    )


@dataclass
class Site:
    """One controller."""

    folder: Path
    authority: pki.Authority
    vault: Vault
    lines: list[Line] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path) -> "Site":
        """A fresh one."""
        folder.mkdir()
        authority = pki.create(folder / "keys", operator="alice", now=NOW)
        return cls(folder, authority, Vault(folder / "vault", MemoryIndex(), reserve_bytes=0))

    @property
    def signer(self) -> Signer:
        """Its journal key."""
        return Signer(self.authority.journal_key, self.authority.journal_chain_pem)

    @property
    def head(self) -> tuple[int, str]:
        """The journal's last line."""
        return (self.lines[-1].seq, self.lines[-1].hash) if self.lines else (0, journal.GENESIS)

    def note(self, summary: str) -> None:
        """Journal something."""
        seq, previous = self.head
        entry = Entry(kind="incident.noted", actor="alice", at=NOW, summary=summary, incident_id="INC-20260502-120000")
        self.lines.append(journal.line(entry, seq=seq + 1, previous_hash=previous))

    def host(self, name: str) -> SigningHost:
        """Enrol a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        pem = csr.public_bytes(serialization.Encoding.PEM)
        issued = self.authority.issue_agent(pem, host=name, generation=1, now=NOW, lifetime=timedelta(days=7))
        return SigningHost(name, key, self.authority.chain_of(issued).decode())

    async def seal(self, host: SigningHost, contents: Mapping[str, bytes], *, said: Manifest | None = None) -> Evidence:
        """Receive the host's capture and countersign it."""
        said = said or manifest(host.name, contents, self.head)
        signed = envelope.seal(said.statement(), PAYLOAD_TYPE, host.key)
        async with self.vault.receive(said.request_id, said.artifacts, envelope=signed) as receiving:
            await transfer(receiving, Capture(contents))
        return self.countersigned(host, said, signed)

    def countersigned(self, host: SigningHost, said: Manifest, signed: bytes) -> Evidence:
        """The evidence's head with the controller's receipt."""
        digest = hashlib.sha256(signed).hexdigest()
        evidence = Evidence(
            id=evidence_id(digest),
            host=said.host,
            incident_id=said.incident_id,
            operation_id=said.operation_id,
            profile=said.profile,
            sealed_at=NOW + timedelta(seconds=2),
            artifacts=len(said.artifacts),
            total_bytes=sum(a.size for a in said.artifacts),
            partial=not said.is_complete,
            manifest_sha256=digest,
            manifest_bytes=len(signed),
            host_chain_pem=host.chain_pem,
        )
        seq, head = self.head
        return replace(evidence, receipt=receipt(evidence, journal_seq=seq, journal_hash=head, signer=self.signer))

    async def export(self, evidence: Sequence[Evidence]) -> bytes:
        """The container as one string of bytes."""
        at = NOW + timedelta(minutes=5)
        parts = export(self.vault, evidence, self.lines, at=at, signer=self.signer)
        return b"".join([part async for part in parts])
