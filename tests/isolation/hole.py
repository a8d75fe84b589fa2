"""Probes of the one hole that an isolation leaves: from the controllers' addresses to the agent's port."""

import socket
import ssl
from collections.abc import Callable

from tests.isolation import packets
from tests.isolation.passing import V4, Seen, address, one_way
from tests.isolation.world import AGENT_PORT, World
from tests.lab import Vantage

Who = Callable[[World], Vantage]


def agent_answers(who: Who, family: int) -> Callable[[World, float], Seen]:
    """Whether the agent shakes hands, as far as it does with a peer that shows no certificate."""

    def look(world: World, patience_s: float) -> Seen:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with who(world).socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(patience_s)
            try:
                client.connect((address(world.host, family), AGENT_PORT))
                with context.wrap_socket(client):  # TLS 1.3: the client is done before the server asks who it is
                    return Seen.OPEN
            except OSError:
                return Seen.CLOSED

    return look


def agent_finds_controller(family: int) -> Callable[[World, float], Seen]:
    """The same for a host that has forgotten where on its wire the controller is."""

    def look(world: World, patience_s: float) -> Seen:
        world.host.run(["ip", "neigh", "flush", "to", address(world.controller, family), "dev", "eth0"])
        return agent_answers(lambda found: found.controller, family)(world, patience_s)

    return look


def by_agents_port(source: Who, target: Who) -> Callable[[World, float], Seen]:
    """A segment like the agent's own, written by hand in a namespace where the agent isn't."""

    def look(world: World, patience_s: float) -> Seen:
        ends = packets.Ends(source(world).address, target(world).address, AGENT_PORT, AGENT_PORT + 1)
        with (
            source(world).socket(V4, socket.SOCK_RAW, socket.IPPROTO_RAW) as speaker,
            target(world).socket(V4, socket.SOCK_RAW, socket.IPPROTO_TCP) as tap,
        ):

            def speak(token: bytes) -> None:
                body = packets.tcp(ends, packets.PSH | packets.ACK, token)
                speaker.sendto(packets.ip(ends, socket.IPPROTO_TCP, body), (ends.destination, 0))

            return one_way(speak, tap, patience_s)

    return look


def second_listener(world: World, patience_s: float) -> Seen:
    """Root shares the agent's port (SO_REUSEPORT), so that the kernel gives it some of the controller's connections."""
    with world.host.socket(V4, socket.SOCK_STREAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        thief.settimeout(patience_s)
        try:
            thief.bind((world.host.address, AGENT_PORT))
            thief.listen()
        except OSError:
            return Seen.CLOSED
        return Seen.OPEN
