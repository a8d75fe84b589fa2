"""I9: commands never wait behind evidence, whatever stands or floods on the evidence line."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fireline_controller import pki
from fireline_controller.config import Fanout
from fireline_controller.hosts import Fleet, HostClient
from tests.fakes import agent_process
from tests.fakes.fleet import ChunkRange, agent_credentials, authority, command, enrolled

CHUNKS = [ChunkRange("a", 0, 100_000)]  # a hundred gigabytes: never done
TRANSFERS = 6
# Measured: 5 to 100 ms a round, agent and controller on the same two cores.
LONGEST_S = 1.0


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    """An authority for all tests here."""
    return authority(Path(tmp_path_factory.mktemp("ca")) / "pki")


@pytest.fixture
async def client(ca: pki.Authority) -> AsyncIterator[HostClient]:
    """The client of an agent in a process of its own."""
    fleet = Fleet(lambda: ca.controller, settings=Fanout())
    with agent_process.serving(agent_credentials(ca)) as agent:
        yield fleet.client(enrolled(agent.address))
        await fleet.close()


async def slowest_command_s(client: HostClient) -> float:
    """The longest of twenty pings and twenty cancellations."""
    longest = 0.0
    for n in range(20):
        began = time.monotonic()
        await client.ping(command(f"op-{n}"), timeout_s=5)
        await client.cancel_capture(command(f"op-c{n}"), "op-1", timeout_s=5)
        longest = max(longest, time.monotonic() - began)
    return longest


async def drain(client: HostClient, got: list[int]) -> None:
    """Take evidence as quickly as it comes."""
    async for chunk in client.fetch_chunks(command(), "op-1", CHUNKS, idle_s=30):
        got[0] += len(chunk)


async def test_a_command_passes_transfers_at_full_speed(client: HostClient) -> None:
    """Six transfers from the very same host, as fast as the machine can, and commands beside them."""
    got = [0]
    async with asyncio.TaskGroup() as transfers:
        tasks = [transfers.create_task(drain(client, got)) for _ in range(TRANSFERS)]
        async with asyncio.timeout(10):
            while not got[0]:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.01)
        before = got[0]
        longest_s = await slowest_command_s(client)
        moved = got[0] - before
        for task in tasks:
            task.cancel()

    assert moved > 20 << 20, "the transfers did not run beside the commands"
    assert longest_s < LONGEST_S


async def test_a_command_passes_transfers_that_stand(client: HostClient) -> None:
    """Transfers whose reader has stopped, with every flow-control window full, hold nothing up."""
    stalled = [client.fetch_chunks(command(), "op-1", CHUNKS, idle_s=30) for _ in range(TRANSFERS)]
    for transfer in stalled:
        await anext(aiter(transfer))
    await asyncio.sleep(0.5)  # the windows fill while nobody reads

    longest_s = await slowest_command_s(client)

    assert longest_s < LONGEST_S
    for transfer in stalled:
        await transfer.aclose()  # type: ignore[attr-defined]  # ours are generators; the promise says iterators
