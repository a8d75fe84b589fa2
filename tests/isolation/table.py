"""The table of expectations: each probe, before an isolation of the host, while it lasts, and after the release."""

import socket
from collections.abc import Sequence

from tests.isolation import bypasses, containers, links, packets, probes
from tests.isolation.frames import Raw, Wire, raw_frame
from tests.isolation.hole import agent_answers, agent_finds_controller, by_agents_port, second_listener
from tests.isolation.packets import ACK, ETH_P_ARP, ETH_P_EXPERIMENT, ETH_P_IP, FIN, PSH, SYN, URG
from tests.isolation.passing import V4, V6
from tests.isolation.probes import (
    BACKYARD,
    CONTROLLER,
    ETH1,
    GUEST,
    HOST,
    NOBODY,
    ONE,
    OUTSIDER,
    ping,
    protocol,
    segment,
    session,
    tcp_between,
    udp_between,
)
from tests.isolation.rows import Row, dark, ended, kept, never
from tests.isolation.world import AGENT_PORT, ALLOWED_PORT, HOST_NETWORK_PORT, PUBLISHED_PORT


def _plain() -> Sequence[Row]:
    rows = []
    for family, word in ((V4, "IPv4"), (V6, "IPv6")):
        for one, other, way in ((HOST, OUTSIDER, "out"), (OUTSIDER, HOST, "in")):
            rows += [
                dark(f"TCP {way}, {word}", tcp_between(one, other, family)),
                dark(f"UDP {way}, {word}", udp_between(one, other, family)),
                dark(f"ICMP echo {way}, {word}", ping(one, other, family)),
                dark(f"large datagrams in fragments {way}, {word}", udp_between(one, other, family, text=bytes(4000))),
                dark(f"multicast {way}, {word}", links.multicast(one, other, family)),
                dark(f"protocol 253 {way}, {word}", protocol(one, other, 253, family)),
            ]
        for way, outwards in (("from", True), ("to", True), ("from", False), ("to", False)):
            name = f"{way} the host, {word}"
            direction = "out" if outwards else "in"
            rows.append(ended(f"session that stood, {name}, data {direction}", session(name, outwards=outwards)))
    for one, other, way in ((HOST, OUTSIDER, "out"), (OUTSIDER, HOST, "in")):
        rows += [
            dark(f"SCTP {way}", protocol(one, other, 132)),
            dark(f"GRE {way}", protocol(one, other, 47)),
            dark(f"ESP {way}", protocol(one, other, 50)),
            dark(f"broadcast {way}", links.broadcast(one, other)),
            dark(f"tiny fragments {way}", probes.tiny_fragments(one, other)),
            dark(f"IPv4 options {way}", probes.with_option(one, other, socket.IPPROTO_IP, socket.IP_OPTIONS)),
            dark(f"hop-by-hop {way}", probes.with_option(one, other, socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS)),
            dark(f"options to the end {way}", probes.with_option(one, other, socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS)),
            dark(f"solicitation with hop limit 64 {way}", probes.solicitation(one, other)),
            dark(f"segment without flags {way}", segment(one, other, 0)),
            dark(f"segment with all flags {way}", segment(one, other, FIN | SYN | PSH | ACK | URG)),
            dark(f"segment SYN and FIN {way}", segment(one, other, SYN | FIN)),
            dark(f"segment ACK of no session {way}", segment(one, other, ACK)),
            dark(f"segment in tiny fragments {way}", segment(one, other, SYN, size=8)),
        ]  # fmt: skip
    return rows


def _names() -> Sequence[Row]:
    query = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x07example\x03com\0\0\x10\0\x01"
    return (
        dark("DNS over UDP to any server", udp_between(HOST, OUTSIDER, V4, port=53, text=query)),
        dark("DNS over TCP to any server", tcp_between(HOST, OUTSIDER, V4, port=53)),
        dark("DNS over UDP to any server, IPv6", udp_between(HOST, OUTSIDER, V6, port=53, text=query)),
        dark("DNS from the controller's machine", udp_between(HOST, CONTROLLER, V4, port=5353, text=query)),
    )


