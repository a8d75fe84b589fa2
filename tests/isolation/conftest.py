"""One fleet with a host that has every way out, which the tests of this folder isolate in turn and let back."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.integration.conftest import need
from tests.isolation.glance import is_open
from tests.isolation.lone import OWN_RULES, Lone, ruleset
from tests.isolation.ordering import Ordering
from tests.isolation.world import World
from tests.lab import NETNS, Lab, default_backend, engine


@pytest.fixture(scope="package")
def isolated_fleet() -> Iterator[Fleet]:
    """A daemon and two hosts, the one to be isolated and a witness; agents and controller on IPv4 and IPv6."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    need(not engine.lacks(), f"an engine needs {', '.join(engine.lacks())}")
    with Fleet(["web1", "web2"], engine=True, listen="[::]:7700", settings=_both_families) as made:
        yield made


def _both_families(lab: Lab) -> str:
    return f'[isolation]\ncontrollers = ["{lab.controller.address6}"]\n'


@pytest.fixture(scope="package")
def around(isolated_fleet: Fleet) -> Iterator[World]:
    """Everything that web1 could leak through and to."""
    with World.around(isolated_fleet.lab, isolated_fleet.lab["web1"]) as made:
        yield made


@pytest.fixture
def world(around: World, isolated_fleet: Fleet) -> Iterator[World]:
    """The same with fresh sessions; whatever a test isolates is let back."""
    around.connect()
    yield around
    isolated_fleet.fireline("release", "-t", "web1", "--reason", "the test is over")


@pytest.fixture(scope="package")
def lone_fleet() -> Iterator[Fleet]:
    """One host without an engine, with rules of its own; no daemon asks its agent beside the test."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(["web1"], listen="[::]:7700") as made:
        made.stop_daemon()
        made.lab["web1"].vantage.run(["nft", "-f", "-"], text=OWN_RULES)
        yield made


@pytest.fixture
def lone(lone_fleet: Fleet) -> Iterator[Lone]:
    """The host, open and with an agent before and after."""
    host, outsider = lone_fleet.lab["web1"], lone_fleet.lab.outsider()
    found = Lone(host, outsider, Ordering.of(lone_fleet, host), ruleset(host))
    assert is_open(host.vantage, outsider)
    yield found
    if not host.is_up():
        host.boot()
    found.restart()
    found.ordering.release()
    assert is_open(host.vantage, outsider)
