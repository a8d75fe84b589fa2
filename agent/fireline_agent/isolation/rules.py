"""The nft tables of one isolation as text. Pure; nft(8) is the grammar.

A packet passes by an `accept`, else it meets the last rule of its chain, which drops while the set `armed` holds an
element. That element's time-out is the lease: the kernel lifts the isolation by itself, with no process running. The
constant key 0x0 works in every family. Nothing here depends on connection tracking, so an open connection of the
controller goes on. Leaves to others: which tables a host gets (plan).
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fireline_agent.isolation.model import Identity
from fireline_wire.isolation import IsolationOrder, Scope

_ARMED: Final = "meta mark & 0x0 @armed"
_DROP: Final = f"{_ARMED} counter drop"
_RAW: Final = -310  # before connection tracking (-200) and the raw tables of others (-300)
_FIRST: Final = -300  # before Docker's and every other filter
_FRAMES: Final = -500
_OPENING: Final = {4: "ipv4_addr . inet_proto . inet_service", 6: "ipv6_addr . inet_proto . inet_service"}
# RFC 4861: what comes with this hop limit has crossed no router.
_NEIGHBOURS: Final = (
    "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }"
)
_ON_LINK: Final = f"ip6 daddr @onlink6 {_NEIGHBOURS}"  # a router would carry it further
_NO_CALL: Final = "tcp flags & (syn|ack) != syn"
_LINK_LOCAL6: Final = ("fe80::/10", "ff02::/16")
# RFC 2131 and RFC 8415. A renewal is a packet or two an hour: more would be a tunnel.
_SPARSE: Final = "limit rate 60/minute burst 20 packets"
_DHCP_IN: Final = (
    f"meta nfproto ipv4 udp sport 67 udp dport 68 {_SPARSE}",
    f"meta nfproto ipv6 udp sport 547 udp dport 546 {_SPARSE}",
)
_DHCP_OUT: Final = (
    f"meta nfproto ipv4 udp sport 68 udp dport 67 {_SPARSE}",
    f"meta nfproto ipv6 udp sport 546 udp dport 547 ip6 daddr {{ {', '.join(_LINK_LOCAL6)} }} {_SPARSE}",
)
# What a raw sender says that a frame is (sll_protocol, packet(7)) need not be what the frame says of itself.
_ARP: Final = "meta protocol arp ether type arp arp operation { request, reply }"
# IEEE 802.1AX: without it a bond breaks. Bridges and switches never pass it on (802.1Q, table 8-1).
_LACP: Final = "ether type 0x8809 ether daddr 01:80:c2:00:00:02"


def host_inet(name: str, order: IsolationOrder, identity: Identity, prefixes6: Sequence[str], lease: str) -> str:
    """The table of the IP hooks, for the whole host."""
    port = identity.port
    flow_in, flow_out = _flow(port)
    # A reply or a segment of what the controller opened: a pure SYN would be another program's call through the hole.
    replies = [f"{flow} {_NO_CALL} {owner}" for flow in flow_out for owner in _owners(identity)]
    return _table("inet", name, [
        _armed(lease),
        *_controllers(order),
        *_allowances(order),
        _on_link(prefixes6),
        _chain("untracked_in", f"hook prerouting priority {_RAW}", (f"{_ARMED} {flow} notrack" for flow in flow_in)),
        _chain("untracked_out", f"hook output priority {_RAW}", (f"{_ARMED} {flow} notrack" for flow in flow_out)),
        _chain("input", f"hook input priority {_FIRST}", [
            'iif "lo" accept',
            *_accept(*flow_in, *_openings("saddr", "sport"), *_DHCP_IN, _NEIGHBOURS, *path_errors(order, port)),
            _DROP,
        ]),
        _chain("output", f"hook output priority {_FIRST}", [
            'oif "lo" accept',
            *_accept(*replies, *_openings("daddr", "dport"), *_DHCP_OUT, _ON_LINK),
            _DROP,
        ]),
        _chain("forward", f"hook forward priority {_FIRST}", [_DROP]),
    ])  # fmt: skip


def host_netdev(
    name: str,
    order: IsolationOrder,
    identity: Identity,
    devices: Sequence[str],
    prefixes6: Sequence[str],
    lease: str,
    *,
    has_egress: bool,
) -> str:
    """The table of the frame hooks, for the whole host: what goes past the IP hooks, such as macvlan and raw frames."""
    hook = f"{_devices(devices)} priority {_FRAMES}"
    flow_in, flow_out = _flow(identity.port)
    # A guest of the wire has sockets of its own namespace, and skuid matches none of those.
    replies = [f"{flow} {_NO_CALL} meta skuid {identity.uid}" for flow in flow_out]
    dhcp_in, dhcp_out = ([_framed(rule) for rule in rules] for rules in (_DHCP_IN, _DHCP_OUT))
    errors = path_errors(order, identity.port)
    ways_in = _accept(_ARP, _LACP, *flow_in, *_openings("saddr", "sport"), *dhcp_in, _NEIGHBOURS, *errors)
    ways_out = _accept(_ARP, _LACP, *replies, *_openings("daddr", "dport"), *dhcp_out, _ON_LINK)
    parts = [
        _armed(lease),
        *_controllers(order),
        *_allowances(order),
        _on_link(prefixes6),
        _chain("ingress", f"hook ingress {hook}", [*ways_in, _DROP]),
    ]
    if has_egress:
        parts.append(_chain("egress", f"hook egress {hook}", [*ways_out, _DROP]))
    return _table("netdev", name, parts)


def container_inet(name: str, order: IsolationOrder, prefixes6: Sequence[str], lease: str) -> str:
    """The table of the IP hooks inside a container. Nobody's agent lives there."""
    return _table("inet", name, [
        _armed(lease),
        *_allowances(order),
        _on_link(prefixes6),
        _chain("input", f"hook input priority {_FIRST}", [
            'iif "lo" accept',
            *_accept(*_openings("saddr", "sport"), *_DHCP_IN, _NEIGHBOURS),
            _DROP,
        ]),
        _chain("output", f"hook output priority {_FIRST}", [
            # Docker's own resolver: it would carry names, and what they hide, out through the host.
            f"ip daddr 127.0.0.11 {_DROP}",
            'oif "lo" accept',
            *_accept(*_openings("daddr", "dport"), *_DHCP_OUT, _ON_LINK),
            _DROP,
        ]),
        _chain("forward", f"hook forward priority {_FIRST}", [_DROP]),
    ])  # fmt: skip


