"""Probes of what a wire carries beside conversations: neighbours, renewals, groups, tunnels, the host itself."""

import fcntl
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

from tests.isolation import packets
from tests.isolation.passing import V4, V6, Seen, address, one_way, passes, tcp
from tests.isolation.probes import HOST, Look, Who
from tests.isolation.world import World
from tests.lab import Vantage, eventually
from tests.lab.errors import LabError

_SIOCGIFINDEX = 0x8933
_MULTICAST, _MULTICAST6 = "224.0.0.251", "ff02::fb"


def resolves(who: Who, whom: Who, family: int) -> Look:
    """Whether a place finds another's hardware address anew: ARP, or neighbour discovery."""

    def look(world: World, patience_s: float) -> Seen:
        place, there = who(world), address(whom(world), family)
        place.run(["ip", "neigh", "flush", "to", there, "dev", "eth0"])

        def found() -> bool:
            speaker.sendto(b"", (there, 9))
            return "lladdr" in place.run(["ip", "neigh", "show", "to", there, "dev", "eth0"])

        with place.socket(family, socket.SOCK_DGRAM) as speaker:
            try:
                eventually(found, within_s=patience_s, what=f"{there} to be resolved", every_s=0.05)
            except LabError:
                return Seen.CLOSED
        return Seen.OPEN

    return look


def dhcp_broadcast(world: World, patience_s: float) -> Seen:
    """A renewal to everybody, answered to everybody."""
    with ExitStack() as stack:
        client, server = (stack.enter_context(p.socket(V4, socket.SOCK_DGRAM)) for p in (world.host, world.outsider))
        for made, port in ((client, 68), (server, 67)):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            made.bind(("", port))

        def speak(speaker: socket.socket, port: int) -> Callable[[bytes], object]:
            return lambda token: speaker.sendto(packets.dhcp_request(token), ("255.255.255.255", port))

        if not passes(speak(client, 67), server, patience_s):
            return Seen.CLOSED
        return Seen.OPEN if passes(speak(server, 68), client, patience_s) else Seen.PARTLY


def multicast(source: Who, target: Who, family: int) -> Look:
    """A datagram to a group that the target joined."""

    def look(world: World, patience_s: float) -> Seen:
        group = _MULTICAST if family == V4 else _MULTICAST6
        with (
            source(world).socket(family, socket.SOCK_DGRAM) as speaker,
            target(world).socket(family, socket.SOCK_DGRAM) as receiver,
        ):
            for made in (speaker, receiver):
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            receiver.bind(("", 0))
            _join(receiver, group, family)
            to = (group, receiver.getsockname()[1])
            return one_way(lambda token: speaker.sendto(token, to), receiver, patience_s)

    return look


def _join(receiver: socket.socket, group: str, family: int) -> None:
    asked = fcntl.ioctl(receiver, _SIOCGIFINDEX, struct.pack("16s24x", b"eth0"))
    index = struct.unpack_from("i", asked, 16)[0]
    if family == V4:
        request = struct.pack("4s4si", socket.inet_aton(group), bytes(4), index)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        request = struct.pack("16si", socket.inet_pton(V6, group), index)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def broadcast(source: Who, target: Who) -> Look:
    """A datagram to everybody on the wire."""

    def look(world: World, patience_s: float) -> Seen:
        with (
            source(world).socket(V4, socket.SOCK_DGRAM) as speaker,
            target(world).socket(V4, socket.SOCK_DGRAM) as receiver,
        ):
            speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            receiver.bind(("", 0))
            to = ("255.255.255.255", receiver.getsockname()[1])
            return one_way(lambda token: speaker.sendto(token, to), receiver, patience_s)

    return look


def tunnel_out(family: int) -> Look:
    """What the host sends into its tunnel."""

    def look(world: World, patience_s: float) -> Seen:
        far = world.tunnel.far if family == V4 else world.tunnel.far6
        with world.host.socket(family, socket.SOCK_DGRAM) as speaker:
            return one_way(lambda token: speaker.sendto(token, (far, 9)), world.tunnel, patience_s)

    return look


def tunnel_in(family: int) -> Look:
    """What comes out of its tunnel."""

    def look(world: World, patience_s: float) -> Seen:
        tunnel = world.tunnel
        with world.host.socket(family, socket.SOCK_DGRAM) as receiver:
            receiver.bind((tunnel.near if family == V4 else tunnel.near6, 0))
            port = receiver.getsockname()[1]
            ends = packets.Ends(tunnel.far, tunnel.near, port, port)

            def speak(token: bytes) -> None:
                if family == V4:
                    tunnel.send(packets.ip(ends, socket.IPPROTO_UDP, packets.udp(ends, token)))
                else:
                    tunnel.send(packets.udp6(tunnel.far6, tunnel.near6, port, token))

            return one_way(speak, receiver, patience_s)

    return look


def loopback(address_of: str, family: int, who: Who = HOST) -> Look:
    """A connection of a place with itself: at its `own` address, or at the `loopback` one."""

    def look(world: World, patience_s: float) -> Seen:
        place = who(world)
        here = address(place, family)
        if address_of == "loopback":
            here = "127.0.0.1" if family == V4 else "::1"
        inside = Vantage(f"{place.name} itself", place.netns, here, here)
        return tcp(inside, inside, family, patience_s)

    return look
