"""Who a certificate says its holder is, and how names and roles are written into certificates.

A Fireline certificate carries one SPIFFE URI, `spiffe://fireline/ROLE/NAME`. Agents and controllers carry a DNS
name too, because Python's gRPC client can only verify a server by DNS name or address. Leaves to others: making
certificates (the controller's pki) and enforcing roles on calls (each end's server).
"""

import re
from dataclasses import dataclass
from enum import StrEnum

TRUST_DOMAIN = "fireline"
CONTROLLER_DNS = "controller.fireline"

# RFC 1123 labels; long enough for any real host, short enough for a DNS name with our suffix.
_NAME = re.compile(r"(?=.{1,180}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")


class Role(StrEnum):
    """What the holder of a certificate may be; exactly one each."""

    AGENT = "agent"
    CONTROLLER = "controller"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Identity:
    """A role and a name. `str()` gives the SPIFFE URI."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"{self.name!r} is not a name: wanted lower-case letters, digits, '-' and '.', as in RFC 1123"
            )

    def __str__(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> "Identity":
        """Read a SPIFFE URI.

        Raises:
            ValueError: the URI is not `spiffe://fireline/ROLE/NAME` with a known role and a valid name.
        """
        prefix = f"spiffe://{TRUST_DOMAIN}/"
        role, _, name = uri.removeprefix(prefix).partition("/")
        if not uri.startswith(prefix) or role not in set(Role):
            raise ValueError(f"{uri!r} is not a Fireline identity: wanted {prefix}(agent|controller|operator)/NAME")
        return cls(Role(role), name)


def is_name(text: str) -> bool:
    """Whether the text can name a host, an operator or a controller."""
    return _NAME.match(text) is not None


def agent_dns(host: str, generation: int) -> str:
    """The DNS name that an agent's certificate carries and that the controller verifies.

    The generation grows with each enrolment of a host name, so a certificate of a former enrolment fails the
    verification even while it is valid: gRPC's Python client shows a caller no peer certificate to check.
    """
    return f"{host}.g{generation}.agent.fireline"
