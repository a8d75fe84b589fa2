"""Isolation as the controller does it, against agents and witnesses that fail, lie and are lost in between."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fireline_controller.engine import IsolationWish, TargetSpec, Wish
from fireline_controller.isolation import Isolation, Phase
from fireline_controller.model import HostOutcome, Line, Outcome
from tests.fakes.desk import Desk, desk, outcomes
from tests.fakes.isolating import FakeIsolation

SETTINGS = """
[isolation]
controllers = ["198.18.0.254", "2001:2::fe"]
lease_s = 5
look_s = 0.05
"""
NOW = IsolationWish(now=True)


@pytest.fixture
async def four(tmp_path: Path) -> AsyncIterator[Desk]:
    """A controller with four hosts."""
    async with desk(tmp_path / "state", SETTINGS) as made:
        for name in ("web1", "web2", "web3", "web4"):
            await made.enrol(name)
        yield made


def wish(*terms: str, **fields: Any) -> Wish:
    """What alice wants."""
    return replace(Wish("alice", TargetSpec(terms), reason="drill"), **fields)


async def isolate(made: Desk, *terms: str, how: IsolationWish = NOW, **fields: Any) -> dict[str, HostOutcome]:
    """Isolate these hosts; the outcomes."""
    return outcomes([news async for news in made.engine.isolations.isolate(wish(*terms, **fields), how)])


async def release(made: Desk, *terms: str, **fields: Any) -> dict[str, HostOutcome]:
    """Release these hosts; the outcomes."""
    return outcomes([news async for news in made.engine.isolations.release(wish(*terms, **fields))])


def rules(made: Desk, name: str) -> FakeIsolation:
    """The rules of a host."""
    found = made.agents[name].isolation
    assert found is not None
    return found


async def lines(made: Desk, host: str = "") -> list[Line]:
    """The journal's lines about isolation."""
    found = await made.store.read(lambda tx: tx.lines(1))
    return [line for line in found if line.entry.kind.startswith("isolation.") and host in ("", line.entry.host)]


async def kinds(made: Desk, host: str) -> list[str]:
    """What the journal says of a host, in short."""
    return [line.entry.kind.removeprefix("isolation.") for line in await lines(made, host)]


async def record(made: Desk, host: str) -> Isolation:
    """The one isolation of a host on record."""
    (found,) = await made.store.read(lambda tx: tx.isolations(set(Phase), host))
    return found


async def test_a_host_is_isolated_proved_and_released(four: Desk) -> None:
    """I4, I6: plan, look, journal, arm, confirm and look, commit; each in its order, and back."""
    found = (await isolate(four, "web1"))["web1"]

    assert found.outcome is Outcome.OK, found.detail
    assert found.detail.startswith("dark to web")
    assert rules(four, "web1").is_dark()
    assert rules(four, "web1").calls()[:4] == ["Plan", "Arm", "Confirm", "Commit"]
    times = found.isolation
    assert times is not None
    assert 0 < times.armed_ms <= times.confirmed_ms <= times.proved_ms <= times.committed_ms
    assert (times.captured_ms, times.applied_us, times.sockets_killed) == (0, 900, 3)
    assert len(times.witnesses) == 2
    assert await kinds(four, "web1") == ["arming", "committed"]

    back = (await release(four, "web1"))["web1"]
    assert back.outcome is Outcome.OK
    assert back.detail.startswith("restored; 4 ports that answered before are seen again by web")
    assert not rules(four, "web1").is_dark()
    assert (await record(four, "web1")).phase is Phase.RELEASED
    assert await kinds(four, "web1") == ["arming", "committed", "releasing", "released"]
    assert await four.problems() == []
