"""Decide how an order is carried out on this host: one nft transaction, what it does, what it can't, or why not at all.

Pure. Leaves to others: the text of the rules (rules), what this host is (facts), carrying it out (keeper).
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fireline_agent.isolation import rules
from fireline_agent.isolation.model import Capability, Identity, Link, Network, Plan, table_name
from fireline_wire.isolation import IsolationOrder

# What nft takes between quotes as it stands; a final * would be a pattern.
_NAMEABLE: Final = re.compile(r"[^\s\"\\*/\x00-\x1f\x7f]{1,15}\Z")


def plan(
    order: IsolationOrder,
    *,
    network: Network,
    identity: Identity,
    capability: Capability,
    left_ms: int | None,
    replaced: Sequence[str] = (),
) -> Plan:
    """What is to be done.

    Args:
        order: the order.
        network: of the namespace that the rules go into.
        identity: whom the controllers' way in belongs to.
        capability: of this host.
        left_ms: the lease; None for an isolation that stands.
        replaced: order ids whose tables go away in the same transaction.
    """
    refusal = capability.refusal or _refusal(order)
    if refusal:
        return Plan(order, refusal=refusal)
    devices = nameable(_closed(network.links, capability))
    tables = _tables(order, network, identity, capability, devices, rules.lease(left_ms))
    former = "".join(rules.remove(table_name(other), tables) for other in replaced)
    return Plan(
        order,
        left_ms=left_ms,
        replaced=tuple(replaced),
        transaction=former + "".join(tables.values()),
        tables=tuple(tables),
        interfaces=devices if "netdev" in tables else (),
        effects=tuple(_effects(order, identity)),
        lacks=(*capability.lacks, *_unnameable(network.links), *_around(network)),
    )


def in_container(
    order: IsolationOrder,
    *,
    network: Network,
    capability: Capability,
    left_ms: int | None,
    replaced: Sequence[str] = (),
) -> str:
    """The transaction in a container's namespace, whose network this is."""
    name, lease = table_name(order.order_id), rules.lease(left_ms)
    devices = nameable(network.links)
    tables = {"inet": rules.container_inet(name, order, network.prefixes6, lease)}
    if capability.has_ingress and devices:
        tables["netdev"] = rules.container_netdev(
            name, order, devices, network.prefixes6, lease, has_egress=capability.has_egress
        )
    former = "".join(rules.remove(table_name(other), tables) for other in replaced)
    return former + "".join(tables.values())


def _tables(
    order: IsolationOrder,
    network: Network,
    identity: Identity,
    capability: Capability,
    devices: Sequence[str],
    lease: str,
) -> dict[str, str]:
    """The text of each table that this host gets, by its family."""
    name, egress = table_name(order.order_id), capability.has_egress
    is_host = order.scope.kind == "host"
    found: dict[str, str] = {}
    if is_host:
        found["inet"] = rules.host_inet(name, order, identity, network.prefixes6, lease)
    else:
        found["inet"] = rules.peer_inet(name, order, identity, lease)
    if capability.has_ingress and devices and is_host:
        found["netdev"] = rules.host_netdev(name, order, identity, devices, network.prefixes6, lease, has_egress=egress)
    elif capability.has_ingress and devices:
        found["netdev"] = rules.peer_netdev(name, order, identity, devices, lease, has_egress=egress)
    if capability.has_bridge:
        found["bridge"] = rules.host_bridge(name, lease) if is_host else rules.peer_bridge(name, order, lease)
    return found


def _refusal(order: IsolationOrder) -> str:
    if order.scope.kind == "peer":
        network = ipaddress.ip_network(order.scope.value.partition(",")[0], strict=False)
        if network.prefixlen == 0:
            return f"peer {network} is everybody: isolate the host instead"
    return ""


def nameable(links: Iterable[Link]) -> tuple[str, ...]:
    """The names of those that are no loopback and that nft can be given."""
    return tuple(link.name for link in links if not link.is_loopback and _NAMEABLE.match(link.name))


def _closed(links: Sequence[Link], capability: Capability) -> Iterator[Link]:
    """The links whose frames are looked at.

    The container's end of a veth is left to its bridge, which has a hook of its own: there may be hundreds of them, and
    they come and go.
    """
    for link in links:
        is_left_to_bridge = link.kind == "veth" and link.master_kind == "bridge" and capability.has_bridge
        if not link.is_loopback and not is_left_to_bridge:
            yield link


def _unnameable(links: Sequence[Link]) -> Iterator[str]:
    for link in links:
        if not _NAMEABLE.match(link.name):
            yield f"interface {link.name!r}: nft can't be given this name, so its raw frames pass; rename or remove it"


def _around(network: Network) -> Iterator[str]:
    """The ways around every rule that are in use; whoever is root of the host's network can make them."""
    for name in network.redirecting:
        yield f"tc: a filter on {name} may redirect frames past the rules; see `tc filter show dev {name} egress`"
    if network.xdp_sockets:
        yield f"AF_XDP: frames of {network.xdp_sockets} open socket(s) pass below the rules; end who holds them"


def _effects(order: IsolationOrder, identity: Identity) -> Iterator[str]:
    if order.scope.kind == "peer":
        yield f"everything between this host, with its containers, and {order.scope.value} is dropped"
    else:
        yield "everything in, out and through this host is dropped, its containers included"
        yield "loopback, ARP and neighbour discovery, and DHCP renewal go on; there is no DNS"
    ways = ", ".join(order.controllers)
    yield f"{ways} can reach the agent on TCP port {identity.port}, and no other program of this host can use that"
    for opening in order.allowances if order.scope.kind == "host" else ():
        yield f"{opening} stays reachable, both ways"
    yield "connections that are open are ended, and tracked ones forgotten"
