"""The door to rtnetlink: links, addresses, neighbours, routes, rules and traffic control as the kernel has them.

Reads the network namespace in which its netlink socket was made. Changes nothing. Leaves to others: what stands out.

Sources: rtnetlink(7), linux/if_link.h, linux/neighbour.h, linux/rtnetlink.h, linux/fib_rules.h, linux/pkt_cls.h.
"""

import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

from fireline_agent.hands.netlink import Netlink, attribute_list, attributes, name, unsigned

IFF_PROMISC: Final = 0x100
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_GET_RULE, _GET_QDISC, _GET_FILTER = 34, 38, 46

_LINK: Final = struct.Struct("=BBHiII")
_ADDRESS: Final = struct.Struct("=4BI")
_NEIGHBOUR: Final = struct.Struct("=BBHiHBB")
_ROUTE: Final = struct.Struct("=8BI")
_TRAFFIC: Final = struct.Struct("=BBHiIII")
_NEXT_HOP: Final = struct.Struct("=HBBi")

_OPERATIONAL: Final = ("unknown", "not-present", "down", "lower-layer-down", "testing", "dormant", "up")
_NEIGHBOUR_STATES: Final = {
    0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay",
    0x10: "probe", 0x20: "failed", 0x40: "noarp", 0x80: "permanent",
}  # fmt: skip
_ROUTE_KINDS: Final = (
    "unspecified", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit",
    "throw", "nat", "xresolve",
)  # fmt: skip
_XDP_MODES: Final = ("none", "driver", "generic", "offload", "several")
# Where a filter may hang: the root, and the two hooks of clsact (linux/pkt_sched.h).
_FILTER_PARENTS: Final = {"root": 0xFFFFFFFF, "ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_FILTER_CARRIERS: Final = frozenset({"clsact", "ingress", "htb", "prio", "drr", "hfsc", "cbq", "qfq"})


def links(netlink: Netlink) -> Iterator[dict[str, Any]]:
    """Every network interface, with what listens in on it (promiscuity) or runs on it (XDP)."""
    for message in netlink.dump(_GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)):
        _, _, hardware, index, flags, _ = _LINK.unpack_from(message)
        found = attributes(message, _LINK.size)
        state = unsigned(found.get(16)) or 0
        yield {
            "index": index,
            "name": name(found.get(3)).decode(errors="backslashreplace"),
            "kind": name(attributes(found.get(18, b"")).get(1)).decode(errors="backslashreplace"),
            "hardware_type": hardware,
            "address": found.get(1, b"").hex(":"),
            "flags": flags,
            "state": _OPERATIONAL[state] if state < len(_OPERATIONAL) else str(state),
            "mtu": unsigned(found.get(4)),
            "master": unsigned(found.get(10)),
            "link": unsigned(found.get(5)),
            "peer_namespace_id": unsigned(found.get(37)),
            "qdisc": name(found.get(6)).decode(errors="backslashreplace"),
            "alias": name(found.get(20)).decode(errors="backslashreplace"),
            "is_promiscuous": bool(flags & IFF_PROMISC),
            "promiscuity": unsigned(found.get(30)) or 0,
            "xdp": _xdp(found.get(43, b"")),
        }


def addresses(netlink: Netlink) -> Iterator[dict[str, Any]]:
    """Every address of every interface."""
    for message in netlink.dump(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, flags, scope, index = _ADDRESS.unpack_from(message)
        found = attributes(message, _ADDRESS.size)
        local = found.get(2) or found.get(1)  # IFA_LOCAL; on point-to-point links IFA_ADDRESS is the other end
        yield {
            "interface": index,
            "address": _host(family, local),
            "prefix": prefix,
            "peer": _host(family, found.get(1)) if found.get(1) != local else "",
            "scope": scope,
            "flags": unsigned(found.get(8)) or flags,
            "label": name(found.get(3)).decode(errors="backslashreplace"),
        }


def neighbours(netlink: Netlink) -> Iterator[dict[str, Any]]:
    """The ARP and IPv6 neighbour tables, and the forwarding tables of bridges."""
    for family in (socket.AF_UNSPEC, socket.AF_BRIDGE):
        for message in netlink.dump(_GET_NEIGHBOUR, _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)):
            found_family, _, _, index, state, flags, kind = _NEIGHBOUR.unpack_from(message)
            if family == socket.AF_UNSPEC and found_family == socket.AF_BRIDGE:
                continue  # older kernels mix them into the first dump
            found = attributes(message, _NEIGHBOUR.size)
            yield {
                "table": "bridge" if found_family == socket.AF_BRIDGE else "neighbours",
                "interface": index,
                "address": _host(found_family, found.get(1)),
                "link_address": found.get(2, b"").hex(":"),
                "state": [word for bit, word in _NEIGHBOUR_STATES.items() if state & bit],
                "flags": flags,
                "kind": kind,
            }