def container_netdev(
    name: str, order: IsolationOrder, devices: Sequence[str], prefixes6: Sequence[str], lease: str, *, has_egress: bool
) -> str:
    """The table of the frame hooks inside a container."""
    hook = f"{_devices(devices)} priority {_FRAMES}"
    dhcp_in, dhcp_out = ([_framed(rule) for rule in rules] for rules in (_DHCP_IN, _DHCP_OUT))
    ways_in = _accept(_ARP, *_openings("saddr", "sport"), *dhcp_in, _NEIGHBOURS)
    ways_out = _accept(_ARP, *_openings("daddr", "dport"), *dhcp_out, _ON_LINK)
    parts = [
        _armed(lease),
        *_allowances(order),
        _on_link(prefixes6),
        _chain("ingress", f"hook ingress {hook}", [*ways_in, _DROP]),
    ]
    if has_egress:
        parts.append(_chain("egress", f"hook egress {hook}", [*ways_out, _DROP]))
    return _table("netdev", name, parts)


def host_bridge(name: str, lease: str) -> str:
    """The table of the bridges: what passes from port to port never meets the IP hooks."""
    return _table("bridge", name, [_armed(lease), _chain("forward", f"hook forward priority {_FIRST}", [_DROP])])


def peer_inet(name: str, order: IsolationOrder, identity: Identity, lease: str) -> str:
    """The table of the IP hooks against one peer."""
    kept_in, kept_out = _flow(identity.port)
    come, go = peer_match(order.scope, "s"), peer_match(order.scope, "d")
    return _table("inet", name, [
        _armed(lease),
        *_controllers(order),
        _chain("input", f"hook input priority {_FIRST}", [*_accept(*kept_in), f"{come} {_DROP}"]),
        _chain("output", f"hook output priority {_FIRST}", [*_accept(*kept_out), f"{go} {_DROP}"]),
        _chain("forward", f"hook forward priority {_FIRST}", [f"{come} {_DROP}", f"{go} {_DROP}"]),
    ])  # fmt: skip


def peer_netdev(
    name: str, order: IsolationOrder, identity: Identity, devices: Sequence[str], lease: str, *, has_egress: bool
) -> str:
    """The table of the frame hooks against one peer."""
    hook = f"{_devices(devices)} priority {_FRAMES}"
    kept_in, kept_out = _flow(identity.port)
    come, go = peer_match(order.scope, "s"), peer_match(order.scope, "d")
    parts = [
        _armed(lease),
        *_controllers(order),
        _chain("ingress", f"hook ingress {hook}", [*_accept(*kept_in), f"{come} {_DROP}"]),
    ]
    if has_egress:
        parts.append(_chain("egress", f"hook egress {hook}", [*_accept(*kept_out), f"{go} {_DROP}"]))
    return _table("netdev", name, parts)


def peer_bridge(name: str, order: IsolationOrder, lease: str) -> str:
    """The table of the bridges against one peer."""
    ways = [f"{peer_match(order.scope, side)} {_DROP}" for side in "sd"]
    return _table("bridge", name, [_armed(lease), _chain("forward", f"hook forward priority {_FIRST}", ways)])


