"""What the controller itself signs about evidence: in-toto statements that carry their signer's certificate.

The chain is inside the signed bytes, so that a statement needs nothing but the authority to be verified, also after
the controller's keys were renewed. The moment is the signer's word: no time-stamping authority stands behind it.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fireline_controller.model import EvidenceError
from fireline_wire import chain, envelope
from fireline_wire.identity import Role
from fireline_wire.manifest import PAYLOAD_TYPE, STATEMENT_TYPE


@dataclass(frozen=True)
class Signer:
    """The controller's signing key and its chain (leaf and authority, PEM)."""

    key: EllipticCurvePrivateKey
    chain_pem: bytes


@dataclass(frozen=True)
class Statement:
    """A verified statement: what it is about (name and SHA-256, in order), what it says, and when it was signed."""

    subjects: tuple[tuple[str, str], ...]
    predicate: Mapping[str, Any]
    at: datetime


def sign(
    kind: str, subjects: Sequence[tuple[str, str]], predicate: Mapping[str, Any], *, at: datetime, signer: Signer
) -> bytes:
    """The statement in an envelope.

    Args:
        kind: the predicate's type, a URI.
        subjects: names and SHA-256.
        at: aware UTC; the signer's certificate must hold then.
    """
    body = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": kind,
        "predicate": {**predicate, "at": at.isoformat(), "signed_by": signer.chain_pem.decode()},
    }
    payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return envelope.seal(payload, PAYLOAD_TYPE, signer.key)


def verify(signed: bytes, kind: str, ca_pem: bytes) -> Statement:
    """Read a statement of unknown honesty.

    Raises:
        EvidenceError: it is malformed, of another kind, or not signed by a controller of this authority as it says.
    """
    try:
        claimed = _claimed(signed)
        chain_pem = str(claimed["predicate"]["signed_by"]).encode()
        at = datetime.fromisoformat(claimed["predicate"]["at"])
        identity = chain.verify_chain(chain_pem, ca_pem, at=at)
        if identity.role is not Role.CONTROLLER:
            raise EvidenceError(f"it is signed by {identity}, wanted a controller")
        envelope.unseal(signed, PAYLOAD_TYPE, chain.public_key_of(chain.certificates(chain_pem)[0]))
        if claimed["predicateType"] != kind:
            raise EvidenceError(f"it is a {claimed['predicateType']!r}, wanted {kind!r}")
        subjects = tuple((str(s["name"]), str(s["digest"]["sha256"])) for s in claimed["subject"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceError(_plain(error)) from None
    return Statement(subjects, claimed["predicate"], at)


def _claimed(signed: bytes) -> dict[str, Any]:
    """The payload before its signature is verified: it says by whom, and that decides whether it is believed."""
    body = json.loads(base64.b64decode(json.loads(signed)["payload"]))
    if not isinstance(body, dict):
        raise TypeError
    return body


def _plain(error: Exception) -> str:
    if isinstance(error, envelope.EnvelopeError | chain.ChainError):
        return str(error)
    return "it is no signed statement: a byte of it was changed, or it is something else"
