"""The door to /proc/net: the sockets of one network namespace as tables of text.

The second choice: it shows less than sock_diag and is slower, but it is there on every kernel, and a process's own
/proc/PID/net needs no entering. Leaves to others: sock_diag, which process owns a socket.

Sources: proc_pid_net(5), Documentation/networking/proc_net_tcp.rst, net/sctp/proc.c of the kernel.
"""

import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

# linux/tcp.h; datagram sockets use CLOSE for "bound, no fixed peer".
STATES: Final = (
    "UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE",
)  # fmt: skip
_NOTHING: Final[Mapping[str, Any]] = {}
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix
_UNIX_STATES: Final = {1: "CLOSE", 2: "SYN_SENT", 3: "ESTABLISHED"}  # linux/net.h socket_state, in our words


class SocketEntry(NamedTuple):
    """One socket. `kind` is tcp, udp, udplite, raw, sctp, unix, packet or netlink; `more` is what only its kind has."""

    kind: str
    state: str
    inode: int
    uid: int | None = None
    local: str = ""
    local_port: int = 0
    remote: str = ""
    remote_port: int = 0
    interface: int = 0
    name: bytes = b""
    more: Mapping[str, Any] = _NOTHING

    @property
    def is_listening(self) -> bool:
        """Whether it waits for whoever comes over the network: no fixed peer."""
        if self.kind in ("tcp", "sctp"):
            return self.state == "LISTEN"
        return self.kind in ("udp", "udplite") and self.state == "CLOSE" and self.local_port != 0


def state_name(number: int) -> str:
    """The word for a socket's state number."""
    return STATES[number] if number < len(STATES) else str(number)


def table(kind: str, net: Path) -> Iterator[SocketEntry]:
    """The sockets of one kind. A table that the kernel doesn't have is empty; lines that don't fit are passed over.

    Raises:
        OSError: the first table of this kind isn't there or may not be read.
    """
    for number, (name, parse) in enumerate(_TABLES[kind]):
        try:
            lines = (net / name).read_bytes().splitlines()[1:]
        except FileNotFoundError:
            if number == 0:
                raise
            continue  # the IPv6 half of a kernel without IPv6
        for line in lines:
            try:
                yield parse(kind, line)
            except (IndexError, ValueError):
                continue


def _inet(kind: str, line: bytes) -> SocketEntry:
    fields = line.split()
    local, local_port = _address(fields[1])
    remote, remote_port = _address(fields[2])
    return SocketEntry(
        kind=kind,
        state=state_name(int(fields[3], 16)),
        inode=int(fields[9]),
        uid=int(fields[7]),
        local=local,
        local_port=local_port,
        remote=remote,
        remote_port=remote_port,
    )


def _address(field: bytes) -> tuple[str, int]:
    """The kernel prints the address as 32-bit words in the machine's byte order."""
    address, _, port = field.partition(b":")
    raw = bytes.fromhex(address.decode())
    if sys.byteorder == "little":
        raw = struct.pack(f">{len(raw) // 4}I", *struct.unpack(f"<{len(raw) // 4}I", raw))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def _unix(kind: str, line: bytes) -> SocketEntry:
    fields = line.split(None, 7)
    accepts = int(fields[3], 16) & _ACCEPTS
    state = "LISTEN" if accepts else _UNIX_STATES.get(int(fields[5], 16), "UNKNOWN")
    name = fields[7] if len(fields) > 7 else b""
    return SocketEntry(kind, state, int(fields[6]), name=name, more={"type": int(fields[4], 16)})


def _packet(kind: str, line: bytes) -> SocketEntry:
    fields = line.split()
    more = {"type": int(fields[2]), "protocol": int(fields[3], 16)}
    return SocketEntry(kind, "CLOSE", int(fields[8]), uid=int(fields[7]), interface=int(fields[4]), more=more)


def _netlink(kind: str, line: bytes) -> SocketEntry:
    fields = line.split()
    more = {"protocol": int(fields[1]), "port": int(fields[2]), "groups": fields[3].decode()}
    return SocketEntry(kind, "CLOSE", int(fields[9]), more=more)


def _sctp_endpoint(kind: str, line: bytes) -> SocketEntry:
    fields = line.split()
    local = b" ".join(fields[8:]).decode()
    return SocketEntry(
        kind, state_name(int(fields[3])), int(fields[7]), uid=int(fields[6]), local=local, local_port=int(fields[5])
    )


def _sctp_association(kind: str, line: bytes) -> SocketEntry:
    fields = line.split()
    arrow = fields.index(b"<->")
    return SocketEntry(
        kind=kind,
        state="ESTABLISHED",
        inode=int(fields[10]),
        uid=int(fields[9]),
        local=b" ".join(fields[13:arrow]).decode(),
        local_port=int(fields[11]),
        remote=fields[arrow + 1].decode(),
        remote_port=int(fields[12]),
    )


_TABLES: Final[Mapping[str, tuple[tuple[str, Callable[[str, bytes], SocketEntry]], ...]]] = {
    "tcp": (("tcp", _inet), ("tcp6", _inet)),
    "udp": (("udp", _inet), ("udp6", _inet)),
    "udplite": (("udplite", _inet), ("udplite6", _inet)),
    "raw": (("raw", _inet), ("raw6", _inet)),
    "sctp": (("sctp/eps", _sctp_endpoint), ("sctp/assocs", _sctp_association)),
    "unix": (("unix", _unix),),
    "packet": (("packet", _packet),),
    "netlink": (("netlink", _netlink),),
}
KINDS: Final = tuple(_TABLES)
