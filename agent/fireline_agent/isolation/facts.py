"""Read what a plan needs to know: links, addresses and listeners of this thread's network namespace, who we are."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import procfs, rtnetlink, sock_diag
from fireline_agent.hands.netlink import NETLINK_ROUTE, Netlink
from fireline_agent.isolation.model import Identity, Link, Network

_IFF_LOOPBACK: Final = 0x8  # linux/if.h
_SCOPE_UNIVERSE: Final = 0  # linux/rtnetlink.h
_MAX_PORTS: Final = 64
_PROTOCOLS: Final = Path("/proc/thread-self/net/protocols")
_MIRRED: Final = b"mirred\0".hex()  # the action that redirects, tc-mirred(8)
_UNIFIED: Final = re.compile(r"^0::/(.+)$", re.MULTILINE)
_GROUPS: Final = Path("/sys/fs/cgroup")
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9@._:/-]{1,200}\Z")


def network() -> Network:
    """The links, addresses and IPv6 networks of this namespace, without what listens."""
    with Netlink(NETLINK_ROUTE) as netlink:
        links = list(rtnetlink.links(netlink))
        addresses = list(rtnetlink.addresses(netlink))
        redirecting = _redirecting(netlink)
    kinds = {link["index"]: link["kind"] for link in links}
    own = [address for address in addresses if address["scope"] == _SCOPE_UNIVERSE]
    return Network(
        links=tuple(sorted((_link(link, kinds) for link in links), key=lambda link: link.name)),
        addresses=tuple(sorted({address["address"] for address in own})),
        prefixes6=tuple(sorted({f"{a['address']}/{a['prefix']}" for a in own if ":" in a["address"]})),
        redirecting=tuple(sorted(link["name"] for link in links if link["index"] in redirecting)),
        xdp_sockets=_xdp_sockets(procfs.read(_PROTOCOLS) or b""),
    )


def _redirecting(netlink: Netlink) -> set[int]:
    """The links with a filter whose action redirects, or whose program may."""
    found = rtnetlink.filters(netlink, rtnetlink.queues(netlink))
    return {f["interface"] for f in found if f["kind"] == "bpf" or _MIRRED in f["options_hex"]}


def _xdp_sockets(protocols: bytes) -> int:
    rows = (line.split() for line in protocols.splitlines())
    return next((int(row[2]) for row in rows if row[:1] == [b"XDP"] and len(row) > 2), 0)


def listening_ports(agent_port: int) -> tuple[int, ...]:
    """TCP ports that others could reach, the agent's own first, at most 64."""
    entries = sock_diag.sockets().entries
    found = {e.local_port for e in entries if e.kind == "tcp" and e.is_listening and not _is_loopback(e.local)}
    return (agent_port, *sorted(found - {agent_port})[: _MAX_PORTS - 1])


def identity(port: int) -> Identity:
    """How the kernel knows this process."""
    return Identity(os.geteuid(), port, _cgroup())


def _cgroup() -> tuple[int, str] | None:
    """nft looks groups up below /sys/fs/cgroup, wherever below it the second version is mounted."""
    match = _UNIFIED.search(procfs.words(Path("/proc/self/cgroup")) or "")
    if match is None or ".." in match[1]:
        return None
    for mount in procfs.mounts(procfs.read(Path("/proc/self/mountinfo")) or b""):
        point = Path(os.fsdecode(mount.point))
        if mount.kind == b"cgroup2" and mount.root == b"/" and point.is_relative_to(_GROUPS):
            path = str((point / match[1]).relative_to(_GROUPS))
            return (match[1].count("/") + 1, path) if _PLAIN_PATH.match(path) else None
    return None


def _link(link: Mapping[str, Any], kinds: Mapping[int, str]) -> Link:
    return Link(link["name"], link["kind"], kinds.get(link["master"], ""), bool(link["flags"] & _IFF_LOOPBACK))


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
