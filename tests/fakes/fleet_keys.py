"""Keys and certificates for tests with real handshakes: an authority, and agents whose keys it certified."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fireline_agent import keys
from fireline_controller import pki
from fireline_controller.model import Certificate
from fireline_wire.tls import Credentials


def new_authority(folder: Path, *, now: datetime | None = None) -> pki.Authority:
    """An authority as of now."""
    return pki.create(folder, operator="alice", now=now or datetime.now(UTC))


def certified_agent(
    authority: pki.Authority,
    host: str = "web-1",
    *,
    generation: int = 1,
    now: datetime | None = None,
    lifetime: timedelta = timedelta(days=7),
) -> tuple[Credentials, Certificate]:
    """A fresh key and certificate of an agent."""
    key = keys.new_key()
    issued = authority.issue_agent(
        keys.signing_request(key), host=host, generation=generation, now=now or datetime.now(UTC), lifetime=lifetime
    )
    return Credentials(keys.key_to_pem(key), authority.chain_of(issued), authority.ca_pem), issued
