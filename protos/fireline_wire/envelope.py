"""Sign bytes into a DSSE envelope and open it again (DSSE 1.0, through securesystemslib).

The key id is securesystemslib's own: SHA-256 over the public key. Leaves to others: whether the key that signed
belongs to whom the payload names.
"""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey


class EnvelopeError(ValueError):
    """An envelope is malformed, or its signature is not by the key it should be by."""


def key_id(key: EllipticCurvePublicKey) -> str:
    """The id under which signatures of this key stand in envelopes, hexadecimal."""
    return str(SSlibKey.from_crypto(key).keyid)


def seal(payload: bytes, payload_type: str, key: EllipticCurvePrivateKey) -> bytes:
    """The payload in an envelope signed with the key, as compact JSON."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(key))
    return _canonical(envelope.to_dict())


def signers(envelope: bytes) -> tuple[str, ...]:
    """The key ids that an envelope claims, not verified.

    Raises:
        EnvelopeError: it is no envelope.
    """
    return tuple(_parse(envelope).signatures)


def unseal(envelope: bytes, payload_type: str, key: EllipticCurvePublicKey) -> bytes:
    """The payload, once the one signature in the envelope was verified against the key.

    Raises:
        EnvelopeError: it is no envelope in the form `seal` writes (so that no bit of it is without meaning), its
            payload is of another type, or it is not signed by this key and no other.
    """
    parsed = _parse(envelope)
    if parsed.payload_type != payload_type:
        raise EnvelopeError(f"envelope holds {parsed.payload_type!r}, wanted {payload_type!r}")
    wanted = SSlibKey.from_crypto(key)
    if tuple(parsed.signatures) != (wanted.keyid,):
        found = ", ".join(k[:16] for k in parsed.signatures) or "nobody"
        raise EnvelopeError(f"envelope is signed by {found}, wanted {wanted.keyid[:16]} and no other")
    try:
        parsed.verify([wanted], 1)
    except VerificationError:
        raise EnvelopeError(f"envelope does not match its signature by {wanted.keyid[:16]}") from None
    return bytes(parsed.payload)


def _parse(envelope: bytes) -> Envelope:
    try:
        # from_dict decodes in place, so the document for the comparison is parsed a second time.
        parsed = Envelope.from_dict(json.loads(envelope))
        canonical = _canonical(parsed.to_dict())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, VerificationError):
        raise EnvelopeError("no DSSE envelope: wanted a JSON object with payload, type and signatures") from None
    if canonical != envelope:
        raise EnvelopeError("envelope is not in its one written form: a byte of it was changed")
    return parsed


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
