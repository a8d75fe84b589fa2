"""The controller's receipt for a sealed capture, and the check of manifest, receipt and certificate against each other.

The host signed what it gathered; the receipt says when the controller had all of it, under which certificate of the
host, and where the journal stood. Pure.
"""

import hashlib
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from fireline_controller.model import Evidence, EvidenceError
from fireline_controller.vault import statements
from fireline_controller.vault.statements import Signer
from fireline_wire import chain, envelope
from fireline_wire.identity import Identity, Role
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest, ManifestError

KIND: Final = "urn:fireline:receipt:v1"

# What the receipt repeats of the evidence's head; the rest of it is the receipt itself and the host's chain.
_HEAD: Final = (
    "id",
    "host",
    "incident_id",
    "operation_id",
    "profile",
    "artifacts",
    "total_bytes",
    "partial",
    "manifest_sha256",
    "manifest_bytes",
)


def evidence_id(manifest_sha256: str) -> str:
    """The id of the evidence whose manifest's envelope has this SHA-256."""
    return f"ev-{manifest_sha256[:16]}"


def receipt(evidence: Evidence, *, journal_seq: int, journal_hash: str, signer: Signer) -> bytes:
    """The receipt for evidence that is durable in the vault, signed as of `evidence.sealed_at`.

    Args:
        evidence: its head; `host_chain_pem` must be there, `receipt` is not looked at.
        journal_seq: the journal's last line before the evidence's own.
        journal_hash: of that line.
    """
    predicate = {
        "evidence": {name: getattr(evidence, name) for name in _HEAD},
        "host_certificate": _serial(evidence.host_chain_pem.encode()),
        "journal_seq": journal_seq,
        "journal_hash": journal_hash,
    }
    subjects = [("manifest.dsse.json", evidence.manifest_sha256)]
    return statements.sign(KIND, subjects, predicate, at=evidence.sealed_at, signer=signer)


def check(signed_manifest: bytes, receipt: bytes, host_chain_pem: bytes, ca_pem: bytes) -> tuple[Evidence, Manifest]:
    """The evidence's head and manifest, once they were verified with nothing but the authority.

    Raises:
        EvidenceError: manifest, receipt and host certificate don't hold, or don't belong together; names which.
    """
    statement = _receipt(receipt, ca_pem)
    host = _host(host_chain_pem, ca_pem, at=statement.at)
    manifest = open_manifest(signed_manifest, host_chain_pem)
    digest = hashlib.sha256(signed_manifest).hexdigest()
    if statement.subjects != (("manifest.dsse.json", digest),):
        raise EvidenceError("manifest.dsse.json: the controller's receipt is for another manifest: it was signed anew")
    if host != Identity(Role.AGENT, manifest.host):
        raise EvidenceError(f"manifest.dsse.json: it is of host {manifest.host!r} and signed by {host}")
    evidence = replace(_evidence(manifest, signed_manifest, statement.at), host_chain_pem=host_chain_pem.decode())
    _require_same(statement.predicate, evidence)
    return replace(evidence, receipt=receipt), manifest


def open_manifest(signed: bytes, host_chain_pem: bytes) -> Manifest:
    """The manifest in an envelope, once its signature by the key of this certificate was verified.

    Raises:
        EvidenceError: it is not signed by that key, or is no manifest.
    """
    try:
        key = chain.public_key_of(chain.certificates(host_chain_pem)[0])
        return Manifest.parse(envelope.unseal(signed, PAYLOAD_TYPE, key))
    except (envelope.EnvelopeError, ManifestError, chain.ChainError) as error:
        raise EvidenceError(f"manifest.dsse.json: {error}") from None


def witnessed(receipt: bytes, ca_pem: bytes) -> tuple[int, str]:
    """Where the journal stood when the receipt was signed: number and hash of its last line.

    Raises:
        EvidenceError: the receipt does not verify.
    """
    predicate = _receipt(receipt, ca_pem).predicate
    return int(predicate["journal_seq"]), str(predicate["journal_hash"])


def _receipt(receipt: bytes, ca_pem: bytes) -> statements.Statement:
    try:
        return statements.verify(receipt, KIND, ca_pem)
    except EvidenceError as error:
        raise EvidenceError(f"receipt.dsse.json: {error}") from None


def _host(host_chain_pem: bytes, ca_pem: bytes, *, at: datetime) -> Identity:
    if not host_chain_pem.isascii():
        raise EvidenceError("host-chain.pem: it is no text: a byte of it was changed")
    try:
        return chain.verify_chain(host_chain_pem, ca_pem, at=at)
    except chain.ChainError as error:
        raise EvidenceError(f"host-chain.pem: {error}") from None


def _evidence(manifest: Manifest, signed: bytes, at: datetime) -> Evidence:
    digest = hashlib.sha256(signed).hexdigest()
    return Evidence(
        id=evidence_id(digest),
        host=manifest.host,
        incident_id=manifest.incident_id,
        operation_id=manifest.operation_id,
        profile=manifest.profile,
        sealed_at=at,
        artifacts=len(manifest.artifacts),
        total_bytes=sum(a.size for a in manifest.artifacts),
        partial=not manifest.is_complete,
        manifest_sha256=digest,
        manifest_bytes=len(signed),
    )


def _require_same(predicate: Any, evidence: Evidence) -> None:
    said, serial = predicate.get("evidence"), predicate.get("host_certificate")
    for name in _HEAD:
        found = said.get(name) if isinstance(said, dict) else None
        if found != getattr(evidence, name):
            raise EvidenceError(
                f"receipt.dsse.json: {name} is {found!r}, the manifest says {getattr(evidence, name)!r}"
            )
    if serial != _serial(evidence.host_chain_pem.encode()):
        raise EvidenceError(f"host-chain.pem: it is another certificate than the receipt's {serial!r}")


def _serial(chain_pem: bytes) -> str:
    return chain.serial_hex(chain.certificates(chain_pem)[0])
