"""Two ways around every hook of netfilter, open to whoever is root of the host's network: what no ruleset can close.

They are probed so that the limits that docs/isolation.md states stay true ones, and so that a kernel that closes one
of them is noticed. What an isolation owes here is to say that such a way is in use.
"""

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from fireline_agent.hands.namespaces import entered
from tests.isolation.frames import hardware, packet_socket
from tests.isolation.packets import ETH_P_ALL, ETH_P_EXPERIMENT, frame
from tests.isolation.passing import Seen, one_way
from tests.isolation.world import World
from tests.lab import Vantage

_libc = ctypes.CDLL(None, use_errno=True)

# linux/if_xdp.h
_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING = 1, 3, 4, 5, 6
_PGOFF_TX_RING = 0x80000000
_COPY = 1 << 1
_FRAME_BYTES, _FRAMES = 4096, 16


def by_tc_redirect(world: World, patience_s: float) -> Seen:
    """Frames that a filter on the loopback device redirects to the wire."""
    target, source = hardware(world.outsider), hardware(world.host)
    with (
        redirecting(world.host),
        packet_socket(world.host, "lo", 0) as sender,
        packet_socket(world.outsider, "eth0", ETH_P_ALL) as receiver,
    ):
        to = ("lo", ETH_P_EXPERIMENT)
        return one_way(
            lambda token: sender.sendto(frame(target, source, ETH_P_EXPERIMENT, token), to), receiver, patience_s
        )


@contextmanager
def redirecting(place: Vantage) -> Iterator[None]:
    """Let tc redirect frames of an unknown type from the loopback device to the wire, while the block lasts.

    What tc redirects skips netfilter's egress hook by design (nf_skip_egress in net/core/dev.c). Needs CAP_NET_ADMIN.
    """
    match = ["protocol", f"{ETH_P_EXPERIMENT:#x}", "u32", "match", "u8", "0", "0"]
    action = ["action", "mirred", "egress", "redirect", "dev", "eth0"]
    place.run(["tc", "qdisc", "add", "dev", "lo", "clsact"])
    try:
        place.run(["tc", "filter", "add", "dev", "lo", "egress", *match, *action])
        yield
    finally:
        place.run(["tc", "qdisc", "del", "dev", "lo", "clsact"])


def by_xdp_socket(world: World, patience_s: float) -> Seen:
    """A frame through an AF_XDP socket, which hands it to the driver (__xsk_generic_xmit). Needs CAP_NET_RAW."""
    target, source = hardware(world.outsider), hardware(world.host)
    with (
        closing(XdpSocket(world.host, "eth0")) as sender,
        packet_socket(world.outsider, "eth0", ETH_P_ALL) as receiver,
    ):
        return one_way(lambda t: sender.send(frame(target, source, ETH_P_EXPERIMENT, t)), receiver, patience_s)


class XdpSocket:
    """An AF_XDP socket that only sends, by copying (Documentation/networking/af_xdp.rst)."""

    def __init__(self, place: Vantage, link: str) -> None:
        with ExitStack() as stack:
            with entered(str(place.netns)):
                self._socket = stack.enter_context(socket.socket(_AF_XDP, socket.SOCK_RAW, 0))
                index = socket.if_nametoindex(link)
            self._memory = stack.enter_context(mmap.mmap(-1, _FRAMES * _FRAME_BYTES))
            start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            region = struct.pack("QQIIII", start, _FRAMES * _FRAME_BYTES, _FRAME_BYTES, 0, 0, 0)
            self._socket.setsockopt(_SOL_XDP, _UMEM_REG, region)
            for ring in (_FILL_RING, _COMPLETION_RING, _TX_RING):
                self._socket.setsockopt(_SOL_XDP, ring, struct.pack("I", _FRAMES))
            offsets = struct.unpack("16Q", self._socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128))
            self._producer, _, self._descriptors, _ = offsets[4:8]
            size = self._descriptors + 16 * _FRAMES
            self._ring = stack.enter_context(mmap.mmap(self._socket.fileno(), size, offset=_PGOFF_TX_RING))
            place_of = struct.pack("HHIII", _AF_XDP, _COPY, index, 0, 0)
            if _libc.bind(self._socket.fileno(), place_of, len(place_of)) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"AF_XDP bind to {link}: {os.strerror(number)}")
            self._stack = stack.pop_all()

    def send(self, data: bytes) -> None:
        """Put one frame on the wire."""
        [number] = struct.unpack_from("I", self._ring, self._producer)
        at = number % _FRAMES
        self._memory[at * _FRAME_BYTES : at * _FRAME_BYTES + len(data)] = data
        struct.pack_into("QII", self._ring, self._descriptors + 16 * at, at * _FRAME_BYTES, len(data), 0)
        struct.pack_into("I", self._ring, self._producer, number + 1)
        _libc.sendto(self._socket.fileno(), None, 0, socket.MSG_DONTWAIT, None, 0)

    def close(self) -> None:
        """Give the queue of the link back."""
        self._stack.close()
