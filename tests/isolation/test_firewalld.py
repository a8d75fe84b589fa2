"""A host whose rules firewalld owns: what it does meanwhile opens nothing, and nothing of it is lost."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import need
from tests.isolation.glance import is_dark, stays_dark
from tests.isolation.lone import COMMITTED, OWN_RULES, Lone, ruleset
from tests.isolation.world import AGENT_PORT
from tests.lab import eventually, services
from tests.lab.services import Services

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(180)]

_DOWNLOAD_S = 60
_ANSWERS_S = 20.0
_UNIT = "/usr/lib/systemd/system/firewalld.service"
_ACTIONS = "/usr/share/polkit-1/actions/org.fedoraproject.FirewallD1"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """firewalld and what it needs beside what is here, as Debian has it; fetched, nothing on the machine changed."""
    need(shutil.which("apt-get") is not None, "firewalld comes from Debian's packages")
    folder = tmp_path_factory.mktemp("packages")
    for part in ("lists", "archives"):
        (folder / part / "partial").mkdir(parents=True)
    own = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache::Archives={folder}/archives", "Dir::Cache::pkgcache="]
    options = [word for option in (*own, "APT::Sandbox::User=root") for word in ("-o", option)]
    wanted = ["install", "--yes", "--no-install-recommends", "--download-only", "firewalld"]
    for action in (["update"], wanted):
        fetched = subprocess.run(
            ["apt-get", "-qq", *options, *action], capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False
        )
    found = sorted((folder / "archives").glob("*.deb"))
    need(bool(found), f"firewalld can't be fetched: {fetched.stderr.strip()[-200:]}")
    return found


@pytest.fixture
def firewalled(lone: Lone, packages: list[Path]) -> Iterator[tuple[Lone, Services]]:
    """A host that lets in the agent's port and little else, and what runs its services."""
    need(not services.lacks(), f"the units need {', '.join(services.lacks())}")
    host = lone.host
    for package in packages:
        place = host.write(f"/var/tmp/{package.name}", package.read_bytes())
        unpack = 'dpkg-deb --fsys-tarfile "$1" | tar --extract --keep-directory-symlink --directory /; rm "$1"'
        host.run(["bash", "-c", unpack, "unpack", place])
    host.run(["ln", "-sf", f"{_ACTIONS}.server.policy.choice", f"{_ACTIONS}.policy"])  # as its installation does
    host.end_agent()
    host.vantage.run(["nft", "flush", "ruleset"])
    with Services(host, {"firewalld.service": host.path(_UNIT).read_text()}) as manager:
        manager.run("firewall-cmd", "--permanent", f"--add-port={AGENT_PORT}/tcp")
        manager.run("firewall-cmd", "--permanent", "--add-masquerade")
        manager.run("firewall-cmd", "--reload")
        eventually(lone.answers, within_s=_ANSWERS_S, what="the agent to answer", every_s=0.1)
        yield lone, manager
    host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{OWN_RULES}")


@pytest.mark.parametrize(
    "act", [("firewall-cmd", "--reload"), ("firewall-cmd", "--complete-reload"), ("systemctl", "restart", "firewalld")]
)
def test_what_firewalld_does_opens_nothing(firewalled: tuple[Lone, Services], act: tuple[str, ...]) -> None:
    """A reload or restart in the middle changes nothing; the release leaves firewalld's rules to the byte."""
    lone, manager = firewalled
    former = ruleset(lone.host)
    assert "table inet firewalld" in former
    order = lone.order()
    lone.ordering.isolate(order)
    assert is_dark(lone.host.vantage, lone.outsider)
    manager.run(*act)

    assert stays_dark(lone.host.vantage, lone.outsider)
    assert [(state.phase, state.drifts) for state in lone.ordering.status().isolations] == [(COMMITTED, 0)]
    assert lone.ordering.release(order).restored
    assert ruleset(lone.host) == former
