"""The tables of the smaller isolations: what is cut, and that everything beside it goes on."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

from tests.isolation import containers, links
from tests.isolation.hole import agent_answers
from tests.isolation.passing import V4, V6, Seen
from tests.isolation.probes import (
    CONTROLLER,
    GUEST,
    HOST,
    ONE,
    OUTSIDER,
    TWO,
    ping,
    protocol,
    session,
    tcp_between,
    udp_between,
)
from tests.isolation.rows import Row, dark, ended, kept
from tests.isolation.world import PUBLISHED_PORT, World
from tests.lab import LabError, Vantage, eventually

PUBLISHED: Callable[[World], Vantage] = attrgetter("published")
BEAT = "/tmp/beat"
_HEART = f"while :; do date +%s%N >{BEAT}; sleep 0.02; done"


def _host_goes_on() -> Sequence[Row]:
    return (
        kept("TCP out of the host", tcp_between(HOST, OUTSIDER, V4)),
        kept("TCP into the host", tcp_between(OUTSIDER, HOST, V4)),
        kept("TCP out of the host, IPv6", tcp_between(HOST, OUTSIDER, V6)),
        kept("a session of the host", session("from the host, IPv4", outwards=True)),
        *_others_go_on(),
    )


def _others_go_on() -> Sequence[Row]:
    return (
        kept("another container to the controller", tcp_between(ONE, CONTROLLER, V4)),
        kept("another container to a third", tcp_between(ONE, TWO, V4)),
        kept("the agent from the controller", agent_answers(CONTROLLER, V4)),
        kept("the agent from the controller, IPv6", agent_answers(CONTROLLER, V6)),
    )


CONTAINER_ROWS = (
    dark("the container to the world, TCP", tcp_between(PUBLISHED, OUTSIDER, V4)),
    dark("the container to the world, UDP", udp_between(PUBLISHED, OUTSIDER, V4)),
    dark("the container to the world, echo", ping(PUBLISHED, OUTSIDER, V4)),
    # Not 253: what leaves by NAT takes a protocol without ports for itself, as long as it is tracked.
    dark("the container to the world, protocol 254", protocol(PUBLISHED, OUTSIDER, 254)),
    dark("the container to the controller", tcp_between(PUBLISHED, CONTROLLER, V4)),
    dark("the container to its host", containers.to_host(PUBLISHED)),
    dark("the host to the container", tcp_between(HOST, PUBLISHED, V4)),
    dark("the world to the container's published port", containers.web(PUBLISHED_PORT)),
    dark("the container to another", tcp_between(PUBLISHED, ONE, V4)),
    dark("another to the container", tcp_between(ONE, PUBLISHED, V4)),
    dark("raw frames of the container to another", containers.frames(PUBLISHED, ONE)),
    dark("raw frames of another to the container", containers.frames(ONE, PUBLISHED)),
    ended("the container's session", session("from published", outwards=True)),
    kept("the container with itself", links.loopback("loopback", V4, PUBLISHED)),
    *_host_goes_on(),
)

PAUSED_ROWS = (
    dark("the world asks the paused container", containers.web(PUBLISHED_PORT)),
    *_host_goes_on(),
)

# The outsider's IPv4 address is the peer.
PEER_ROWS = (
    *(
        row
        for one, other, way in ((HOST, OUTSIDER, "to"), (OUTSIDER, HOST, "from"))
        for row in (
            dark(f"TCP {way} the peer", tcp_between(one, other, V4)),
            dark(f"UDP {way} the peer", udp_between(one, other, V4)),
            dark(f"echo {way} the peer", ping(one, other, V4)),
            dark(f"protocol 253 {way} the peer", protocol(one, other, 253)),
        )
    ),
    dark("a container to the peer", tcp_between(ONE, OUTSIDER, V4)),
    dark("the peer to a published port", containers.web(PUBLISHED_PORT)),
    dark("a macvlan guest to the peer", tcp_between(GUEST, OUTSIDER, V4)),
    ended("a session with the peer", session("from the host, IPv4", outwards=True)),
    ended("a session of the peer", session("to the host, IPv4", outwards=False)),
    ended("a container's session with the peer", session("from one", outwards=True)),
    kept("the peer's other address", tcp_between(HOST, OUTSIDER, V6)),
    kept("the host to others", tcp_between(HOST, CONTROLLER, V4)),
    kept("others to the host", tcp_between(CONTROLLER, HOST, V4)),
    *_others_go_on(),
)


def beats(world: World, patience_s: float) -> Seen:
    """Whether the heart of `heart` beats."""
    place = world.lab_host.path(BEAT)
    before = place.read_text()
    try:
        eventually(lambda: place.read_text() not in (before, ""), within_s=patience_s, what="a heart beat")
    except LabError:
        return Seen.CLOSED
    return Seen.OPEN


@contextmanager
def heart(world: World, uid: int) -> Iterator[int]:
    """A process of a user that writes the time down again and again, while the block lasts; its pid on the host."""
    host = world.lab_host
    host.run(["install", "-m", "666", "/dev/null", BEAT])
    started = host.spawn(["setpriv", f"--reuid={uid}", "--clear-groups", "bash", "-c", _HEART], unit="heart")
    status = Path(f"/proc/{started.pid}/status").read_text()
    inside = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    try:
        yield int(inside.split()[-1])
    finally:
        started.signal(signal.SIGKILL)


FROZEN_ROWS = (dark("the heart of the frozen process", beats), *_host_goes_on())
