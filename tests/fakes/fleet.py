"""A real authority and enrolled hosts, made in a folder of the test's own."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fireline_controller import pki
from fireline_controller.hosts import Command
from fireline_controller.model import Host
from fireline_wire.tls import Credentials

DAY = timedelta(days=1)


def now() -> datetime:
    """The time by the wall clock: certificates are checked against it."""
    return datetime.now(UTC)


def authority(folder: Path) -> pki.Authority:
    """An authority that has been there for a month, so that it can have issued what has expired."""
    return pki.renew(pki.create(folder, operator="olga", now=now() - 30 * DAY), now())


def agent_credentials(
    authority: pki.Authority, host: str = "web-1", *, generation: int = 1, issued: datetime | None = None
) -> Credentials:
    """A host's key and its certificate for a day from when it was issued."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    certificate = authority.issue_agent(
        csr.public_bytes(serialization.Encoding.PEM),
        host=host,
        generation=generation,
        now=issued or now(),
        lifetime=DAY,
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(pem, authority.chain_of(certificate), authority.ca_pem)


def enrolled(address: str, name: str = "web-1", *, generation: int = 1) -> Host:
    """The host as the store knows it."""
    return Host(name, address, {}, generation, now(), "1", now() + DAY)


def command(request_id: str = "op-1") -> Command:
    """A command of an operator's."""
    return Command(request_id, request_id, "INC-20260101-000000", "olga", "drill", now() + DAY, 7)


@dataclass(frozen=True)
class ChunkRange:
    """Chunks of one artifact."""

    artifact: str
    first: int
    count: int
