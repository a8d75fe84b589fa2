"""End the connections that an isolation closes, and say whose they were.

The rules are in force by now, so nothing of it hurries. Loopback stays, and so does what the rules let through.
Leaves to others: the kernel's calls (hands.sock_destroy, hands.conntrack).
"""

import ipaddress
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.hands import conntrack, namespaces, procfs
from fireline_agent.hands.proc_net import SocketEntry
from fireline_agent.hands.sock_destroy import connections, destroy
from fireline_agent.isolation.means import Harvest
from fireline_agent.isolation.model import Cut, Identity
from fireline_wire.isolation import IsolationOrder

log = logging.getLogger(__name__)

_PROC: Final = Path("/proc")
_SOCKET: Final = b"socket:["


@dataclass(frozen=True)
class _Owner:
    pid: int
    process: str
    container: str


_NOBODY: Final = _Owner(0, "", "")


def cut(order: IsolationOrder, identity: Identity | None, places: Iterable[str] = ()) -> Harvest:
    """End what the order closes, here and in every network namespace of this host's containers, or in these only.

    `identity` is None where nobody's agent lives.
    """
    harvest = Harvest()
    owners: dict[int, _Owner] = {}
    for path in places or (_places() if identity else ()):
        try:
            with namespaces.entered(path):
                doomed = [c for c in connections() if is_doomed(c.entry, order, identity if path == _HERE else None)]
                if doomed and not owners:
                    owners = dict(_owners())
                ended = destroy(doomed)
                harvest.cut += [_told(connection.entry, owners) for connection in ended or ()]
                if ended is None:
                    harvest.lacks.append("connections: this kernel can't end them (CONFIG_INET_DIAG_DESTROY)")
                harvest.flows += conntrack.forget_all()
        except OSError as error:
            log.warning("connections could not be cut", extra={"namespace": path, "why": str(error)})
            harvest.lacks.append(f"connections in {path}: {error.strerror or error}")
    return harvest


_HERE: Final = "/proc/thread-self/ns/net"


def _places() -> Iterator[str]:
    """Where connections are cut: an agent that is not in the host's own namespace has no business in others."""
    yield _HERE
    here = Path(_HERE).stat().st_ino
    if namespaces.host_inode(_PROC) == here:
        yield from (found.path for inode, found in namespaces.network_namespaces(_PROC).items() if inode != here)


def is_doomed(entry: SocketEntry, order: IsolationOrder, identity: Identity | None) -> bool:
    """Whether the order closes the connection; `identity` is the agent's where it serves in this namespace."""
    remote = plain_address(entry.remote)
    if remote.is_loopback or remote == plain_address(entry.local) or remote.is_unspecified:
        return False
    if order.scope.kind == "peer":
        return _is_peer(entry, remote, order.scope.value)
    if identity is None:
        # The host's order opens nothing for containers; a container's opens its allowances in it.
        return order.scope.kind == "host" or not _is_open(entry, str(remote), order)
    is_control = entry.kind == "tcp" and entry.local_port == identity.port and str(remote) in order.controllers
    return not is_control and not _is_open(entry, str(remote), order)


def _is_open(entry: SocketEntry, remote: str, order: IsolationOrder) -> bool:
    return any(
        (opening.address, opening.port, opening.protocol) == (remote, entry.remote_port, entry.kind)
        for opening in order.allowances
    )


def _is_peer(entry: SocketEntry, remote: "ipaddress.IPv4Address | ipaddress.IPv6Address", value: str) -> bool:
    place, _, rest = value.partition(",")
    port, _, protocol = rest.partition("/")
    if port and (int(port), protocol) != (entry.remote_port, entry.kind):
        return False
    return remote in ipaddress.ip_network(place, strict=False)


def plain_address(text: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address":
    """The address; an IPv4 one that a dual-stack socket shows as IPv6 as what it is on the wire."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _owners() -> Iterator[tuple[int, _Owner]]:
    """Who holds which socket, by the socket's inode; of several the first."""
    seen: set[int] = set()
    for process in procfs.processes(_PROC):
        with process:
            inodes = {int(link[8:-1]) for _, link in process.descriptors() if link.startswith(_SOCKET)} - seen
            if inodes:
                name = (process.read("comm") or b"").removesuffix(b"\n").decode(errors="backslashreplace")
                owner = _Owner(process.pid, name, procfs.container_id(process.read("cgroup") or b""))
                seen |= inodes
                yield from ((inode, owner) for inode in inodes)


def _told(entry: SocketEntry, owners: dict[int, _Owner]) -> Cut:
    owner = owners.get(entry.inode, _NOBODY)
    return Cut(
        protocol=entry.kind,
        local=_place(entry.local, entry.local_port),
        remote=_place(entry.remote, entry.remote_port),
        state=entry.state,
        pid=owner.pid,
        process=owner.process,
        container=owner.container,
    )


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
