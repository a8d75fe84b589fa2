"""Networks under a real systemd with a real engine: leftovers go, the engine and the network restart, host by host."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, engine, eventually, services
from tests.lab.services import Services
from tests.rehearsals.ground import (
    Going,
    fleet_of_two_people,
    is_proved,
    lines,
    opened,
    planned,
    steps_on_record,
    suggested,
)

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(240)]

BOOK = "p2-network"
HOSTS = ("web1", "web2")
PARAMS = ("age=1s", "host_network=true")
_ENGINE = """\
[Service]
Type=notify
ExecStart=/usr/sbin/dockerd --bip 172.28.0.1/24 --data-root /var/lib/docker-lab --iptables=false
KillMode=mixed
TimeoutStopSec=3
Delegate=yes
"""
# Stands for ifupdown, whose configuration is a file too: the addresses that it brings are in /etc/lab-network.
_NETWORKING = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'while read -r words; do ip $words; done </etc/lab-network'
ExecStop=/bin/sh -c 'ip address flush dev eth0'
"""


@dataclass(frozen=True)
class Managed:
    """A host whose agent, engine and network are services of its systemd."""

    host: Host
    manager: Services

    def run(self, *argv: str) -> str:
        """Run a command where the services run."""
        return self.manager.run(*argv).strip()

    def invocation(self, unit: str) -> str:
        """Another one after each start of a unit."""
        return self.run("systemctl", "show", "--value", "--property=InvocationID", unit)

    def networks(self) -> set[str]:
        """The engine's networks but for those that are always there."""
        return set(self.run("docker", "network", "ls", "--format", "{{.Name}}").split()) - {"bridge", "host", "none"}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts with agents."""
    if default_backend() != NETNS or services.lacks() or engine.lacks():
        pytest.skip("needs root, namespaces, systemd and a Docker Engine")
    with fleet_of_two_people(*HOSTS) as made:
        yield made


@pytest.fixture(scope="module")
def managed(fleet: Fleet) -> Iterator[tuple[Managed, ...]]:
    """The hosts with everything under systemd: their agents too."""
    with ExitStack() as stack:
        made = []
        for host in fleet.lab:
            host.end_agent()
            _configure(host, comes_back=True)
            units = {"docker.service": _ENGINE, "networking.service": _NETWORKING.replace("flush", "show")}
            made.append(Managed(host, stack.enter_context(Services(host, units))))
        for one in made:
            one.host.write("/lab-units/networking.service", _NETWORKING.encode(), mode=0o644)
            one.run("systemctl", "daemon-reload")
            _import_image(one)
        eventually(lambda: _all_answer(fleet), within_s=40, what="the agents to answer")
        yield tuple(made)


def _configure(host: Host, *, comes_back: bool) -> None:
    """What the host's network is after a restart: as it is now, or without an address."""
    shown = host.run(["ip", "-brief", "address", "show", "dev", "eth0", "scope", "global"])
    addresses = re.findall(r"\S+/\d+", shown)
    brings = "".join(f"address replace {address} dev eth0\n" for address in addresses)
    host.write("/etc/lab-network", brings.encode() if comes_back else b"link show dev eth0\n", mode=0o644)


def _import_image(one: Managed) -> None:
    eventually(
        lambda: "running" in one.run("systemctl", "show", "-p", "SubState", "docker"), within_s=40, what="docker"
    )
    one.host.write("/busybox.tar", engine.image())
    one.run("docker", "import", "/busybox.tar", engine.IMAGE)
    script = "while :; do sleep 0.2; done"
    one.run("docker", "network", "create", "shop")
    one.run("docker", "run", "-d", "--name", "shop", "--network", "shop", "--restart", "always",
            engine.IMAGE, "sh", "-c", script)  # fmt: skip


def _all_answer(fleet: Fleet) -> bool:
    return fleet.try_fireline("host", "ping", "-t", "all").returncode == 0


def test_leftovers_go_and_engine_and_network_restart_host_by_host(fleet: Fleet, managed: tuple[Managed, ...]) -> None:
    """The plan changes nothing; the needed network stays, its container runs again, and no host is lost."""
    for one in managed:
        one.run("docker", "network", "create", "leftover")
    before = [(one.invocation("docker"), one.invocation("networking")) for one in managed]
    incident = opened(fleet, "P2", "network: containers don't reach each other", "all")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *PARAMS)
    after_plan = [one.networks() for one in managed]
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.done("still_broken")
        going.approved("host_network")
        going.done("check")
        ended = going.ended(within_s=120)
    after = [(one.invocation("docker"), one.invocation("networking")) for one in managed]

    assert BOOK in reasons
    assert "1 unused network" in plan["leftovers"]["effects"][0]["effect"]
    assert after_plan == [{"shop", "leftover"}] * 2
    assert (ended.status, ended.state) == (0, "succeeded"), ended.run
    assert ended.hosts("engine") == ended.hosts("host_network") == [(name, "ok") for name in HOSTS]
    assert [one.networks() for one in managed] == [{"shop"}] * 2
    assert [one.run("docker", "inspect", "--format", "{{.State.Running}}", "shop") for one in managed] == ["true"] * 2
    assert all(
        then != now for pair, other in zip(before, after, strict=True) for then, now in zip(pair, other, strict=True)
    )
    assert _all_answer(fleet)


def test_every_step_is_on_the_timeline_and_the_evidence_first(fleet: Fleet) -> None:
    """Addresses, routes, rules and connections are sealed before anything is touched."""
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    kinds = [line["kind"] for line in lines(fleet, incident)]

    assert steps_on_record(fleet, incident) == [
        "evidence", "leftovers", "still_broken", "engine", "host_network", "check",
    ]  # fmt: skip
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert is_proved(fleet)


def test_a_network_that_stays_away_is_put_back_and_spares_the_others(
    fleet: Fleet, managed: tuple[Managed, ...]
) -> None:
    """The first host loses its address and has it back by itself; the second one's network is never touched."""
    first, second = managed
    _configure(first.host, comes_back=False)
    before = second.invocation("networking")
    incident = opened(fleet, "P2", "network unreachable", "all")
    with Going(fleet, BOOK, incident, *PARAMS, "engine=false") as going:
        going.done("still_broken")
        going.approved("host_network")
        ended = going.ended(within_s=150)

    assert (ended.status, ended.state) == (1, "failed")
    assert "the guard put back: address add" in ended.run["why"]
    assert second.invocation("networking") == before
    assert _all_answer(fleet)
    assert is_proved(fleet)


def test_where_it_works_again_nothing_more_is_restarted(fleet: Fleet, managed: tuple[Managed, ...]) -> None:
    """A person says that it is not broken any more: the run goes to the check."""
    before = [(one.invocation("docker"), one.invocation("networking")) for one in managed]
    incident = opened(fleet, "P2", "network unreachable", "all")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.done("still_broken", "--skip")
        going.done("check")
        ended = going.ended()

    assert (ended.status, ended.state) == (0, "succeeded")
    assert [(one.invocation("docker"), one.invocation("networking")) for one in managed] == before
