"""The units under a real systemd: their sandbox lets an isolation work, and a boot is dark before its network is up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.isolation.glance import is_dark, is_open, stays_dark
from tests.isolation.lone import COMMITTED, OWN_RULES, Lone
from tests.isolation.ordering import CODE
from tests.lab import eventually, services
from tests.lab.services import Services

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(120)]

_ANSWERS_S = 20.0
_SEEN = "/var/tmp/at-network-up"
# Stands for whatever brings the network up.
_NETWORK = f"""\
[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target
Before=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'nft list tables >{_SEEN}'
"""

# As distributions have it: the host's own rules, in the place of whatever is there.
_FIREWALL = """\
[Unit]
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/nftables.conf
"""


@pytest.fixture
def serviced(lone: Lone) -> Iterator[Lone]:
    """The host without the agent that the lab itself started."""
    need(not services.lacks(), f"the units need {', '.join(services.lacks())}")
    lone.host.end_agent()
    yield lone
    lone.host.run(["rm", "-f", _SEEN])


def test_the_sandbox_lets_an_isolation_work(serviced: Lone) -> None:
    """READY, armed by the sandboxed agent, bound to its own unit, dark also while systemd starts it again."""
    order = serviced.order()
    with Services(serviced.host) as manager:
        assert manager.run("systemctl", "is-active", "fireline-agent").strip() == "active"
        serviced.ordering.isolate(order)
        assert serviced.ordering.status().capability == "full"
        assert is_dark(serviced.host.vantage, serviced.outsider)
        assert "fireline-agent.service" in serviced.host.vantage.run(["nft", "list", "ruleset"])

        manager.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "fireline-agent")
        assert is_dark(serviced.host.vantage, serviced.outsider)
        eventually(serviced.answers, within_s=_ANSWERS_S, what="the agent to be started again", every_s=0.1)
        assert serviced.standing() == [(order.order_id, COMMITTED)]
        assert stays_dark(serviced.host.vantage, serviced.outsider)
        assert serviced.ordering.release(order).restored
        assert serviced.is_former()


def test_the_code_lets_back_beside_a_stopped_unit(serviced: Lone) -> None:
    """Stopping the service lets nobody back; the code does, and the service tells of it."""
    order = serviced.order()
    with Services(serviced.host) as manager:
        serviced.ordering.isolate(order)
        manager.run("systemctl", "stop", "fireline-agent")
        assert stays_dark(serviced.host.vantage, serviced.outsider)

        manager.run("fireline-agent", "release", "--code", CODE)
        assert serviced.is_former()
        assert is_open(serviced.host.vantage, serviced.outsider)
        manager.run("systemctl", "start", "fireline-agent")
        ended = [(one.order_id, one.how) for one in serviced.ordering.status().ended]
        assert ended == [(order.order_id, "released on the console with the code")]


def test_a_boot_is_dark_before_the_network_is_up(serviced: Lone) -> None:
    """The boot unit has put the rules back when the network's own unit begins; the agent takes them over."""
    order = serviced.order()
    with Services(serviced.host):
        serviced.ordering.isolate(order)
    serviced.host.power_cut()
    serviced.host.boot(services=False)
    serviced.host.write("/etc/nftables.conf", f"flush ruleset\n{OWN_RULES}".encode())

    units = {"lab-network.service": _NETWORK, "nftables.service": _FIREWALL}
    with Services(serviced.host, units) as manager:
        assert manager.run("systemctl", "is-active", "fireline-isolation").strip() == "active"
        tables = Path(serviced.host.path(_SEEN)).read_text()
        assert [line.split()[1] for line in tables.splitlines()] == ["inet", "inet", "netdev", "bridge"]
        assert tables.count(" fireline_") == 3
        eventually(serviced.answers, within_s=_ANSWERS_S, what="the agent to serve", every_s=0.1)
        assert serviced.standing() == [(order.order_id, COMMITTED)]
        assert stays_dark(serviced.host.vantage, serviced.outsider)
        assert serviced.ordering.release(order).restored
