"""Fleets that tests share: making one costs seconds."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, default_backend, engine


def need(is_there: bool, what: str) -> None:
    """Skip where a real part is missing."""
    if not is_there:
        pytest.skip(what)


@pytest.fixture(scope="package")
def fleet() -> Iterator[Fleet]:
    """Five hosts and a daemon; a test that breaks something mends it again."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    names = ["db1", "web1", "web2", "web3", "web4"]
    labels = {name: "role=db,env=prod" if name == "db1" else "role=web,env=prod" for name in names}
    with Fleet(names, labels=labels, settings="[fanout]\nconfirm_above = 20\n", disk_bytes=2 << 30) as made:
        yield made


@pytest.fixture(scope="package")
def engine_fleet() -> Iterator[Fleet]:
    """One host with a Docker Engine of its own."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    need(not engine.lacks(), f"an engine needs {', '.join(engine.lacks())}")
    settings = '[evidence]\ncritical_services = ["name:checkout*"]\n'
    with Fleet(["db1"], engine=True, settings=settings) as made:
        yield made