def peer_match(scope: Scope, side: str) -> str:
    """What a packet from (`s`) or to (`d`) the peer of a scope looks like."""
    place, _, rest = scope.value.partition(",")
    network = ipaddress.ip_network(place, strict=False)
    port, _, protocol = rest.partition("/")
    match = f"{'ip' if network.version == 4 else 'ip6'} {side}addr {network}"
    return f"{match} {protocol} {side}port {port}" if port else match


def remove(name: str, families: Iterable[str]) -> str:
    """Take the tables of this name away, whether they are there or not."""
    return "".join(f"add table {family} {name}\ndelete table {family} {name}\n" for family in families)


def make_permanent(name: str, families: Iterable[str]) -> str:
    """End the lease: refused by the kernel, as a whole, where it has run out in one of the tables."""
    return "".join(
        f"delete element {family} {name} armed {{ 0x0 }}\nadd element {family} {name} armed {{ 0x0 }}\n"
        for family in families
    )


def lease(left_ms: int | None) -> str:
    """The element that the drops depend on; None for ever."""
    return "0x0" if left_ms is None else f"0x0 timeout {max(1, left_ms)}ms"


def path_errors(order: IsolationOrder, port: int) -> Iterator[str]:
    """ICMP that tells a smaller path MTU (RFC 1191, RFC 8201) of the agent's own connection to a controller.

    The error quotes the packet that was too big: the offsets are those of its protocol, source port and destination.
    """
    for address in map(ipaddress.ip_address, order.controllers):
        wanted = f"0x{address.packed.hex()}"
        if address.version == 4:
            head = "icmp type destination-unreachable icmp code frag-needed"
            yield f"{head} @th,136,8 6 @th,224,16 {port} @th,192,32 {wanted}"
        else:
            yield f"icmpv6 type packet-too-big @th,112,8 6 @th,384,16 {port} @th,256,128 {wanted}"


_IP: Final = ((4, "ip"), (6, "ip6"))


def _flow(port: int) -> tuple[list[str], list[str]]:
    """The controllers' connection to the agent, inwards and outwards."""
    return (
        [f"{ip} saddr @controllers{version} tcp dport {port}" for version, ip in _IP],
        [f"{ip} daddr @controllers{version} tcp sport {port}" for version, ip in _IP],
    )


def _devices(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"devices = {{ {quoted} }}"


def _on_link(prefixes6: Sequence[str]) -> str:
    """An interval set takes no overlaps, so networks that lie in others are left out."""
    networks = (ipaddress.IPv6Network(prefix, strict=False) for prefix in (*_LINK_LOCAL6, *prefixes6))
    return _set("onlink6", "ipv6_addr; flags interval", map(str, ipaddress.collapse_addresses(networks)))


def _owners(identity: Identity) -> Iterator[str]:
    if identity.cgroup is None:
        yield f"meta skuid {identity.uid}"
        return
    level, path = identity.cgroup
    yield f'meta skuid {identity.uid} socket cgroupv2 level {level} "{path}"'
    # The kernel sends it before there is a socket that has a group.
    yield f"tcp flags & (syn|ack) == (syn|ack) meta skuid {identity.uid}"


def _openings(address: str, port: str) -> Iterator[str]:
    for version, ip in _IP:
        yield f"{ip} {address} . meta l4proto . th {port} @openings{version}"


def _controllers(order: IsolationOrder) -> Iterator[str]:
    for version, _ in _IP:
        addresses = [a for a in order.controllers if ipaddress.ip_address(a).version == version]
        yield _set(f"controllers{version}", f"ipv{version}_addr", addresses)


def _allowances(order: IsolationOrder) -> Iterator[str]:
    for version, _ in _IP:
        openings = [o for o in order.allowances if ipaddress.ip_address(o.address).version == version]
        elements = (f"{o.address} . {o.protocol} . {o.port}" for o in openings)
        yield _set(f"openings{version}", _OPENING[version], elements)


def _armed(lease: str) -> str:
    return _set("armed", "mark; flags timeout", [lease])


def _set(name: str, kind: str, elements: Iterable[str]) -> str:
    inside = ", ".join(sorted(set(elements)))
    held = f" elements = {{ {inside} }};" if inside else ""
    return f"  set {name} {{ type {kind};{held} }}\n"


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    return (
        f"  chain {name} {{\n    type filter {hook}; policy accept;\n" + "".join(f"    {r}\n" for r in rules) + "  }\n"
    )


def _table(family: str, name: str, parts: Iterable[str]) -> str:
    return f"{remove(name, [family])}table {family} {name} {{\n{''.join(parts)}}}\n"


def _accept(*rules: str) -> list[str]:
    return [f"{rule} accept" for rule in rules]


def _framed(rule: str) -> str:
    """The same rule where a packet is still a frame."""
    return rule.replace("meta nfproto ipv4", "meta protocol ip").replace("meta nfproto ipv6", "meta protocol ip6")
