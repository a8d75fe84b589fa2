"""An isolated host has no hole: every probe of the table, before, while and after."""

import pytest

from tests.isolation.ordering import Ordering
from tests.isolation.rows import check
from tests.isolation.table import HOST_ROWS
from tests.isolation.world import ALLOWED_PORT, World

pytestmark = [pytest.mark.netns, pytest.mark.docker]


@pytest.mark.timeout(180)
def test_nothing_leaks_and_everything_comes_back(world: World, ordering: Ordering) -> None:
    """What works before is dark while isolated, what must go on goes on, and the release restores every byte."""
    before = world.ruleset()
    check(world, "before", HOST_ROWS)
    outsider = world.outsider.address
    order = ordering.signed(allowances=(f"{outsider}:{ALLOWED_PORT}/tcp", f"{outsider}:{ALLOWED_PORT}/udp"))

    ordering.isolate(order)
    check(world, "isolated", HOST_ROWS)

    released = ordering.release(order)
    assert (list(released.order_ids), released.restored, released.difference) == ([order.order_id], True, "")
    assert world.ruleset() == before
    check(world, "after", HOST_ROWS)
