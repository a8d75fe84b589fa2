"""Packets and frames by hand, as an intruder would write them: RFC 791, 768, 9293, 8200, 4861 and IEEE 802.1Q."""

import socket
import struct
from dataclasses import dataclass

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_8021Q = 0x0003, 0x0800, 0x0806, 0x8100
ETH_P_EXPERIMENT = 0x88B5  # IEEE 802: local experimental ethertype 1
FIN, SYN, RST, PSH, ACK, URG = (1 << bit for bit in range(6))


@dataclass(frozen=True)
class Ends:
    """Who speaks to whom, in IPv4."""

    source: str
    destination: str
    source_port: int
    port: int


def ip(ends: Ends, protocol: int, payload: bytes, *, offset: int = 0, more: bool = False, number: int = 0) -> bytes:
    """An IPv4 packet, or one fragment of it; the offset is in bytes."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(payload), number, (0x2000 if more else 0) | offset // 8, 64, protocol, 0,
        socket.inet_aton(ends.source), socket.inet_aton(ends.destination),
    )  # fmt: skip
    return head[:10] + _checksum(head) + head[12:] + payload


def udp(ends: Ends, payload: bytes) -> bytes:
    """A datagram, without the checksum that IPv4 allows to leave out."""
    return struct.pack("!HHHH", ends.source_port, ends.port, 8 + len(payload), 0) + payload


def udp6(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """A whole IPv6 packet with a datagram in it; its checksum is not optional."""
    length = 8 + len(payload)
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    body = struct.pack("!HHHH", port, port, length, 0) + payload
    total = _checksum(ends + struct.pack("!II", length, socket.IPPROTO_UDP) + body)
    head = struct.pack("!IHBB", 0x60000000, length, socket.IPPROTO_UDP, 64) + ends
    return head + body[:6] + total + body[8:]


def tcp(ends: Ends, flags: int, payload: bytes = b"") -> bytes:
    """A segment with any flags."""
    head = struct.pack("!HHIIBBHHH", ends.source_port, ends.port, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(ends.source) + socket.inet_aton(ends.destination)
    pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(payload))
    return head[:16] + _checksum(pseudo + head + payload) + head[18:] + payload


def fragments(ends: Ends, protocol: int, payload: bytes, *, size: int, number: int) -> list[bytes]:
    """A packet in pieces of `size` bytes, a multiple of 8."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return [
        ip(ends, protocol, piece, offset=at * size, more=at < len(pieces) - 1, number=number)
        for at, piece in enumerate(pieces)
    ]


def icmp_echo(token: bytes, *, kind: int) -> bytes:
    """An echo request, type 8 in IPv4 and 128 in IPv6, where the kernel writes the checksum (RFC 3542)."""
    body = struct.pack("!BBHHH", kind, 0, 0, 0x4949, 1) + token
    return body[:2] + _checksum(body) + body[4:]


def solicitation(target: str, token: bytes) -> bytes:
    """A neighbour solicitation with the token in an option that nobody knows (type 253, RFC 4727)."""
    option = struct.pack("!BB", 253, 3) + token.ljust(22, b"\0")
    return struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, target) + option


def frame(destination: bytes, source: bytes, ethertype: int, payload: bytes, *, vlan: int = 0) -> bytes:
    """An Ethernet frame, tagged when a VLAN is given."""
    tag = struct.pack("!HH", ETH_P_8021Q, vlan) if vlan else b""
    return (destination + source + tag + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


def dhcp_request(token: bytes) -> bytes:
    """A DHCPREQUEST with the token as the client's hardware address (RFC 2131)."""
    head = struct.pack("!BBBBIHH16x", 1, 1, 6, 0, 0x4649, 0, 0)
    return head + token[:16].ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63" + b"\x35\x01\x03\xff"


def _checksum(data: bytes) -> bytes:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
