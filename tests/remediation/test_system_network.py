"""A network restart on a lab host that is reached over that network: nobody is ever locked out."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import NETNS, Lab, default_backend, eventually, services
from tests.lab.services import Services
from tests.remediation.acting import Acting

pytestmark = pytest.mark.netns

# Stands for ifupdown, whose configuration is a file too: the addresses that it brings are in /etc/lab-network.
_NETWORKING = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'while read -r words; do ip $words; done </etc/lab-network'
ExecStop=/bin/sh -c 'ip address flush dev eth0'
"""


@contextmanager
def _managed() -> Iterator[Acting]:
    if default_backend() != NETNS or services.lacks():
        pytest.skip("needs root, namespaces and systemd")
    with Lab(1) as lab:
        host = lab["h1"]
        host.write("/etc/lab-network", b"address show dev eth0\n", mode=0o644)
        with Services(host, {"networking.service": _NETWORKING}) as manager:
            yield Acting(host, manager)


@pytest.fixture(scope="module")
def acting() -> Iterator[Acting]:
    """A host whose network is made by a service; tests leave it with its addresses, the last one need not."""
    with _managed() as made:
        yield made


@pytest.fixture
def own_acting() -> Iterator[Acting]:
    """Such a host for one test alone."""
    with _managed() as made:
        yield made


def addresses(acting: Acting) -> list[str]:
    """Of the host's wire, IPv4 first."""
    return [
        word
        for family in ("-4", "-6")
        for word in acting.host.run(
            ["ip", family, "-brief", "address", "show", "dev", "eth0", "scope", "global"]
        ).split()
        if "/" in word
    ]


def guards(acting: Acting) -> str:
    """Processes that wait to put the network back."""
    return acting.manager.run("pgrep", "-f", "network_guard", check=False)


def test_a_network_that_comes_back_is_confirmed(acting: Acting) -> None:
    """The guard is called off and nothing of it is left."""
    own = addresses(acting)
    acting.manager.run("systemctl", "start", "networking")
    lines = "".join(f"address add {address} dev eth0\n" for address in own)
    acting.host.write("/etc/lab-network", lines.encode(), mode=0o644)
    applied = acting.apply("system.network_restart", revert_after=30)

    assert applied["verified"]["is_good"], applied
    assert addresses(acting) == own
    assert acting.manager.run("ls", "/run").find("fireline-network") == -1
    eventually(lambda: not guards(acting), within_s=5, what="the guard to go")


def test_a_network_that_stays_away_is_put_back(acting: Acting) -> None:
    """Addresses and routes are there again, the action says that it did not help and what was put back."""
    own = addresses(acting)[0]
    acting.host.write("/etc/lab-network", b"link show dev eth0\n", mode=0o644)
    acting.host.run(["ip", "route", "add", "203.0.113.0/24", "dev", "eth0", "src", own.split("/")[0]])
    gateway = own.rpartition(".")[0] + ".254"
    acting.host.run(["ip", "route", "add", "default", "via", gateway, "metric", "7"])
    applied = acting.apply("system.network_restart", revert_after=3)

    assert not applied["verified"]["is_good"]
    assert "so the guard put back: address add" in applied["verified"]["sentence"]
    assert own in addresses(acting)
    routes = acting.host.run(["ip", "route", "show"])
    assert "203.0.113.0/24 dev eth0" in routes
    assert f"default via {gateway} dev eth0 metric 7" in routes


def test_a_host_whose_network_nobody_manages_says_so(acting: Acting) -> None:
    """With what was looked for."""
    acting.manager.run("systemctl", "stop", "--no-block", "networking")
    acting.manager.run("systemctl", "reset-failed", "networking", check=False)
    eventually(
        lambda: acting.manager.run("systemctl", "is-active", "networking", check=False).strip() == "inactive",
        within_s=10,
        what="networking to stop",
    )
    answer = acting.plan("system.network_restart")

    assert answer["reason"] == "unsupported"
    assert "NetworkManager.service or systemd-networkd.service or networking.service" in answer["refused"]


@pytest.mark.slow
def test_the_guard_needs_nobody(own_acting: Acting) -> None:
    """The agent's process is killed in the middle, as is all that it started by then but the guard."""
    own = addresses(own_acting)[0]
    own_acting.host.write("/etc/lab-network", b"link show dev eth0\n", mode=0o644)
    hanging = _NETWORKING.replace("ip $words; done", "ip $words; sleep 600; done")
    own_acting.host.write("/lab-units/networking.service", hanging.encode(), mode=0o644)
    own_acting.manager.run("systemctl", "daemon-reload")
    started = own_acting.host.spawn(
        [*own_acting.manager.inside(), *own_acting.command("apply", "system.network_restart", revert_after=4)],
        unit="agent",
    )
    eventually(lambda: own not in addresses(own_acting), within_s=20, what="the address to be lost")
    started.signal(9)

    eventually(lambda: own in addresses(own_acting), within_s=15, what="the guard to put it back")
