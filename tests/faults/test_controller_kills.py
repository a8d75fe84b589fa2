"""A controller that is killed at any point of a capture, and what the next one makes of it (I1, I2, I6)."""

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fireline_controller.model import Outcome
from tests.fakes.captures import noise
from tests.fakes.capturing import CapturingAgent
from tests.fakes.desk import Desk, desk

HOSTS = ("db1", "web1", "web2")
MIB = 1 << 20


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Desk]:
    """Three hosts, whose agents outlive every controller."""
    async with desk(tmp_path / "state", "[fanout]\nconcurrency = 2\n") as made:
        for n, name in enumerate(HOSTS):
            agent = await made.enrol(name)
            agent.contents = {"clocks/state": name.encode(), "large/file": noise(6 * MIB, seed=n)}
            agent.pause_s = 0.01
        yield made


async def controller(made: Desk, *arguments: str) -> Process:
    """A controller in a process of its own, once it has put an operation on record."""
    program = (sys.executable, "-m", "tests.faults.controller_kills", str(made.opened.folder), *arguments)
    return await asyncio.create_subprocess_exec(*program, stdout=PIPE)


async def killed_after(made: Desk, seconds: float, *arguments: str) -> str:
    """The operation of a controller that was killed so long after it started it; or the last one of a finished one."""
    process = await controller(made, *arguments)
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().split()
    assert first[:1] == ["started"], first
    await asyncio.sleep(seconds)  # the moment of the kill
    if process.returncode is None:
        process.kill()
    await process.wait()
    return first[1]


def collected(made: Desk) -> Counter[str]:
    """How often each host collected, by host and request id."""
    found: Counter[str] = Counter()
    for name, agent in made.agents.items():
        assert isinstance(agent, CapturingAgent)
        found.update({f"{name} {request_id}": count for request_id, count in agent.captured.items()})
    return found


async def kill_rounds(made: Desk, rounds: int, seed: int) -> None:
    """Kill controllers at random moments, retry until all is sealed, and check every promise after each round."""
    dice = random.Random(seed)
    for number in range(1, rounds + 1):
        first = operation = await killed_after(made, dice.uniform(0, 0.7))
        if dice.random() < 0.5:
            operation = await retried_and_killed(made, operation, dice.uniform(0, 0.5))
        assert set(await made.engine.operations.settle_interrupted()) <= {operation}
        await made.engine.operations.settle_interrupted()
        prior = await made.store.read(lambda tx, wanted=operation: tx.operation(wanted))  # type: ignore[misc]  # a default
        if {o.outcome for o in prior.outcomes} != {Outcome.OK}:
            found = await made.capture(retry_of=operation)
            assert {o.outcome for o in found.values()} == {Outcome.OK}, found
        of_round = {key: n for key, n in collected(made).items() if key.endswith(first)}
        assert of_round == {f"{name} {first}": 1 for name in HOSTS}, "a host collected twice, or under another id"
        sealed = Counter(e.host for e in await made.engine.records.list(incident_id="", host=""))
        assert sealed == dict.fromkeys(HOSTS, number), "a capture was sealed twice, or not at all"
    assert len(collected(made)) == rounds * len(HOSTS), "a retry made a host collect anew"
    for done in await made.operations():
        assert sorted(o.host for o in done.outcomes) == sorted(done.target.hosts)
    assert list((made.opened.folder / "running").iterdir()) == []
    assert await made.problems() == []


async def retried_and_killed(made: Desk, operation: str, after_s: float) -> str:
    """Kill the retry too; the first operation where nothing is left to retry."""
    await made.engine.operations.settle_interrupted()
    prior = await made.store.read(lambda tx: tx.operation(operation))
    if {o.outcome for o in prior.outcomes} == {Outcome.OK}:
        return operation
    return await killed_after(made, after_s, "--retry-of", operation)


@pytest.mark.timeout(120)
async def test_a_controller_killed_at_any_point_loses_and_doubles_nothing(three: Desk) -> None:
    """Six controllers and some of their retries are killed: one outcome and one capture each, all sealed at the end."""
    await kill_rounds(three, 6, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 8))
async def test_a_controller_killed_at_many_points_loses_and_doubles_nothing(three: Desk, seed: int) -> None:
    """The same, longer."""
    await kill_rounds(three, 12, seed)


async def test_a_second_controller_leaves_the_first_ones_operation_alone(three: Desk) -> None:
    """Two controllers of one folder at once: both capture, both end ok, neither settles the other's operation."""
    processes = [await controller(three) for _ in range(2)]
    said = [(await asyncio.wait_for(p.communicate(), 50))[0].decode().splitlines() for p in processes]

    for lines in said:
        assert lines[-1] == "finished"
        assert sorted(line.split()[1] for line in lines[1:-1]) == ["ok"] * 3, lines
    assert {len(o.outcomes) for o in await three.operations()} == {3}
    assert "capture.interrupted" not in [line.entry.kind for line in await three.store.read(lambda tx: tx.lines())]
    assert await three.problems() == []
