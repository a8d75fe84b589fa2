"""What container engines and administrators do to a host while it is isolated opens no way."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fleet import Fleet
from tests.integration.conftest import need
from tests.isolation.frames import Raw, Wire, send_raw
from tests.isolation.glance import is_dark, is_open
from tests.isolation.ordering import Ordering
from tests.isolation.packets import ETH_P_EXPERIMENT
from tests.isolation.passing import V4, Seen, tcp, udp
from tests.lab import IMAGE, NETNS, Host, Vantage, default_backend, engine, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker]

_CLOSED_FOR_S, _OPEN_WITHIN_S, _NOTICED_S = 0.5, 8.0, 8.0


@dataclass(frozen=True)
class Ground:
    """A host with an engine, the world, and orders to its agent."""

    host: Host
    outsider: Vantage
    ordering: Ordering

    def container(self, name: str, *options: str) -> Vantage:
        """Start a container that sleeps."""
        engine.docker(self.host, "run", "-d", "--pull", "never", "--name", name, *options, IMAGE, "sleep", "9999")
        return engine.container(self.host, name)


@pytest.fixture(scope="module")
def engine_host() -> Iterator[Fleet]:
    """One host with an engine that may be broken."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    need(not engine.lacks(), f"an engine needs {', '.join(engine.lacks())}")
    with Fleet(["web1"], engine=True, listen="[::]:7700") as made:
        made.stop_daemon()  # nobody else asks the agent
        yield made


@pytest.fixture
def ground(engine_host: Fleet) -> Iterator[Ground]:
    """The host, isolated while the test lasts and open again after it."""
    host = engine_host.lab["web1"]
    found = Ground(host, engine_host.lab.outsider(), Ordering.of(engine_host, host))
    yield found
    found.ordering.release()
    names = engine.docker(host, "ps", "-aq").split()
    if names:
        engine.docker(host, "rm", "-f", *names)
    assert is_open(host.vantage, found.outsider)


def is_cut(one: Vantage, other: Vantage) -> bool:
    """Whether nothing passes from one to the other."""
    return {tcp(one, other, V4, _CLOSED_FOR_S), udp(one, other, V4, _CLOSED_FOR_S)} == {Seen.CLOSED}


def reaches(one: Vantage, other: Vantage) -> bool:
    """Whether one can call the other."""
    return tcp(one, other, V4, _OPEN_WITHIN_S) is Seen.OPEN


def test_an_engine_that_restarts_opens_nothing(ground: Ground) -> None:
    """It writes its rules anew and starts its containers: they and the host stay dark, and work after the release."""
    web = ground.container("web", "--restart", "always", "-p", "8080:80")
    assert reaches(web, ground.outsider)
    ground.ordering.isolate(ground.ordering.signed())
    restart(ground.host)

    web = engine.container(ground.host, "web")
    assert is_cut(web, ground.outsider)
    assert is_dark(ground.host.vantage, ground.outsider)
    ground.ordering.release()
    assert reaches(web, ground.outsider)


def restart(host: Host) -> None:
    """End the engine in good order and start it again."""
    host.run(["pkill", "-TERM", "-x", "dockerd"])
    eventually(lambda: host.run(["pgrep", "-x", "dockerd"], check=False) == "", within_s=30, what="the engine to end")
    engine.start(host)
    eventually(
        lambda: engine.docker(host, "ps", "-q") != "", within_s=30, what="the containers to be back", every_s=0.1
    )


def test_what_is_started_meanwhile_is_dark(ground: Ground) -> None:
    """A container, a network and two containers on it, all made while the host is isolated, reach nobody."""
    ground.ordering.isolate(ground.ordering.signed())
    engine.docker(ground.host, "network", "create", "late")
    first, *others = (ground.container(name, *net) for name, net in (
        ("first", ()), ("second", ("--net", "late")), ("third", ("--net", "late")),
    ))  # fmt: skip
    second, third = others

    assert is_cut(first, ground.outsider)
    assert is_cut(second, ground.outsider)
    assert is_cut(second, third)
    ground.ordering.release()
    assert reaches(first, ground.outsider)
    assert reaches(second, third)
    engine.docker(ground.host, "rm", "-f", "second", "third")
    engine.docker(ground.host, "network", "rm", "late")


def test_an_interface_added_meanwhile_is_closed(ground: Ground) -> None:
    """A new uplink is shut to sockets at once, to raw frames as soon as the agent has seen it; and open afterwards."""
    order = ground.ordering.signed()
    ground.ordering.isolate(order)
    near, far = ground.host.second_uplink()
    wire = Wire(near, far, "eth1")

    assert is_cut(near, far)
    assert is_cut(far, near)
    eventually(
        lambda: send_raw(wire, Raw(ETH_P_EXPERIMENT), _CLOSED_FOR_S) is Seen.CLOSED,
        within_s=_NOTICED_S, what="raw frames of the new interface to be dropped",
    )  # fmt: skip
    ground.ordering.release(order)
    assert send_raw(wire, Raw(ETH_P_EXPERIMENT), _OPEN_WITHIN_S) is Seen.OPEN
    assert reaches(near, far)
