"""The door to this process's own memory: what it need not load, and what it can give back.

Sources: malloc_trim(3); asyncio and hashlib of Python's library, which do without a module of OpenSSL that is missing.
"""

import ctypes
import gc
import sys
from importlib.util import find_spec
from typing import Final

_OPENSSL: Final = ("ssl", "_hashlib")
_OWN_SHA256: Final = ("_sha2", "_sha256")  # Python's from 3.12 on, and before


def keep_openssl_out() -> None:
    """Load no OpenSSL into this process, a tenth of its memory: gRPC has a TLS of its own, children seal and hash bulk.

    To be called before anything imports asyncio or hashlib. Where Python was built without a SHA-256 of its own, as
    some distributions' is, all stays as it is.
    """
    if any(find_spec(name) for name in _OWN_SHA256):
        for name in _OPENSSL:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: its import fails, as if it were missing


def settle() -> None:
    """Give back what starting up has freed, and have the collector leave alone what is left: it lives for good."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
