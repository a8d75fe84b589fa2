"""The door to this process's own memory. Source: malloc_trim(3)."""

import ctypes
import gc


def settle() -> None:
    """Give back what starting up has freed, and have the collector leave alone what is left: it lives for good."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
