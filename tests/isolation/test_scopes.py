"""A smaller isolation cuts what it names, both ways, and nothing beside it."""

import pytest

from tests.isolation.ordering import Ordering
from tests.isolation.probes import NOBODY
from tests.isolation.rows import Row, check
from tests.isolation.scopes import CONTAINER_ROWS, FROZEN_ROWS, PAUSED_ROWS, PEER_ROWS, start_heart
from tests.isolation.world import PUBLISHED_IMAGE, PUBLISHED_SERVICE, World

pytestmark = [pytest.mark.netns, pytest.mark.docker]


def hold(world: World, ordering: Ordering, scope: str, rows: tuple[Row, ...]) -> None:
    """Isolate a scope and release it again, looking at every stage."""
    before = world.ruleset()
    check(world, "before", rows)
    order = ordering.signed(scope)

    ordering.isolate(order)
    check(world, "isolated", rows)

    assert ordering.release(order).restored
    assert world.ruleset() == before
    check(world, "after", rows)


@pytest.mark.parametrize("scope", ["container:published", f"compose:{PUBLISHED_SERVICE}", f"image:{PUBLISHED_IMAGE}"])
def test_a_container(world: World, ordering: Ordering, scope: str) -> None:
    """Its network is dark, by name, service or image, and the host's own goes on."""
    hold(world, ordering, scope, CONTAINER_ROWS)


def test_a_paused_container(world: World, ordering: Ordering) -> None:
    """It answers nobody until it is let go."""
    hold(world, ordering, "paused:published", PAUSED_ROWS)


def test_a_peer(world: World, ordering: Ordering) -> None:
    """Nothing passes between the host, its containers and the peer."""
    hold(world, ordering, f"peer:{world.outsider.address}", PEER_ROWS)


def test_a_process(world: World, ordering: Ordering) -> None:
    """It stands still, and goes on after the release."""
    pid = start_heart(world, uid=NOBODY)
    hold(world, ordering, f"process:{pid}", FROZEN_ROWS)


def test_a_user(world: World, ordering: Ordering) -> None:
    """Every process of the user stands still."""
    start_heart(world, uid=NOBODY)
    hold(world, ordering, "user:nobody", FROZEN_ROWS)
