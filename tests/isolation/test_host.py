"""An isolated host has no hole: every probe of the table, before, while and after."""

from contextlib import closing

import pytest

from tests.fleet import Fleet
from tests.isolation.bypasses import XdpSocket, redirecting
from tests.isolation.rows import check
from tests.isolation.table import HOST_ROWS
from tests.isolation.world import ALLOWED_PORT, World

pytestmark = [pytest.mark.netns, pytest.mark.docker]


@pytest.mark.timeout(180)
def test_nothing_leaks_and_everything_comes_back(world: World, isolated_fleet: Fleet) -> None:
    """What works before is dark while isolated, what must go on goes on, and the release restores every byte."""
    former = world.ruleset()
    check(world, "before", HOST_ROWS)

    [isolated] = isolated_fleet.json(
        "isolate", "-t", "web1", "--reason", "drill", *_allowed(world.outsider.address, "tcp", "udp")
    )["hosts"]
    assert isolated["outcome"] == "ok"
    assert isolated["detail"].startswith("dark to web2: ")
    check(world, "isolated", HOST_ROWS)

    [released] = isolated_fleet.json("release", "-t", "web1", "--reason", "drill")["hosts"]
    assert released["outcome"] == "ok"
    assert released["detail"].startswith("restored; ")
    assert world.ruleset() == former
    check(world, "after", HOST_ROWS)


def test_ways_around_the_rules_are_named(world: World, isolated_fleet: Fleet) -> None:
    """What no ruleset can close is told, as far as it is in use."""
    with redirecting(world.host), closing(XdpSocket(world.host, "eth0")):
        [planned] = isolated_fleet.json("isolate", "-t", "web1", "--reason", "drill", "--plan")["hosts"]
    [after] = isolated_fleet.json("isolate", "-t", "web1", "--reason", "drill", "--plan")["hosts"]

    assert planned["lacks"] == [
        "tc: a filter on lo may redirect frames past the rules; see `tc filter show dev lo egress`",
        "AF_XDP: frames of 1 open socket(s) pass below the rules; end who holds them",
    ]
    assert after["lacks"] == []


def _allowed(address: str, *protocols: str) -> list[str]:
    return [f"--allow={address}:{ALLOWED_PORT}/{protocol}" for protocol in protocols]
