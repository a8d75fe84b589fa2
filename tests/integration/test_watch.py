"""Hosts are watched from the moment they join: who is lost is noticed, and who has not started yet is not lost."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fireline_controller.model import Host
from tests.fakes.desk import Desk, desk, now
from tests.fleet import Fleet
from tests.integration.conftest import need
from tests.lab import NETNS, default_backend, eventually

QUICK = "[fanout]\nkeepalive_s = 2\nkeepalive_timeout_s = 1\n"


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """One host, which joined just now, and a daemon that has been up for longer."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    with Fleet(1, settings=QUICK) as made:
        yield made


@pytest.mark.netns
def test_a_host_that_joined_just_now_is_watched(fleet: Fleet) -> None:
    """Its agent is killed right after its start: the journal says so at once, not after the next round of upkeep."""
    fleet.watched("h1")
    fleet.lab["h1"].kill_agent()

    eventually(lambda: "host.lost" in kinds(fleet), within_s=10, what="the journal to say that h1 is lost", every_s=0.5)
    assert kinds(fleet)[-2:] == ["enrollment.joined", "host.lost"], "nothing was lost before its agent started"


def kinds(fleet: Fleet) -> list[str]:
    """The kinds of all journal lines."""
    return [json.loads(line)["kind"] for line in fleet.fireline("journal", "export").splitlines()]


async def test_a_host_is_not_lost_before_its_agent_has_started(tmp_path: Path) -> None:
    """Nothing answers yet where it joined from; one that joined long ago is lost."""
    async with desk(tmp_path / "state") as made:
        fresh, old = await unreachable(made, "web1", joined_now=True), await unreachable(made, "web2", joined_now=False)
        watching = [asyncio.ensure_future(made.engine.upkeep.watch(host)) for host in (fresh, old)]
        try:
            for _ in range(200):
                await asyncio.sleep(0.05)
                if lost := await lines_of(made, "host.lost"):
                    break
        finally:
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    assert lost == ["web2"]


async def unreachable(made: Desk, name: str, *, joined_now: bool) -> Host:
    """A host on record where nobody listens."""
    await made.enrol(name)
    known = await made.store.read(lambda tx: tx.host(name))
    host = replace(known, address="127.0.0.1:9", enrolled_at=now() if joined_now else known.enrolled_at)
    await made.store.run(lambda tx: tx.put_host(host))
    return host


async def lines_of(made: Desk, kind: str) -> list[str]:
    """The hosts of the journal's lines of a kind."""
    return [line.entry.host for line in await made.store.read(lambda tx: tx.lines()) if line.entry.kind == kind]