def routes(netlink: Netlink) -> Iterator[dict[str, Any]]:
    """Every route of every table, IPv4 and IPv6."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.dump(_GET_ROUTE, _ROUTE.pack(family, *[0] * 7, 0)):
            _, to_bits, from_bits, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(message)
            found = attributes(message, _ROUTE.size)
            yield {
                "family": "ipv4" if family == socket.AF_INET else "ipv6",
                "table": unsigned(found.get(15)) or table,
                "kind": _ROUTE_KINDS[kind] if kind < len(_ROUTE_KINDS) else str(kind),
                "destination": f"{_host(family, found.get(1))}/{to_bits}" if 1 in found else "default",
                "source": f"{_host(family, found.get(2))}/{from_bits}" if 2 in found else "",
                "gateway": _host(family, found.get(5)),
                "via": found.get(18, b"").hex(),
                "preferred_source": _host(family, found.get(7)),
                "interface": unsigned(found.get(4)),
                "metric": unsigned(found.get(6)) or 0,
                "next_hops": _next_hops(family, found.get(9, b"")),
                "next_hop_id": unsigned(found.get(30)),
                "protocol": protocol,
                "scope": scope,
                "tos": tos,
                "flags": flags,
            }


def rules(netlink: Netlink) -> Iterator[dict[str, Any]]:
    """The routing policy: which table is asked when, IPv4 and IPv6."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.dump(_GET_RULE, _ROUTE.pack(family, *[0] * 7, 0)):
            _, to_bits, from_bits, tos, table, _, _, action, flags = _ROUTE.unpack_from(message)
            found = attributes(message, _ROUTE.size)
            yield {
                "family": "ipv4" if family == socket.AF_INET else "ipv6",
                "priority": unsigned(found.get(6)) or 0,
                "table": unsigned(found.get(15)) or table,
                "action": action,
                "destination": f"{_host(family, found.get(1))}/{to_bits}" if 1 in found else "all",
                "source": f"{_host(family, found.get(2))}/{from_bits}" if 2 in found else "all",
                "input_interface": name(found.get(3)).decode(errors="backslashreplace"),
                "output_interface": name(found.get(17)).decode(errors="backslashreplace"),
                "mark": unsigned(found.get(10)),
                "mask": unsigned(found.get(16)),
                "tos": tos,
                "flags": flags,
                "more_hex": {str(kind): value.hex() for kind, value in found.items() if kind >= 18},
            }


def queues(netlink: Netlink) -> list[dict[str, Any]]:
    """The queueing disciplines of every interface."""
    return [
        _traffic(message) | {"what": "qdisc"}
        for message in netlink.dump(_GET_QDISC, _TRAFFIC.pack(0, 0, 0, 0, 0, 0, 0))
    ]


def filters(netlink: Netlink, queueing: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The traffic-control filters of the interfaces whose queueing may carry any, eBPF programs among them."""
    for index in sorted({queue["interface"] for queue in queueing if queue["kind"] in _FILTER_CARRIERS}):
        for place, parent in _FILTER_PARENTS.items():
            # The kernel answers a parent that isn't there with nothing, or the root's filters for 0xFFFFFFFF.
            body = _TRAFFIC.pack(0, 0, 0, index, 0, parent if place != "root" else 0, 0)
            for message in netlink.dump(_GET_FILTER, body):
                yield _traffic(message) | {"what": "filter", "place": place} | _classifier(message)


def _classifier(message: bytes) -> dict[str, Any]:
    """The eBPF program of a filter; every other kind numbers its options in its own way."""
    found = attributes(message, _TRAFFIC.size)
    if name(found.get(1)) != b"bpf":
        return {}
    options = attributes(found.get(2, b""))
    return {
        "bpf_program": unsigned(options.get(11)),
        "bpf_name": name(options.get(7)).decode(errors="backslashreplace"),
    }


def _traffic(message: bytes) -> dict[str, Any]:
    _, _, _, index, handle, parent, detail = _TRAFFIC.unpack_from(message)
    found = attributes(message, _TRAFFIC.size)
    return {
        "interface": index,
        "kind": name(found.get(1)).decode(errors="backslashreplace"),
        "handle": handle,
        "parent": parent,
        "detail": detail,
        "options_hex": found.get(2, b"").hex(),
    }


def _xdp(raw: bytes) -> dict[str, Any]:
    found = attributes(raw)
    mode = unsigned(found.get(2)) or 0  # IFLA_XDP_ATTACHED
    if mode == 0:
        return {}
    programs = [unsigned(found[kind]) for kind in (4, 5, 6, 7) if kind in found]
    return {
        "mode": _XDP_MODES[mode] if mode < len(_XDP_MODES) else str(mode),
        "programs": sorted(set(programs), key=str),
    }


def _next_hops(family: int, raw: bytes) -> list[dict[str, Any]]:
    hops = []
    at = 0
    while at + _NEXT_HOP.size <= len(raw):
        length, flags, weight, index = _NEXT_HOP.unpack_from(raw, at)
        if length < _NEXT_HOP.size:
            break
        gateway = dict(attribute_list(raw[at : at + length], _NEXT_HOP.size)).get(5)
        hops.append({"interface": index, "gateway": _host(family, gateway), "weight": weight + 1, "flags": flags})
        at += (length + 3) & ~3
    return hops


def _host(family: int, raw: bytes | None) -> str:
    """An address as text; one of another family or length in hexadecimal."""
    if not raw:
        return ""
    if family == socket.AF_INET and len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if family == socket.AF_INET6 and len(raw) == 16:
        return socket.inet_ntop(socket.AF_INET6, raw)
    return raw.hex(":")
