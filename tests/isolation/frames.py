"""Raw frames between the host's wire and the outsider's, past sockets and, so an intruder hopes, past the firewall."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.isolation.packets import ETH_P_ALL, Ends, frame, ip, udp
from tests.isolation.passing import Seen, one_way
from tests.isolation.world import World
from tests.lab import Vantage

_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h


@dataclass(frozen=True)
class Wire:
    """Two ends of one wire, and their links' names."""

    near: Vantage
    far: Vantage
    near_link: str = "eth0"
    far_link: str = "eth0"

    def turned(self) -> "Wire":
        """The same, the other way."""
        return Wire(self.far, self.near, self.far_link, self.near_link)


@dataclass(frozen=True)
class Raw:
    """What a raw frame is made of.

    `claim` is what the sender says the frame is, which the kernel believes (packet(7), sll_protocol); `tap` is the
    protocol that the receiver asks for: only what asks for all is served before netfilter's ingress hook.
    """

    ethertype: int
    claim: int | None = None
    tap: int = ETH_P_ALL
    vlan: int = 0
    bypass: bool = False
    is_ip: bool = False
    offset: int = 0  # of an IPv4 fragment; 8 puts the word of an ARP request where ARP has its operation
    broadcast: bool = False


def raw_frame(wire: Callable[[World], Wire], raw: Raw) -> Callable[[World, float], Seen]:
    """A probe that sends such frames from one end of a wire to the other."""

    def look(world: World, patience_s: float) -> Seen:
        return send_raw(wire(world), raw, patience_s)

    return look


def send_raw(wire: Wire, raw: Raw, patience_s: float) -> Seen:
    """Send such frames from the near end of a wire to the far one."""
    target = b"\xff" * 6 if raw.broadcast else hardware(wire.far, wire.far_link)
    source = hardware(wire.near, wire.near_link)
    ends = Ends(wire.near.address, wire.far.address, 5353, 5353)
    to = (wire.near_link, raw.ethertype if raw.claim is None else raw.claim)

    def speak(token: bytes) -> None:
        payload = ip(ends, socket.IPPROTO_UDP, udp(ends, token), offset=raw.offset) if raw.is_ip else token
        sender.sendto(frame(target, source, raw.ethertype, payload, vlan=raw.vlan), to)

    with (
        packet_socket(wire.near, wire.near_link, 0) as sender,
        packet_socket(wire.far, wire.far_link, raw.tap) as receiver,
    ):
        sender.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, int(raw.bypass))
        return one_way(speak, receiver, patience_s)


def hardware(place: Vantage, link: str = "eth0") -> bytes:
    """The hardware address of a place's link."""
    [shown] = json.loads(place.run(["ip", "-j", "link", "show", link]))
    return bytes.fromhex(shown["address"].replace(":", ""))


@contextmanager
def packet_socket(place: Vantage, link: str, protocol: int) -> Iterator[socket.socket]:
    """A packet socket on a link; protocol 0 receives nothing."""
    with place.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
        made.bind((link, protocol))
        yield made
