"""What passes between two places: a token is sent until it is received or the patience is over."""

import secrets
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import Protocol

from tests.lab import Vantage

V4, V6 = socket.AF_INET, socket.AF_INET6
_RESEND_S = 0.1


class Seen(StrEnum):
    """How a way was found."""

    OPEN = "open"
    PARTLY = "partly open"  # what was sent arrived, what should come back did not
    CLOSED = "closed"


class Receiver(Protocol):
    """A socket, or the far end of a tunnel."""

    def fileno(self) -> int:
        """What can be polled."""

    def recv(self, size: int, /) -> bytes:
        """The next packet."""


Speaker = Callable[[bytes], object]


def passes(speak: Speaker, receiver: Receiver, patience_s: float) -> bool:
    """Whether a token that is spoken is received; a refusal to send counts as silence."""
    token = secrets.token_bytes(16)
    end = time.monotonic() + patience_s
    while (left := end - time.monotonic()) > 0:
        with suppress(OSError):
            speak(token)
        if heard(receiver, token, min(left, _RESEND_S)):
            return True
    return False


def one_way(speak: Speaker, receiver: Receiver, patience_s: float) -> Seen:
    """The same, where nothing comes back."""
    return Seen.OPEN if passes(speak, receiver, patience_s) else Seen.CLOSED


def heard(receiver: Receiver, token: bytes, within_s: float) -> bool:
    """Whether a packet with the token arrives within that time; others are dropped."""
    return packet(receiver, lambda data: token in data, within_s) is not None


def packet(receiver: Receiver, is_it: Callable[[bytes], bool], within_s: float) -> bytes | None:
    """The first packet that is wanted, or None when the time is over."""
    waiting = select.poll()
    waiting.register(receiver.fileno(), select.POLLIN)
    end = time.monotonic() + within_s
    while waiting.poll(max(0, int((end - time.monotonic()) * 1000))):
        try:
            data = receiver.recv(65535)
        except OSError:  # an error that an ICMP message brought, or a connection that was killed
            data = b""
        if data and is_it(data):
            return data
        if not data and time.monotonic() >= end:
            return None  # a dead connection is always ready
    return None


def address(place: Vantage, family: int) -> str:
    """Where a place is, over that family."""
    return place.address if family == V4 else place.address6


def conversation(client: socket.socket, to: tuple[str, int], listener: socket.socket, patience_s: float) -> Seen:
    """Connect, and carry a token there and back; `PARTLY` is said by whoever saw the packets."""
    token = secrets.token_bytes(16)
    end = time.monotonic() + patience_s
    listener.settimeout(patience_s)
    client.settimeout(patience_s)
    try:
        client.connect(to)
        with listener.accept()[0] as accepted:
            accepted.settimeout(max(0.01, end - time.monotonic()))
            client.sendall(token)
            accepted.sendall(accepted.recv(16))
            return Seen.OPEN if client.recv(16) == token else Seen.CLOSED
    except OSError:
        return Seen.CLOSED


def segment_for(port: int, family: int) -> Callable[[bytes], bool]:
    """Whether what a raw TCP socket received goes to this port; only IPv4 comes with its header (raw(7), ipv6(7))."""

    def is_it(data: bytes) -> bool:
        start = (data[0] & 0xF) * 4 if family == V4 else 0
        return data[start + 2 : start + 4] == port.to_bytes(2)

    return is_it


def tcp(
    client_place: Vantage,
    server_place: Vantage,
    family: int,
    patience_s: float,
    *,
    port: int = 0,
    from_port: int = 0,
    uid: int = 0,
) -> Seen:
    """A new connection; `PARTLY` when so much as its first segment came in."""
    with ExitStack() as stack:
        listener = stack.enter_context(server_place.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address(server_place, family), port))
        listener.listen()
        to = listener.getsockname()[:2]
        tap = stack.enter_context(server_place.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP))
        client = stack.enter_context(client_place.socket(family, socket.SOCK_STREAM, uid=uid))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((address(client_place, family), from_port))
        if conversation(client, to, listener, patience_s) is Seen.OPEN:
            return Seen.OPEN
        return Seen.PARTLY if packet(tap, segment_for(to[1], family), 0) else Seen.CLOSED


def udp(
    client_place: Vantage,
    server_place: Vantage,
    family: int,
    patience_s: float,
    *,
    port: int = 0,
    from_port: int = 0,
    uid: int = 0,
    text: bytes = b"",
) -> Seen:
    """A datagram there and its echo back; `text` stands before the token."""
    with ExitStack() as stack:
        server = stack.enter_context(server_place.socket(family, socket.SOCK_DGRAM))
        client = stack.enter_context(client_place.socket(family, socket.SOCK_DGRAM, uid=uid))
        for made in (server, client):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address(server_place, family), port))
        client.bind((address(client_place, family), from_port))
        return echo(client, server.getsockname()[:2], server, patience_s, text=text)


def echo(
    client: socket.socket, to: tuple[str, int], server: socket.socket, patience_s: float, *, text: bytes = b""
) -> Seen:
    """A datagram there and its echo back."""
    token = secrets.token_bytes(16)
    end = time.monotonic() + patience_s
    arrived = False
    while (left := end - time.monotonic()) > 0:
        with suppress(OSError):
            client.sendto(text + token, to)
        if _answered(server, token, min(left, _RESEND_S)):
            arrived = True
            if heard(client, token, min(left, _RESEND_S)):
                return Seen.OPEN
    return Seen.PARTLY if arrived else Seen.CLOSED


def _answered(server: socket.socket, token: bytes, within_s: float) -> bool:
    waiting = select.poll()
    waiting.register(server, select.POLLIN)
    if not waiting.poll(int(within_s * 1000)):
        return False
    data, peer = server.recvfrom(65535)
    if token not in data:
        return False
    with suppress(OSError):
        server.sendto(data, peer)
    return True
