"""Certificates as values: what each shall say, and how it is built and signed. Touches no file."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fireline_controller.model import PolicyError
from fireline_wire import chain
from fireline_wire.identity import CONTROLLER_DNS, Identity, Role, agent_dns

# A host whose clock is slow by this much still takes a fresh certificate.
_BACKDATE: Final = timedelta(minutes=5)
_AUTHORITY_LIFETIME: Final = timedelta(days=3650)
# For the controller's, the operator's and the journal's certificate; `renew` follows long before.
OWN_LIFETIME: Final = timedelta(days=90)
# More than any P-256 signing request with a few attributes; protects the parser.
_REQUEST_LIMIT_BYTES: Final = 16 << 10

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Grant:
    """What a certificate shall say: whom it names, what for (extended key usages), and under which DNS name."""

    identity: Identity
    usages: tuple[x509.ObjectIdentifier, ...]
    dns: str = ""


CONTROLLER: Final = Grant(Identity(Role.CONTROLLER, "controller"), (_SERVER, _CLIENT), CONTROLLER_DNS)
# Signs checkpoints, receipts and exports; useless for TLS.
JOURNAL: Final = Grant(Identity(Role.CONTROLLER, "journal"), (ExtendedKeyUsageOID.CODE_SIGNING,))


def agent_grant(host: str, generation: int) -> Grant:
    """What a host's certificate says: a server only, so that it can't act as a controller.

    Raises:
        ValueError: the host's name is not one.
    """
    return Grant(Identity(Role.AGENT, host), (_SERVER,), agent_dns(host, generation))


def self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """A new authority's certificate for its key."""
    serial = x509.random_serial_number()
    # The number keeps two authorities apart for whoever reads names only.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Fireline authority {serial:x}"[:32])])
    return (
        _builder(key.public_key(), name, name, now, _AUTHORITY_LIFETIME, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def sign(
    key: ec.EllipticCurvePublicKey,
    grant: Grant,
    *,
    now: datetime,
    lifetime: timedelta,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Certify a key; the certificate never outlives its authority."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(grant.identity))]
    if grant.dns:
        names.append(x509.DNSName(grant.dns))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, grant.identity.role)])
    lifetime = min(lifetime, ca.not_valid_after_utc - now)
    return (
        _builder(key, name, ca.subject, now, lifetime, x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(grant.usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime,
    lifetime: timedelta,
    serial: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(issuer_name=issuer, subject_name=subject, public_key=key, serial_number=serial)
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a signing request (PKCS #10, PEM) asks a certificate for; nothing else of it is read.

    Raises:
        PolicyError: it is malformed, not P-256 or not signed by its own key.
    """
    if len(csr_pem) > _REQUEST_LIMIT_BYTES:
        raise _bad_request(f"it has {len(csr_pem)} bytes, at most {_REQUEST_LIMIT_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = chain.public_key_of(request)
        signed = request.is_signature_valid
    except chain.ChainError as error:
        raise _bad_request(str(error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad_request("it is no signing request in PEM") from None
    if not signed:
        raise _bad_request("it is not signed by the key that it is for")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request to certify a key (PKCS #10, PEM), which names nobody: the authority says who it is for."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _bad_request(why: str) -> PolicyError:
    return PolicyError(f"the signing request is refused: {why}", reason="invalid_request")


def operator_grant(name: str) -> Grant:
    """What an operator's certificate says: a client only.

    Raises:
        ValueError: the name is not one.
    """
    return Grant(Identity(Role.OPERATOR, name), (_CLIENT,))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key.

    Raises:
        ValueError: it is none.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("it is no key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("it is of another kind")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as PKCS #8, PEM, not encrypted: the file mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem_of(certificate: x509.Certificate) -> bytes:
    """The certificate, PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)
