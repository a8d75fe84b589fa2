"""The door to ending other programs' connections: the kernel aborts a socket as ss -K does, in this thread's namespace.

The peer gets a reset where a rule lets it out; the program gets ECONNABORTED. Leaves to others: which sockets, and who
owns them. Sources: sock_diag(7), linux/inet_diag.h, CONFIG_INET_DIAG_DESTROY.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fireline_agent.hands.netlink import NETLINK_SOCK_DIAG, Netlink, NetlinkError
from fireline_agent.hands.proc_net import SocketEntry
from fireline_agent.hands.sock_diag import SOCK_DIAG_BY_FAMILY, inet_entry

_SOCK_DESTROY: Final = 21
_ALL_STATES: Final = 0xFFFFFFFF
_IDENTITY: Final = slice(4, 52)  # inet_diag_sockid in inet_diag_msg: ports, addresses, interface and cookie
_PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_GONE: Final = frozenset({errno.ENOENT, errno.ESTALE})  # it ended meanwhile, by itself
_CANT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL})  # this kernel was built without it


@dataclass(frozen=True)
class Connection:
    """A socket that has a peer, and what the kernel knows it by."""

    entry: SocketEntry
    _identity: bytes
    _family: int


def connections() -> list[Connection]:
    """Every TCP socket that does not merely listen, and every UDP socket with a fixed peer.

    Raises:
        OSError: this kernel doesn't show its sockets.
    """
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        return [found for found in _dumped(netlink) if found.entry.remote_port and not found.entry.is_listening]


def destroy(wanted: Sequence[Connection]) -> list[Connection] | None:
    """Abort these connections; returns those that were still there. None where this kernel can't do it.

    Raises:
        OSError: we may not.
    """
    ended = []
    with Netlink(NETLINK_SOCK_DIAG) as netlink:
        for connection in wanted:
            body = struct.pack("=4BI", connection._family, _PROTOCOLS[connection.entry.kind], 0, 0, _ALL_STATES)
            try:
                netlink.request(_SOCK_DESTROY, body + connection._identity)
            except NetlinkError as error:
                if error.errno in _CANT:
                    return None
                if error.errno not in _GONE:
                    raise
            else:
                ended.append(connection)
    return ended


def _dumped(netlink: Netlink) -> Iterator[Connection]:
    for kind, protocol in _PROTOCOLS.items():
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in netlink.dump(
                SOCK_DIAG_BY_FAMILY, struct.pack("=4BI48s", family, protocol, 0, 0, _ALL_STATES, b"")
            ):
                yield Connection(inet_entry(kind, message), message[_IDENTITY], message[0])
