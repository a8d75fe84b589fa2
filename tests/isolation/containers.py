"""Probes of and between containers, which reach the wire by ways that a host's own packets don't take."""

import socket
from contextlib import ExitStack
from dataclasses import replace

from tests.isolation.frames import hardware, packet_socket
from tests.isolation.packets import ETH_P_EXPERIMENT, frame
from tests.isolation.passing import V4, Seen, one_way, packet, segment_for, tcp, udp
from tests.isolation.probes import ONE, TWO, Look, Who
from tests.isolation.world import World
from tests.lab import engine

_START_S = 0.5  # of a program in a container


def web(port: int) -> Look:
    """The world asks a web server at a port of the host."""

    def look(world: World, patience_s: float) -> Seen:
        with world.outsider.socket(V4, socket.SOCK_STREAM) as client:
            client.settimeout(patience_s)
            try:
                client.connect((world.host.address, port))
                client.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
                return Seen.OPEN if client.recv(1) else Seen.CLOSED
            except OSError:
                return Seen.CLOSED

    return look


def from_host_network(world: World, patience_s: float) -> Seen:
    """A process of a container on the host's own network calls out."""
    with ExitStack() as stack:
        listener = stack.enter_context(world.outsider.socket(V4, socket.SOCK_STREAM))
        listener.bind((world.outsider.address, 0))
        listener.listen()
        tap = stack.enter_context(world.outsider.socket(V4, socket.SOCK_RAW, socket.IPPROTO_TCP))
        port = listener.getsockname()[1]
        listener.settimeout(patience_s + _START_S)
        call = ("nc", "-w", "1", world.outsider.address, str(port))
        engine.docker(world.lab_host, "exec", "--detach", "on-host", *call)
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return Seen.PARTLY if packet(tap, segment_for(port, V4), 0) else Seen.CLOSED
        return Seen.OPEN


def to_host(who: Who) -> Look:
    """A container calls its host at the bridge's address."""

    def look(world: World, patience_s: float) -> Seen:
        gateway = who(world).run(["ip", "route", "show", "default"]).split()[2]
        return tcp(who(world), replace(world.host, address=gateway), V4, patience_s)

    return look


def between(bridge_calls: int) -> Look:
    """One container talks to another on one bridge, which shows its packets to iptables or not."""

    def look(world: World, patience_s: float) -> Seen:
        with world.bridge_calls(bridge_calls):
            seen = {tcp(world.one, world.two, V4, patience_s), udp(world.one, world.two, V4, patience_s)}
        return seen.pop() if len(seen) == 1 else Seen.PARTLY

    return look


def frames_between(bridge_calls: int) -> Look:
    """The same with raw frames, which engines let containers send by default (CAP_NET_RAW)."""

    def look(world: World, patience_s: float) -> Seen:
        with world.bridge_calls(bridge_calls):
            return frames(ONE, TWO)(world, patience_s)

    return look


def frames(source: Who, target: Who) -> Look:
    """Raw frames from one container to another on the same bridge."""

    def look(world: World, patience_s: float) -> Seen:
        own, other = hardware(source(world)), hardware(target(world))
        with (
            packet_socket(source(world), "eth0", 0) as sender,
            packet_socket(target(world), "eth0", ETH_P_EXPERIMENT) as receiver,
        ):
            to = ("eth0", ETH_P_EXPERIMENT)
            return one_way(
                lambda token: sender.sendto(frame(other, own, ETH_P_EXPERIMENT, token), to), receiver, patience_s
            )

    return look
