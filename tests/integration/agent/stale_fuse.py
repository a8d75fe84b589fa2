"""A file system whose server takes every request and answers none: what a dead network or FUSE mount does to a host.

Once the server has taken a request, whoever waits for it can't be killed: the kernel holds it in uninterruptible sleep
(fs/fuse/dev.c, request_wait_answer) until the server is gone. Run as a program it is that server.
"""

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_INIT = 26  # linux/fuse.h
_MNT_DETACH = 2


@contextmanager
def stale_mount(point: Path) -> Iterator[None]:
    """Mount it on a folder while the block lasts; who hangs in it is let go at the end.

    Raises:
        OSError: this process may not mount, or there is no /dev/fuse.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"stale", bytes(point), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount of a FUSE file system")
        server = subprocess.Popen([sys.executable, __file__, str(device)], pass_fds=[device])
    finally:
        os.close(device)
    try:
        yield
    finally:
        server.kill()
        server.wait()
        libc.umount2(bytes(point), _MNT_DETACH)


def _serve(device: int) -> None:
    while True:
        request = os.read(device, 1 << 20)
        _, opcode, unique = struct.unpack_from("=IIQ", request)
        if opcode == _INIT:
            body = struct.pack("=IIIIHHIIHHI7I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0, *[0] * 7)
            os.write(device, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
