"""The door to the kernel's sockets: every socket of the network namespace this thread is in.

Asks through sock_diag; where the kernel was built without the part for a kind, reads /proc/net instead, which shows
less. Leaves to others: which process owns a socket, what stands out.

Sources: sock_diag(7), packet(7), linux/inet_diag.h, linux/unix_diag.h, linux/packet_diag.h, linux/netlink_diag.h.
"""

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import proc_net
from fireline_agent.hands.netlink import NETLINK_SOCK_DIAG, Netlink, NetlinkError, attributes, unsigned
from fireline_agent.hands.proc_net import SocketEntry, state_name

OWN_TABLES: Final = Path("/proc/thread-self/net")
SOCK_DIAG_BY_FAMILY: Final = 20
IPPROTO_SCTP: Final = 132
IPPROTO_UDPLITE: Final = 136

_ALL_STATES: Final = 0xFFFFFFFF
_INET: Final = struct.Struct("=4B4s16s16sI8s5I")  # inet_diag_msg; the ports are in network byte order
_PORTS: Final = struct.Struct(">2H")
_UNIX: Final = struct.Struct("=4BI8s")
_PACKET: Final = struct.Struct("=BBHI8s")
_NETLINK: Final = struct.Struct("=4B4I8s")
_UNIX_SHOW: Final = 0x1 | 0x2 | 0x4 | 0x40  # name, file, peer, uid (since Linux 5.3)
_PACKET_SHOW: Final = 0x1 | 0x20  # info, filter
_NETLINK_SHOW: Final = 0x2  # groups
_NETLINK_PROTOCOL_ALL: Final = 255


@dataclass
class Sockets:
    """The sockets of one namespace; `methods` says how each kind was read, or why it wasn't."""

    entries: list[SocketEntry] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)
    was_interrupted: bool = False


def sockets(net: Path = OWN_TABLES) -> Sockets:
    """Every socket of this thread's network namespace; `net` serves the kinds that sock_diag doesn't.

    Raises:
        OSError: netlink sockets can't be made here.
    """
    result = Sockets()
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        for kind, ask in _ASKS.items():
            try:
                result.entries += list(ask(netlink))  # all of a kind or nothing
                result.methods[kind] = "sock_diag"
            except NetlinkError:
                _from_table(result, kind, net)
        result.was_interrupted = netlink.was_interrupted
    return result


def from_tables(net: Path) -> Sockets:
    """The same from tables alone, for a namespace that can't be entered."""
    result = Sockets()
    for kind in proc_net.KINDS:
        _from_table(result, kind, net)
    return result


def _from_table(result: Sockets, kind: str, net: Path) -> None:
    try:
        result.entries += proc_net.table(kind, net)
        result.methods[kind] = "procfs"
    except FileNotFoundError:
        result.methods[kind] = "absent"
    except OSError as error:
        result.methods[kind] = f"unreadable: {error.strerror}"


def _inet(netlink: Netlink, *, kind: str, protocol: int) -> Iterator[SocketEntry]:
    for family in (socket.AF_INET, socket.AF_INET6):
        body = struct.pack("=4BI48s", family, protocol, 0, 0, _ALL_STATES, b"")
        for message in netlink.dump(SOCK_DIAG_BY_FAMILY, body):
            yield inet_entry(kind, message)


def inet_entry(kind: str, message: bytes) -> SocketEntry:
    """The socket that an inet_diag_msg describes."""
    family, state, _, _, ports, source, destination, interface, _, _, received, queued, uid, inode = _INET.unpack_from(
        message
    )
    width = 4 if family == socket.AF_INET else 16
    local_port, remote_port = _PORTS.unpack(ports)
    return SocketEntry(
        kind,
        state_name(state),
        inode,
        uid,
        socket.inet_ntop(family, source[:width]),
        local_port,
        socket.inet_ntop(family, destination[:width]),
        remote_port,
        interface,
        more={"receive_queue": received, "send_queue": queued} if received or queued else {},
    )


def _unix(netlink: Netlink) -> Iterator[SocketEntry]:
    body = struct.pack("=BBHIII8s", socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _UNIX_SHOW, b"")
    for message in netlink.dump(SOCK_DIAG_BY_FAMILY, body):
        _, kind, state, _, inode, _ = _UNIX.unpack_from(message)
        found = attributes(message, _UNIX.size)
        more: dict[str, Any] = {"type": kind}
        if 2 in found:  # UNIX_DIAG_PEER
            more["peer_inode"] = unsigned(found[2])
        if 1 in found:  # UNIX_DIAG_VFS: what the name's file was when it was bound
            more["file_inode"], more["file_device"] = struct.unpack("=II", found[1][:8])
        raw = found.get(0, b"")  # UNIX_DIAG_NAME; a zero first means abstract, shown as ss(8) does
        name = b"@" + raw[1:] if raw.startswith(b"\0") else raw.rstrip(b"\0")
        yield SocketEntry("unix", state_name(state), inode, unsigned(found.get(7)), name=name, more=more)


def _packet(netlink: Netlink) -> Iterator[SocketEntry]:
    body = struct.pack("=BBHII8s", socket.AF_PACKET, 0, 0, 0, _PACKET_SHOW, b"")
    for message in netlink.dump(SOCK_DIAG_BY_FAMILY, body):
        _, kind, protocol, inode, _ = _PACKET.unpack_from(message)
        found = attributes(message, _PACKET.size)
        interface = unsigned(found.get(0, b"")[:4]) or 0  # PACKET_DIAG_INFO starts with the interface
        more: dict[str, Any] = {"type": kind, "protocol": protocol}
        if found.get(7):  # PACKET_DIAG_FILTER: a classic BPF program, a favourite of backdoors
            more["filter_hex"] = found[7].hex()
        yield SocketEntry("packet", "CLOSE", inode, unsigned(found.get(5)), interface=interface, more=more)


def _netlink(netlink: Netlink) -> Iterator[SocketEntry]:
    body = struct.pack("=BBHII8s", socket.AF_NETLINK, _NETLINK_PROTOCOL_ALL, 0, 0, _NETLINK_SHOW, b"")
    for message in netlink.dump(SOCK_DIAG_BY_FAMILY, body):
        _, kind, protocol, state, port, _, _, inode, _ = _NETLINK.unpack_from(message)
        more = {"type": kind, "protocol": protocol, "port": port}
        yield SocketEntry("netlink", state_name(state), inode, more=more)


_ASKS: Final[Mapping[str, Callable[[Netlink], Iterator[SocketEntry]]]] = {
    "tcp": partial(_inet, kind="tcp", protocol=socket.IPPROTO_TCP),
    "udp": partial(_inet, kind="udp", protocol=socket.IPPROTO_UDP),
    "udplite": partial(_inet, kind="udplite", protocol=IPPROTO_UDPLITE),
    "raw": partial(_inet, kind="raw", protocol=socket.IPPROTO_RAW),
    "sctp": partial(_inet, kind="sctp", protocol=IPPROTO_SCTP),
    "unix": _unix,
    "packet": _packet,
    "netlink": _netlink,
}
