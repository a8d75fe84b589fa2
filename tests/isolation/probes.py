"""What an intruder or the world could try: each a function that says, by sending and receiving, whether it works."""

import socket
from collections.abc import Callable
from operator import attrgetter

from tests.isolation import packets
from tests.isolation.passing import V4, V6, Seen, address, one_way, packet, tcp, udp
from tests.isolation.world import AGENT_PORT, Session, World
from tests.lab import Vantage

Look = Callable[[World, float], Seen]
Who = Callable[[World], Vantage]

HOST, OUTSIDER, CONTROLLER = attrgetter("host"), attrgetter("outsider"), attrgetter("controller")
ETH1, BACKYARD, GUEST = attrgetter("eth1"), attrgetter("backyard"), attrgetter("guest")
ONE, TWO = attrgetter("one"), attrgetter("two")

NOBODY = 65534
_IP_RECORD_ROUTE = b"\x07\x07\x04\0\0\0\0\0"  # RFC 791, with one slot
_PADDED_HEADER = b"\0\0\x01\x04\0\0\0\0"  # RFC 8200: an extension header of padding


def tcp_between(client: Who, server: Who, family: int, *, port: int = 0, from_port: int = 0, uid: int = 0) -> Look:
    """A new connection."""

    def look(world: World, patience_s: float) -> Seen:
        return tcp(client(world), server(world), family, patience_s, port=port, from_port=from_port, uid=uid)

    return look


def udp_between(
    client: Who, server: Who, family: int, *, port: int = 0, from_port: int = 0, uid: int = 0, text: bytes = b""
) -> Look:
    """A datagram and its answer."""

    def look(world: World, patience_s: float) -> Seen:
        return udp(client(world), server(world), family, patience_s, port=port, from_port=from_port, uid=uid, text=text)

    return look


def session(name: str, *, outwards: bool) -> Look:
    """A connection that stood before the isolation, one way."""

    def look(world: World, patience_s: float) -> Seen:
        found: Session = world.sessions[name]
        speaker, listener = (found.near, found.far) if outwards else (found.far, found.near)
        speaker.settimeout(0.1)
        listener.settimeout(0.1)
        return one_way(speaker.sendall, listener, patience_s)

    return look


def ping(source: Who, target: Who, family: int) -> Look:
    """An ICMP echo."""

    def look(world: World, patience_s: float) -> Seen:
        protocol = socket.IPPROTO_ICMP if family == V4 else socket.IPPROTO_ICMPV6
        kind = 8 if family == V4 else 128
        there = (address(target(world), family), 0)
        arrived = False
        with (
            source(world).socket(family, socket.SOCK_RAW, protocol) as asking,
            target(world).socket(family, socket.SOCK_RAW, protocol) as tap,
        ):
            seen = one_way(lambda t: asking.sendto(packets.icmp_echo(t, kind=kind), there), asking, patience_s)
            # Any echo request that came in, whoever sent it: nobody else asks.
            arrived = packet(tap, lambda data: data[20 if family == V4 else 0] == kind, 0) is not None
        return Seen.PARTLY if seen is Seen.CLOSED and arrived else seen

    return look


def protocol(source: Who, target: Who, number: int, family: int = V4) -> Look:
    """A packet of a rare protocol over IP."""

    def look(world: World, patience_s: float) -> Seen:
        with (
            source(world).socket(family, socket.SOCK_RAW, number) as speaker,
            target(world).socket(family, socket.SOCK_RAW, number) as receiver,
        ):
            there = (address(target(world), family), 0)
            return one_way(lambda token: speaker.sendto(bytes(16) + token, there), receiver, patience_s)

    return look


def segment(source: Who, target: Who, flags: int, *, from_port: int = 4242, uid: int = 0, size: int = 1400) -> Look:
    """A TCP segment written by hand, in fragments when it is longer than `size`."""

    def look(world: World, patience_s: float) -> Seen:
        ends = packets.Ends(source(world).address, target(world).address, from_port, AGENT_PORT + 1)

        def speak(token: bytes) -> None:
            body = packets.tcp(ends, flags, token)
            number = int.from_bytes(token[:2])
            for piece in packets.fragments(ends, socket.IPPROTO_TCP, body, size=size, number=number):
                speaker.sendto(piece, (ends.destination, 0))

        with (
            source(world).socket(V4, socket.SOCK_RAW, socket.IPPROTO_RAW, uid=uid) as speaker,
            target(world).socket(V4, socket.SOCK_RAW, socket.IPPROTO_TCP) as receiver,
        ):
            return one_way(speak, receiver, patience_s)

    return look


def tiny_fragments(source: Who, target: Who) -> Look:
    """A datagram in fragments of eight bytes: the ports are in the first, what is said in the others."""

    def look(world: World, patience_s: float) -> Seen:
        with (
            source(world).socket(V4, socket.SOCK_RAW, socket.IPPROTO_RAW) as speaker,
            target(world).socket(V4, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind((target(world).address, 0))
            ends = packets.Ends(source(world).address, target(world).address, 4243, receiver.getsockname()[1])

            def speak(token: bytes) -> None:
                number = int.from_bytes(token[:2])
                datagram = packets.udp(ends, token)
                for piece in packets.fragments(ends, socket.IPPROTO_UDP, datagram, size=8, number=number):
                    speaker.sendto(piece, (ends.destination, 0))

            return one_way(speak, receiver, patience_s)

    return look


def with_option(source: Who, target: Who, level: int, option: int) -> Look:
    """A datagram with options or extension headers between IP's header and its own."""

    def look(world: World, patience_s: float) -> Seen:
        family = V4 if level == socket.IPPROTO_IP else V6
        with (
            source(world).socket(family, socket.SOCK_DGRAM) as speaker,
            target(world).socket(family, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.bind((address(target(world), family), 0))
            speaker.bind((address(source(world), family), 0))
            speaker.setsockopt(level, option, _IP_RECORD_ROUTE if family == V4 else _PADDED_HEADER)
            to = receiver.getsockname()[:2]
            return one_way(lambda token: speaker.sendto(token, to), receiver, patience_s)

    return look


def solicitation(source: Who, target: Who) -> Look:
    """What looks like neighbour discovery and is none: a hop limit below 255 (RFC 4861 section 7.1.1)."""

    def look(world: World, patience_s: float) -> Seen:
        there = target(world).address6
        with (
            source(world).socket(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as speaker,
            target(world).socket(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as receiver,
        ):
            speaker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 64)
            return one_way(
                lambda token: speaker.sendto(packets.solicitation(there, token), (there, 0)), receiver, patience_s
            )

    return look
