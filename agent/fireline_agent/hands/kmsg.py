"""Reads the kernel's log without ever waiting for more: /dev/kmsg, or syslog(2) where there is no such device.

Leaves to others: what the lines mean.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# The kernel answers EINVAL when a record does not fit; its own limit is CONSOLE_EXT_LOG_MAX = 8192 (printk/internal.h).
_RECORD_BYTES: Final = 16 << 10
_SYSLOG_READ_ALL: Final = 3  # syslog(2)
_SYSLOG_SIZE: Final = 10


def records(path: Path) -> Iterator[bytes]:
    """Yield what is in the log now, a record or some at a time; an empty one stands where older ones were overwritten.

    Raises:
        OSError: the device is not there (FileNotFoundError) or may not be read (PermissionError).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:  # the ring went round while we read; the next read goes on at its new start
                yield b""
                continue
            if not record:
                return
            yield record
    finally:
        os.close(descriptor)


def whole_log(max_bytes: int) -> bytes:
    """The kernel's ring buffer as syslog(2) gives it, the newest `max_bytes` of it.

    Raises:
        OSError: the kernel has no such call or this process may not make it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    size = _checked(libc.klogctl(_SYSLOG_SIZE, None, 0))
    buffer = ctypes.create_string_buffer(min(size, max_bytes) or 1)
    length = _checked(libc.klogctl(_SYSLOG_READ_ALL, buffer, len(buffer)))
    return buffer.raw[:length]


def _checked(result: int) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno() or errno.EPERM
    raise OSError(code, os.strerror(code), "syslog(2)")
