"""One lab for all that leaves it as it found it; a test that kills or reboots makes its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.conftest import need
from tests.integration.isolation.ground import Ground, ground
from tests.lab import NETNS, default_backend


@pytest.fixture(scope="package")
def shared_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two hosts with agents."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with ground(tmp_path_factory.mktemp("ground"), ("web-1", "web-2")) as made:
        yield made


@pytest.fixture
async def grounds(shared_ground: Ground) -> AsyncIterator[Ground]:
    """The same; whatever a test isolates is let back."""
    yield shared_ground
    for host in shared_ground.lab:
        async with shared_ground.connected(host) as controller:
            await controller.release()
        host.run(["nft", "flush", "ruleset"])