def _needed() -> Sequence[Row]:
    renewal = packets.dhcp_request(bytes(16))
    return (
        *(kept(f"loopback, {w}", links.loopback("loopback", f)) for f, w in ((V4, "IPv4"), (V6, "IPv6"))),
        *(kept(f"the host's own address, {w}", links.loopback("own", f)) for f, w in ((V4, "IPv4"), (V6, "IPv6"))),
        kept("DHCP renewal, unicast", udp_between(HOST, OUTSIDER, V4, port=67, from_port=68, text=renewal)),
        kept("DHCP renewal, broadcast", links.dhcp_broadcast),
        kept("ARP: the host is found", links.resolves(OUTSIDER, HOST, V4)),
        kept("neighbour discovery: the host is found", links.resolves(OUTSIDER, HOST, V6)),
        kept("the agent from the controller, IPv4", agent_answers(CONTROLLER, V4)),
        kept("the agent from the controller, IPv6", agent_answers(CONTROLLER, V6)),
        kept("the agent answers a controller that the host has to find, ARP", agent_finds_controller(V4)),
        kept("the agent answers a controller that the host has to find, IPv6", agent_finds_controller(V6)),
        kept("what a responder allowed, TCP", tcp_between(HOST, OUTSIDER, V4, port=ALLOWED_PORT)),
        kept("what a responder allowed, UDP", udp_between(HOST, OUTSIDER, V4, port=ALLOWED_PORT)),
    )


def _hole() -> Sequence[Row]:
    """The controller's hole, used by others."""
    push = PSH | ACK
    return (
        dark("the agent from the world, IPv4", agent_answers(OUTSIDER, V4)),
        dark("the agent from the world, IPv6", agent_answers(OUTSIDER, V6)),
        dark("root to the controller", tcp_between(HOST, CONTROLLER, V4)),
        dark("root to the controller, IPv6", tcp_between(HOST, CONTROLLER, V6)),
        dark("another user to the controller", tcp_between(HOST, CONTROLLER, V4, uid=NOBODY)),
        dark("UDP to the controller from the agent's port", udp_between(HOST, CONTROLLER, V4, from_port=AGENT_PORT)),
        dark("UDP to the agent's port of the controller", udp_between(HOST, CONTROLLER, V4, port=AGENT_PORT)),
        dark("to the agent's port of the controller", tcp_between(HOST, CONTROLLER, V4, port=AGENT_PORT)),
        dark("another port of the host from the controller", tcp_between(CONTROLLER, HOST, V4)),
        dark("another port of the host from the controller, IPv6", tcp_between(CONTROLLER, HOST, V6)),
        dark("echo from the controller", ping(CONTROLLER, HOST, V4)),
        dark("SYN from the agent's port to the controller", segment(HOST, CONTROLLER, SYN, from_port=AGENT_PORT)),
        dark(
            "SYN in tiny fragments from the agent's port to the controller",
            segment(HOST, CONTROLLER, SYN, from_port=AGENT_PORT, size=8),
        ),
        dark(
            "segment by another user from the agent's port to the controller",
            segment(HOST, CONTROLLER, push, from_port=AGENT_PORT, uid=NOBODY),
        ),
        dark("segment from the agent's port to the world", segment(HOST, OUTSIDER, push, from_port=AGENT_PORT)),
        dark(
            "segment of a container from the agent's port to the controller",
            by_agents_port(ONE, CONTROLLER),
        ),
        never("a second listener on the agent's port", second_listener),
    )  # fmt: skip


