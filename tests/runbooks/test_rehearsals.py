"""A built-in runbook against the real trouble: a disk that is too full.

The real commands, two operators, real agents on lab hosts; the trouble is made first and looked at afterwards.
"""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually
from tests.runbooks.rehearsing import rehearse

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

_POLICY = b'actions = ["risk:read", "risk:reversible", "risk:disruptive", "disk.*"]\n'


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host that allows what destroys, a second operator, and an incident."""
    if default_backend() != NETNS:
        pytest.skip("needs root and namespaces")
    with Fleet(1, disk_bytes=512 << 20) as made:
        host = made.lab["h1"]
        host.end_agent()
        host.write("/etc/fireline/policy.toml", _POLICY)
        host.start_agent()
        eventually(lambda: made.try_fireline("host", "ping", "-t", "h1").returncode == 0, within_s=30, what="the agent")
        made.fireline("operator", "add", "bob")
        made.fireline("incident", "open", "P2", "shop is slow")
        yield made


def _used_percent(host: Host) -> int:
    return int(host.run(["df", "--output=pcent", "/"]).split()[-1].rstrip("%"))


def test_disk_full_frees_space_until_there_is_enough(fleet: Fleet) -> None:
    """Old logs go, sealed before and with another's word; data and young logs stay; what was not needed is not done."""
    host = fleet.lab["h1"]
    host.run(["sh", "-c", "mkdir -p /var/log/shop /srv && head -c 150000000 /dev/urandom > /srv/data"])
    host.run(["sh", "-c", "for n in 1 2 3 4 5 6; do head -c 12000000 /dev/urandom > /var/log/shop/old$n.log; done"])
    host.run(["sh", "-c", "touch -d '30 days ago' /var/log/shop/old*.log; echo young > /var/log/shop/new.log"])
    before = _used_percent(host)

    told = rehearse(
        fleet, "h1", "disk-full", "-p", "logs=/var/log/shop", "-p", "look_in=/var/log", "-p", "temp=/var/tmp",
        "-p", f"enough={before - 8}",
    )  # fmt: skip

    assert told["state"] == "succeeded", told
    assert _used_percent(host) <= before - 8
    assert host.run(["ls", "/var/log/shop", "/srv/data"]).split() == ["/srv/data", "/var/log/shop:", "new.log"]
    kept = [
        e for e in fleet.json("evidence", "list", "--host", "h1")["evidence"] if e["profile"].startswith("evidence")
    ]
    assert sum(e["bytes"] for e in kept) > 6 * 12_000_000
