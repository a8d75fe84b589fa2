"""The few lines of SCRAM-SHA-256 that PostgreSQL needs: a verifier for a password, and a client's proof. Pure.

Sources: RFC 5802 section 3, RFC 7677; PostgreSQL documentation, "pg_authid" and "SASL Authentication".
"""

import base64
import hashlib
import hmac
import re
from typing import Final

ITERATIONS: Final = 4096  # PostgreSQL's own
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$(\d{1,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)\Z")
_SERVER_FIRST: Final = re.compile(r"r=(?P<nonce>[^,]+),s=(?P<salt>[A-Za-z0-9+/=]+),i=(?P<iterations>\d{1,7})(?:,|\Z)")


class BadExchange(ValueError):
    """The server's part of the exchange is no SCRAM-SHA-256."""


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """What the server keeps instead of the password. The password is ASCII, so that SASLprep changes nothing."""
    salted = _salted(password, salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    server = _hmac(salted, b"Server Key")
    return f"SCRAM-SHA-256${iterations}:{_encoded(salt)}${_encoded(stored)}:{_encoded(server)}"


def fits(password: str, kept: str) -> bool:
    """Whether a verifier is of this password."""
    found = _VERIFIER.match(kept)
    if found is None:
        return False
    return hmac.compare_digest(verifier(password, base64.b64decode(found[2]), int(found[1])), kept)


def client_first(nonce: str) -> str:
    """The client's first message without its header; PostgreSQL takes the user from elsewhere."""
    return f"n=,r={nonce}"


def client_final(password: str, first: str, server_first: str, nonce: str) -> str:
    """The client's answer with its proof.

    Raises:
        BadExchange: the server's message is none, or its nonce does not go on ours.
    """
    found = _SERVER_FIRST.match(server_first)
    if found is None or not found["nonce"].startswith(nonce):
        raise BadExchange("the server's part of the exchange is no SCRAM-SHA-256")
    salted = _salted(password, base64.b64decode(found["salt"]), int(found["iterations"]))
    key = _hmac(salted, b"Client Key")
    without_proof = f"c=biws,r={found['nonce']}"
    words = f"{first},{server_first},{without_proof}".encode()
    signature = _hmac(hashlib.sha256(key).digest(), words)
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    return f"{without_proof},p={_encoded(proof)}"


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(errors="surrogateescape"), salt, iterations)


def _hmac(key: bytes, words: bytes) -> bytes:
    return hmac.new(key, words, hashlib.sha256).digest()


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