def _frames() -> Sequence[Row]:
    eth0 = lambda world: Wire(world.host, world.outsider)  # noqa: E731 -- a selector, as attrgetter is
    eth1 = lambda world: Wire(world.eth1, world.backyard, "eth1")  # noqa: E731 -- as above
    rows = []
    for name, wire in (("eth0", eth0), ("eth1", eth1)):
        for what, raw in (
            ("unknown ethertype", Raw(ETH_P_EXPERIMENT)),
            ("unknown ethertype past the queue", Raw(ETH_P_EXPERIMENT, bypass=True)),
            ("IPv4", Raw(ETH_P_IP, is_ip=True)),
            ("IPv4 past the queue", Raw(ETH_P_IP, is_ip=True, bypass=True)),
            ("IPv4 in a VLAN", Raw(ETH_P_IP, is_ip=True, vlan=5)),
            ("IPv4 that claims to be ARP", Raw(ETH_P_IP, claim=ETH_P_ARP, is_ip=True)),
            ("IPv4 that claims to be ARP, past the queue", Raw(ETH_P_IP, claim=ETH_P_ARP, is_ip=True, bypass=True)),
            ("IPv4 fragment that claims to be ARP", Raw(ETH_P_IP, claim=ETH_P_ARP, is_ip=True, offset=8)),
            ("unknown ethertype that claims to be IPv4", Raw(ETH_P_EXPERIMENT, claim=ETH_P_IP)),
            ("EAPOL", Raw(0x888E)),
            ("LLDP", Raw(0x88CC)),
            ("802.3 with a length", Raw(100)),
            ("unknown ethertype to everybody", Raw(ETH_P_EXPERIMENT, broadcast=True)),
        ):
            rows.append(dark(f"raw frame out by {name}: {what}", raw_frame(wire, raw)))
        inwards = lambda world, wire=wire: wire(world).turned()  # noqa: E731 -- as above
        for what, raw in (
            ("unknown ethertype", Raw(ETH_P_EXPERIMENT, tap=ETH_P_EXPERIMENT)),
            ("unknown ethertype to everybody", Raw(ETH_P_EXPERIMENT, tap=ETH_P_EXPERIMENT, broadcast=True)),
            ("IPv4", Raw(ETH_P_IP, is_ip=True, tap=ETH_P_IP)),
        ):
            rows.append(dark(f"raw frame in by {name}: {what}", raw_frame(inwards, raw)))
        # A tap for all protocols stands before every hook of netfilter (__netif_receive_skb_core in net/core/dev.c):
        # an intruder who is root hears the wire; nothing that he says leaves.
        rows.append(kept(f"a tap for all protocols hears {name}", raw_frame(inwards, Raw(ETH_P_EXPERIMENT))))
    return rows


def _ways() -> Sequence[Row]:
    """Other ways than the first wire, and those who stand on it."""
    rows = []
    for family, word in ((V4, "IPv4"), (V6, "IPv6")):
        for one, other, way in ((ETH1, BACKYARD, "out"), (BACKYARD, ETH1, "in")):
            rows += [
                dark(f"second uplink, TCP {way}, {word}", tcp_between(one, other, family)),
                dark(f"second uplink, UDP {way}, {word}", udp_between(one, other, family)),
            ]
        for one, other, way in ((GUEST, OUTSIDER, "out"), (OUTSIDER, GUEST, "in")):
            rows += [
                dark(f"macvlan guest, TCP {way}, {word}", tcp_between(one, other, family)),
                dark(f"macvlan guest, UDP {way}, {word}", udp_between(one, other, family)),
                dark(f"macvlan guest, echo {way}, {word}", ping(one, other, family)),
            ]
        rows += [
            dark(f"tunnel out, {word}", links.tunnel_out(family)),
            dark(f"tunnel in, {word}", links.tunnel_in(family)),
        ]
    rows += [
        dark("macvlan guest to the controller from the agent's port", by_agents_port(GUEST, CONTROLLER)),
        ended("session of a macvlan guest", session("from macvlan", outwards=True)),
    ]
    return rows


def _containers() -> Sequence[Row]:
    return (
        dark("container to the world, TCP", tcp_between(ONE, OUTSIDER, V4)),
        dark("container to the world, UDP", udp_between(ONE, OUTSIDER, V4)),
        dark("container to the controller", tcp_between(ONE, CONTROLLER, V4)),
        ended("session of a container", session("from one", outwards=True)),
        dark("the world to a published port", containers.web(PUBLISHED_PORT)),
        dark("the world to a container on the host's network", containers.web(HOST_NETWORK_PORT)),
        dark("container on the host's network to the world", containers.from_host_network),
        dark("the host to a container", tcp_between(HOST, ONE, V4)),
        dark("a container to the host", containers.to_host(ONE)),
        *(
            row
            for calls in (0, 1)
            for row in (
                dark(f"container to container, nf-call {calls}", containers.between(calls)),
                dark(f"raw frames between containers, nf-call {calls}", containers.frames_between(calls)),
            )
        ),
    )  # fmt: skip


def _limits() -> Sequence[Row]:
    """What no ruleset can close to whoever is root of the host's network; docs/isolation.md says so."""
    return (
        kept("limit: frames that tc redirects", bypasses.by_tc_redirect),
        kept("limit: frames of an AF_XDP socket", bypasses.by_xdp_socket),
    )


HOST_ROWS = (*_plain(), *_names(), *_needed(), *_hole(), *_frames(), *_ways(), *_containers(), *_limits())
