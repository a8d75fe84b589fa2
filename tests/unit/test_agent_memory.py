"""The agent's process holds what it needs at rest, and no OpenSSL beside gRPC's own TLS."""

import subprocess
import sys

_SERVING = """
from fireline_agent.hands import memory
memory.keep_openssl_out()
import asyncio, hashlib
import fireline_agent.server.serving
print(hashlib.sha256(b"abc").hexdigest())
print([name for name in ("libcrypto", "libssl") if name in open("/proc/self/maps").read()])
"""

_LATE = """
import ssl
from fireline_agent.hands import memory
memory.keep_openssl_out()
print(ssl.create_default_context().verify_mode.name)
import ssl as again
print(again is ssl)
"""


def _said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_an_agent_that_serves_has_no_openssl_loaded() -> None:
    """And its SHA-256 is the right one (FIPS 180-4's example)."""
    digest, loaded = _said(_SERVING)

    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert loaded == "[]"


def test_what_is_loaded_already_stays() -> None:
    """A program that has OpenSSL in use and runs the agent keeps it."""
    assert _said(_LATE) == ["CERT_REQUIRED", "True"]
