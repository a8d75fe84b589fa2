"""A full disk keeps nobody cut off, and other tools' rules let nobody through."""

import pytest

from tests.isolation.glance import is_dark, is_open
from tests.isolation.lone import OWN_RULES, Lone

pytestmark = pytest.mark.netns


def test_a_disk_that_fills_up_meanwhile_locks_nobody_out(lone: Lone) -> None:
    """An isolated host with a full disk is let back all the same, whatever else was asked of it before."""
    order = lone.order()
    lone.ordering.isolate(order)
    lone.host.disk_full()
    try:
        for _ in range(20):  # more than fits into the last block of any file
            lone.ordering.release(lone.order())
        assert lone.ordering.release(order).restored
        assert is_open(lone.host.vantage, lone.outsider)
    finally:
        lone.host.disk_free()


@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
def test_rules_of_iptables_open_nothing(lone: Lone, tool: str) -> None:
    """What it accepts, first of all and while the host is isolated, stays dropped."""
    order = lone.order()
    lone.ordering.isolate(order)
    for chain in ("INPUT", "OUTPUT", "FORWARD"):
        lone.host.vantage.run([tool, "-I", chain, "-j", "ACCEPT"])

    assert is_dark(lone.host.vantage, lone.outsider)
    lone.ordering.release(order)
    assert is_open(lone.host.vantage, lone.outsider)
    lone.host.vantage.run([tool, "-F"])
    lone.host.vantage.run(["nft", "-f", "-"], text=f"flush ruleset\n{OWN_RULES}")
