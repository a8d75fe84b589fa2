"""The text of a one-time enrolment token: what the controller prints and the new host reads."""

import base64
import binascii
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Final, Self

from fireline_wire.identity import is_name

_PREFIX: Final = "fl1."
# Any real token is far shorter; protects the parser.
_LIMIT_CHARS: Final = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class JoinToken:
    """What a token says: which host may join, where, by which authority (SHA-256 of its DER), with which secret."""

    host: str
    address: str
    ca_sha256: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not is_name(self.host):
            raise ValueError(
                f"{self.host!r} is not the name of a host: wanted lower-case letters, digits, '-' and '.',"
                " as in RFC 1123"
            )
        if not _SHA256.match(self.ca_sha256):
            raise ValueError("the authority's SHA-256 is not one")

    @property
    def text(self) -> str:
        """The token as it is printed: one word that a shell leaves alone. Whoever has it can join."""
        document = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return _PREFIX + base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token.

        Raises:
            ValueError: it is none, or a part of it was lost or altered beyond reading.
        """
        word = text.strip()
        if not word.startswith(_PREFIX) or len(word) > _LIMIT_CHARS:
            raise ValueError(f"that is no enrolment token: wanted one word that begins with {_PREFIX}")
        encoded = word.removeprefix(_PREFIX)
        try:
            document = json.loads(base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
            parts = {name: str(document[name]) for name in ("host", "address", "ca_sha256", "secret")}
            return cls(**parts)
        except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("the enrolment token was cut or altered: copy it whole") from None
