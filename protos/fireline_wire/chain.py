"""Read and verify certificate chains offline: who a chain speaks for, by which authority, at which time.

A Fireline chain is the leaf and the authority that signed it; there is nothing between them. Leaves to others:
making certificates (the controller's pki), TLS itself (tls) and what a role may do (guard).
"""

import hashlib
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fireline_wire.identity import Identity

# How the library says that one certificate did not sign the other: names, key kinds, algorithms or signature differ.
_UNVERIFIED: Final = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


class ChainError(ValueError):
    """A certificate is malformed, or does not hold for this authority or this time."""


def certificates(chain_pem: bytes) -> list[x509.Certificate]:
    """The certificates of a chain, leaf first.

    Raises:
        ChainError: there is none, or one of them is malformed.
    """
    if _BEGIN not in chain_pem:
        raise ChainError(f"no certificate chain in PEM: wanted a line {_BEGIN.decode()}, found none")
    try:
        return x509.load_pem_x509_certificates(chain_pem)
    except (ValueError, x509.InvalidVersion):
        raise ChainError("no certificate chain in PEM: a certificate in it was cut or altered") from None


def verify_chain(leaf_pem: bytes, ca_pem: bytes, *, at: datetime) -> Identity:
    """Whom the first certificate speaks for, once it was verified against the authority, as of a time.

    Raises:
        ChainError: it is not by this authority, was not valid then, or carries no Fireline identity.
    """
    leaf, authority = certificates(leaf_pem)[0], certificates(ca_pem)[0]
    require_issued_by(leaf, authority)
    require_valid(authority, at)
    require_valid(leaf, at)
    return identity_of(leaf)


def require_issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> None:
    """Check that the authority is one, and that it signed the leaf.

    Raises:
        ChainError: it is not so.
    """
    try:
        is_authority = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        authority.verify_directly_issued_by(authority)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *_UNVERIFIED):
        is_authority = False
    if not is_authority:
        raise ChainError(f"certificate {serial_hex(authority)} is not an authority's own")
    try:
        leaf.verify_directly_issued_by(authority)
    except _UNVERIFIED:
        raise ChainError(
            f"certificate {serial_hex(leaf)} is not signed by the authority {fingerprint(authority)[:16]}"
        ) from None


def require_valid(certificate: x509.Certificate, at: datetime) -> None:
    """Check a certificate's time.

    Raises:
        ChainError: it had not begun, or was over.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= at <= ends:
        raise ChainError(
            f"certificate {serial_hex(certificate)} holds from {begins:%Y-%m-%d %H:%M:%S} to {ends:%Y-%m-%d %H:%M:%S}"
            f" UTC, not at {at:%Y-%m-%d %H:%M:%S}"
        )


def identity_of(certificate: x509.Certificate) -> Identity:
    """The one identity that a certificate carries.

    Raises:
        ChainError: it carries none, or more than one URI.
    """
    uris = _uris(certificate)
    if len(uris) != 1:
        raise ChainError(
            f"certificate {serial_hex(certificate)} does not carry one Fireline identity: wanted one URI,"
            f" found {len(uris)}"
        )
    try:
        return Identity.parse(uris[0])
    except ValueError as error:
        raise ChainError(
            f"certificate {serial_hex(certificate)} does not carry one Fireline identity: {error}"
        ) from None


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        raise ChainError(f"certificate {serial_hex(certificate)} has extensions that can't be read") from None
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def public_key_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> EllipticCurvePublicKey:
    """The P-256 key of a certificate or of a signing request.

    Raises:
        ChainError: its key is of another kind; gRPC's TLS client takes no Ed25519, and we need no other.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ChainError("the key can't be read, wanted ECDSA P-256") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ChainError(f"the key is {type(key).__name__.strip('_')}, wanted ECDSA P-256")
    return key


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 over the certificate's DER, hexadecimal: what an enrolment token pins of its authority."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def serial_hex(certificate: x509.Certificate) -> str:
    """The serial number as deny-lists spell it: lower-case hexadecimal without leading zeros."""
    return format(certificate.serial_number, "x")
