"""What is measured, each in a process of its own: `python -m tests.bench.subjects NAME FOLDER JSON` prints JSON.

FOLDER holds the grounds; the stand-ins, or the agents, already serve. A new subject is a function in SUBJECTS.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from fireline_controller import state
from fireline_controller.config import Fanout
from fireline_controller.daemon import Controller
from fireline_controller.engine import TargetSpec, Wish
from fireline_controller.fanout import Budget, Limits, fan_out
from fireline_controller.hosts import Fleet, raise_descriptor_limit, tune_collector
from fireline_controller.model import Host, HostOutcome, Outcome
from tests.bench import evidence, floors, running, transfers
from tests.bench.floors import Times
from tests.bench.grounds import Grounds, command

Once = Callable[[], Awaitable[tuple[HostOutcome, ...]]]


async def fleet(grounds: Grounds, *, rounds: int, deadline_s: float = 30, cold_deadline_s: float = 30) -> Times:
    """The hosts' room and the fan-out: a no-op on every host, first over new connections, then over warm ones."""
    raise_descriptor_limit()
    tune_collector()  # as a controller does when it starts
    credentials = grounds.controller()
    made = Fleet(lambda: credentials, settings=Fanout())

    async def once(deadline_s: float) -> tuple[HostOutcome, ...]:
        now = command()

        async def ping(host: Host) -> HostOutcome:
            await made.client(host).ping(now, timeout_s=deadline_s)
            return HostOutcome(host.name, Outcome.OK)

        return await fan_out(
            grounds.hosts,
            ping,
            limits=Limits(deadline_s, deadline_s * 2, concurrency=len(grounds.hosts)),
            budget=Budget(len(grounds.hosts)),
            cancel=asyncio.Event(),
            on_outcome=lambda outcome: None,
        )

    times = await timed(lambda: once(cold_deadline_s), lambda: once(deadline_s), rounds)
    await made.close()
    return times


async def engine(grounds: Grounds, *, rounds: int) -> Times:
    """The whole controller: target, confirmation, journal and store around the fan-out, as `fireline host ping`."""
    tune_collector()
    opened = state.open_state(grounds.folder / "state")
    store = opened.open_store()
    controller = Controller(opened, store)
    everybody = TargetSpec(("all",))

    async def once() -> tuple[HostOutcome, ...]:
        target, _ = await controller.engine.resolve(everybody)
        wish = Wish("bench", everybody, reason="measuring", confirmed_sha256=target.sha256, host_deadline_s=30)
        return tuple([news async for news in controller.engine.ping(wish) if isinstance(news, HostOutcome)])

    try:
        return await timed(once, once, rounds)
    finally:
        await controller.close()
        store.close()


async def timed(first: Once, once: Once, rounds: int) -> Times:
    """Time one cold round and several warm ones, and count what was not ok in the last."""
    began, cpu = time.perf_counter(), time.process_time()
    outcomes = await first()
    cold_s, cpu_cold_s = time.perf_counter() - began, time.process_time() - cpu
    warm, cpu = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        outcomes = await once()
        warm.append(time.perf_counter() - began)
    cpu_warm_s = (time.process_time() - cpu) / max(rounds, 1)
    not_ok = sum(outcome.outcome is not Outcome.OK for outcome in outcomes)
    return Times(cold_s, warm, cpu_cold_s, cpu_warm_s, not_ok)


async def uvloop_echo(grounds: Grounds, *, rounds: int) -> Times:
    """The floor in uvloop."""
    return await floors.echo(grounds, rounds)


async def stream_echo(grounds: Grounds, *, rounds: int) -> Times:
    """The same with asyncio's streams, in uvloop too."""
    return await floors.echo(grounds, rounds, floors.connected_stream)


async def c_echo(grounds: Grounds, *, rounds: int) -> Times:
    """The floor in C."""
    return await asyncio.to_thread(floors.c_echo, grounds, rounds)


SUBJECTS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "fleet": fleet,
    "engine": engine,
    "uvloop_echo": uvloop_echo,
    "stream_echo": stream_echo,
    "c_echo": c_echo,
    "runs": running.runs,
    "fetch_bare": evidence.fetch_bare,
    "fetch_kept": evidence.fetch_kept,
    "socket_bare": transfers.socket_bare,
    "socket_kept": transfers.socket_kept,
}


def main() -> None:
    """Run one subject and print what it measured."""
    name, folder, options = sys.argv[1:4]
    measured = uvloop.run(SUBJECTS[name](Grounds.load(Path(folder)), **json.loads(options)))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
