"""A wire with delay, jitter and loss: frames between a switch port and a TAP device, held back in user space.

Run by wires.py inside the switch's network namespace, because sch_netem is missing from many small kernels and this
works on all: `python relay.py PORT TAP DELAY_S JITTER_S LOSS`. Offload headers (virtio_net_hdr) go along with every
frame, so that unfinished checksums and 64 KiB segments of a veth pass unharmed. Imports nothing of the lab.
"""

import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable

# linux/if_tun.h and linux/if_packet.h; the socket module doesn't name them.
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_ETH_P_ALL = 0x0003
_FRAME_BYTES = 65536 + 64  # the largest segment with its headers
_BURST = 64  # frames read from one side before the other gets its turn


class Wire:
    """Both directions of one wire. Frames leave when they are due, so jitter can reorder, as netem does."""

    def __init__(self, delay_s: float, jitter_s: float, loss: float) -> None:
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss
        self._due: list[tuple[float, int, Callable[[bytes], object], bytes]] = []
        self._count = 0

    def carry(self, read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
        """Take what waits on one side, and plan when it reaches the other."""
        for _ in range(_BURST):
            try:
                frame = read()
            except (BlockingIOError, OSError):
                return
            if random.random() >= self._loss:
                self._count += 1
                late = self._delay_s + random.uniform(-self._jitter_s, self._jitter_s)
                heapq.heappush(self._due, (time.monotonic() + max(0.0, late), self._count, write, frame))

    def deliver(self) -> float | None:
        """Send what is due; the seconds until the next frame, or None when none waits."""
        while self._due:
            wait_s = self._due[0][0] - time.monotonic()
            if wait_s > 0:
                return wait_s
            _, _, write, frame = heapq.heappop(self._due)
            try:
                write(frame)
            except OSError:
                continue  # a full queue or a link that is down loses frames, as on a real wire
        return None


def open_port(name: str) -> socket.socket:
    """A packet socket on a switch port."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.bind((name, _ETH_P_ALL))
    port.setblocking(False)
    return port


def open_tap(name: str) -> int:
    """A TAP device, which vanishes when this process ends."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    return tap


def main() -> None:
    """Carry frames until killed."""
    port, tap = open_port(sys.argv[1]), open_tap(sys.argv[2])
    wire = Wire(*map(float, sys.argv[3:6]))
    ways = selectors.DefaultSelector()
    ways.register(port, selectors.EVENT_READ, (lambda: port.recv(_FRAME_BYTES), lambda frame: os.write(tap, frame)))
    ways.register(tap, selectors.EVENT_READ, (lambda: os.read(tap, _FRAME_BYTES), port.send))
    os.write(3, b"ready\n")  # see processes.launch
    os.close(3)
    while True:
        for key, _ in ways.select(wire.deliver()):
            wire.carry(*key.data)


if __name__ == "__main__":
    main()
