"""Whatever happens to the controller and between operators, record and kernel agree in the end (I1, I4, I6)."""

import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fleet import BIN, Fleet
from tests.integration.conftest import need
from tests.isolation.glance import is_dark, is_open
from tests.lab import NETNS, Host, Vantage, default_backend, eventually

pytestmark = pytest.mark.netns

_LEASE_S = 8
_SETTLED_S = _LEASE_S + 12.0
_NAMES = ("web1", "web2")
_REASON = ("--reason", "drill")


@dataclass(frozen=True)
class Ground:
    """A fleet with a daemon, of which two hosts are isolated and a third looks, and the world."""

    fleet: Fleet
    outsider: Vantage
    former: dict[str, str]  # the rulesets of before, by host

    @property
    def hosts(self) -> list[Host]:
        """Those that are isolated."""
        return [self.fleet.lab[name] for name in _NAMES]

    def is_former(self) -> bool:
        """Whether the rules of all are what they were, byte by byte."""
        return rulesets(self.fleet) == self.former

    def phases(self) -> dict[str, list[str]]:
        """What is in force by each host's kernel."""
        shown = self.fleet.json("isolation", "status", "-t", "web[1-2]")
        return {host["host"]: [one["phase"] for one in host["isolations"]] for host in shown["hosts"]}


def rulesets(fleet: Fleet) -> dict[str, str]:
    """The rules of the hosts, without counters."""
    return {name: fleet.lab[name].vantage.run(["nft", "-s", "list", "ruleset"]) for name in _NAMES}


@pytest.fixture(scope="module")
def three() -> Iterator[Fleet]:
    """Three hosts and a daemon; leases are short."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet([*_NAMES, "web3"], listen="[::]:7700", settings=f"[isolation]\nlease_s = {_LEASE_S}\n") as made:
        yield made


@pytest.fixture
def ground(three: Fleet) -> Iterator[Ground]:
    """All of it, healthy before and after."""
    found = Ground(three, three.lab.outsider(), rulesets(three))
    yield found
    if three.daemon is None:
        three.start_daemon()
    three.fireline("release", "-t", "web[1-2]", *_REASON)
    assert all(is_open(host.vantage, found.outsider) for host in found.hosts)
    assert found.is_former()


def begun(fleet: Fleet, *arguments: str) -> "subprocess.Popen[bytes]":
    """A command that runs on its own."""
    argv = [str(BIN / "fireline"), *arguments, "--state", str(fleet.state)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def kill_at_random(ground: Ground, rounds: int, seed: int) -> None:
    """Kill the daemon at random moments of an isolation; each host ends dark for good, or as it was."""
    dice = random.Random(seed)
    for _ in range(rounds):
        command = begun(ground.fleet, "isolate", "-t", "web[1-2]", "--now", *_REASON)
        time.sleep(dice.uniform(0.5, 3.0))  # the moment of the kill
        ground.fleet.kill_daemon()
        command.wait(60)
        ground.fleet.start_daemon()
        eventually(lambda: _is_settled(ground.phases()), within_s=_SETTLED_S, what="leases to end", every_s=0.5)
        phases = ground.phases()
        for host in ground.hosts:
            assert (is_dark if phases[host.name] else is_open)(host.vantage, ground.outsider)
        ground.fleet.fireline("release", "-t", "web[1-2]", *_REASON)
        assert ground.is_former()


def _is_settled(phases: dict[str, list[str]]) -> bool:
    return all(phase == "committed" for found in phases.values() for phase in found)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 5))
def test_a_controller_killed_at_many_moments(ground: Ground, seed: int) -> None:
    """What is committed stands, the rest the kernels have lifted."""
    kill_at_random(ground, 8, seed)


@pytest.mark.timeout(120)
def test_a_controller_killed_after_the_release(ground: Ground) -> None:
    """Nothing comes back with the next one."""
    ground.fleet.fireline("isolate", "-t", "web[1-2]", "--now", *_REASON)
    ground.fleet.fireline("release", "-t", "web[1-2]", *_REASON)
    ground.fleet.kill_daemon()
    ground.fleet.start_daemon()
    ground.fleet.watched("web1")

    assert ground.phases() == {name: [] for name in _NAMES}
    assert ground.is_former()


@pytest.mark.timeout(120)
def test_isolated_hosts_do_not_need_their_controller(ground: Ground) -> None:
    """Killed after Commit: the hosts stay dark without it, and the next controller knows them."""
    ground.fleet.fireline("isolate", "-t", "web[1-2]", "--now", *_REASON)
    ground.fleet.kill_daemon()

    assert all(is_dark(host.vantage, ground.outsider) for host in ground.hosts)
    ground.fleet.start_daemon()
    assert ground.phases() == {name: ["committed"] for name in _NAMES}


@pytest.mark.timeout(120)
def test_isolated_hosts_can_not_talk_to_each_other(ground: Ground) -> None:
    """What is cut off with one order is cut off from its fellows too, and from the witness."""
    ground.fleet.fireline("isolate", "-t", "web[1-2]", "--now", *_REASON)
    one, other = ground.hosts

    assert is_dark(one.vantage, other.vantage)
    assert is_dark(one.vantage, ground.fleet.lab["web3"].vantage)


@pytest.mark.timeout(120)
def test_two_operators_isolate_at_once(ground: Ground) -> None:
    """Whoever comes second, kernels and record agree: isolated and dark, or not and as before."""

    def isolate(_: int) -> Any:
        return ground.fleet.try_fireline("isolate", "-t", "web[1-2]", "--now", *_REASON)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(isolate, range(2)))

    assert all(one.returncode in (0, 1, 4) for one in done), [(one.stdout, one.stderr) for one in done]
    eventually(lambda: _is_settled(ground.phases()), within_s=_SETTLED_S, what="leases to end", every_s=0.5)
    phases = ground.phases()
    for host in ground.hosts:
        assert (is_dark if phases[host.name] else is_open)(host.vantage, ground.outsider)
