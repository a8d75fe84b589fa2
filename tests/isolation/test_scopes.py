"""A smaller isolation cuts what it names, both ways, and nothing beside it."""

import pytest

from tests.fleet import Fleet
from tests.isolation.probes import NOBODY
from tests.isolation.rows import Row, check
from tests.isolation.scopes import CONTAINER_ROWS, FROZEN_ROWS, PAUSED_ROWS, PEER_ROWS, heart
from tests.isolation.world import PUBLISHED_IMAGE, PUBLISHED_SERVICE, World

pytestmark = [pytest.mark.netns, pytest.mark.docker]


def hold(world: World, fleet: Fleet, scope: str, rows: tuple[Row, ...]) -> None:
    """Isolate a scope and release it again, looking at every stage."""
    former = world.ruleset()
    check(world, "before", rows)

    fleet.fireline("isolate", "-t", "web1", "--scope", scope, "--reason", "drill", "--now")
    check(world, "isolated", rows)

    fleet.fireline("release", "-t", "web1", "--reason", "drill")
    assert world.ruleset() == former
    check(world, "after", rows)


@pytest.mark.parametrize("scope", ["container:published", f"compose:{PUBLISHED_SERVICE}", f"image:{PUBLISHED_IMAGE}"])
def test_a_container(world: World, isolated_fleet: Fleet, scope: str) -> None:
    """Its network is dark, by name, service or image, and the host's own goes on."""
    hold(world, isolated_fleet, scope, CONTAINER_ROWS)


def test_a_paused_container(world: World, isolated_fleet: Fleet) -> None:
    """It answers nobody until it is let go."""
    hold(world, isolated_fleet, "paused:published", PAUSED_ROWS)


def test_a_peer(world: World, isolated_fleet: Fleet) -> None:
    """Nothing passes between the host, its containers and the peer."""
    hold(world, isolated_fleet, f"peer:{world.outsider.address}", PEER_ROWS)


def test_a_process(world: World, isolated_fleet: Fleet) -> None:
    """It stands still, and goes on after the release."""
    with heart(world, uid=NOBODY) as pid:
        hold(world, isolated_fleet, f"process:{pid}", FROZEN_ROWS)


def test_a_user(world: World, isolated_fleet: Fleet) -> None:
    """Every process of the user stands still."""
    with heart(world, uid=NOBODY):
        hold(world, isolated_fleet, "user:nobody", FROZEN_ROWS)
