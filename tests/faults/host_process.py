"""Controllers in a process of their own: with few descriptors, or in a network namespace that swallows packets.

`python -m tests.faults.host_process FAULT` prints what the controller said, as JSON.
"""

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from fireline_controller import pki
from fireline_controller.config import Fanout
from fireline_controller.fanout import Budget, Limits, fan_out
from fireline_controller.hosts import Fleet, HostClient
from fireline_controller.model import ControllerExhausted, Host, HostError, HostOutcome, Outcome
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import agent_credentials, authority, command, enrolled

QUICK = Fanout(dial_s=1, keepalive_s=2, keepalive_timeout_s=1)
SWALLOWED = "198.18.7.2"  # of this process's own network namespace


def _run(*arguments: str) -> None:
    subprocess.run(arguments, check=True)


def _swallow(*match: str) -> None:
    _run("nft", "add", "table", "inet", "fault")
    _run("nft", "add chain inet fault input { type filter hook input priority 0; }")
    _run("nft", "add", "rule", "inet", "fault", "input", *match, "drop")


async def blackhole(ca: pki.Authority) -> object:
    """Dial an address that swallows packets, five hosts of them among five living ones."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{SWALLOWED}/32", "dev", "lo")
    _swallow("ip", "daddr", SWALLOWED)
    fleet = Fleet(lambda: ca.controller, settings=QUICK)
    began = time.monotonic()
    async with FakeAgent(agent_credentials(ca)).serving() as agent:
        dead = [enrolled(f"{SWALLOWED}:7700", f"dead-{n}") for n in range(5)]
        outcomes = await _ping_all(fleet, [enrolled(agent.address), *dead])
    await fleet.close()
    return {"outcomes": outcomes, "took_s": time.monotonic() - began}


async def cut_off(ca: pki.Authority) -> object:
    """Swallow an agent's packets while it is watched."""
    _run("ip", "link", "set", "lo", "up")
    fleet = Fleet(lambda: ca.controller, settings=QUICK)
    async with FakeAgent(agent_credentials(ca)).serving() as agent:
        events = fleet.client(enrolled(agent.address)).watch()
        await anext(aiter(events))
        _swallow("tcp", "dport", agent.address.rpartition(":")[2])
        began = time.monotonic()
        try:
            await anext(aiter(events))
        except HostError as error:
            noticed = {"reason": error.reason, "took_s": time.monotonic() - began}
        after = await reason_after_a_break(fleet.client(enrolled(agent.address)))
        await fleet.close()
    return noticed | {"after": after}


async def reason_after_a_break(client: HostClient) -> str:
    """What a next call says of a host whose connection broke just now.

    A call that comes before the channel has let go of the dead connection breaks with it; the one after it dials.
    """
    for _ in range(3):
        try:
            await client.ping(command(), timeout_s=2)
        except HostError as error:
            if error.reason != "broken":
                return error.reason
    return "broken"


def _leave_descriptors(count: int) -> int:
    """Allow so many more than are open; the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + count, hard))
    return hard


async def exhausted(ca: pki.Authority) -> object:
    """Call sixteen living agents with descriptors for fewer; the agents' ends are in this process too."""
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(FakeAgent(agent_credentials(ca, f"h-{n}")).serving()) for n in range(16)
        ]
        hosts = [enrolled(agent.address, f"h-{n}") for n, agent in enumerate(agents)]
        hard = _leave_descriptors(12)
        fleet = Fleet(lambda: ca.controller, settings=QUICK)
        outcomes: list[HostOutcome] = []
        try:
            await _ping_all(fleet, hosts, outcomes)
        except ControllerExhausted as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        await fleet.close()
    return {"said": said, "outcomes": [(o.host, o.outcome, o.reason) for o in outcomes]}


async def _ping_all(fleet: Fleet, hosts: list[Host], seen: list[HostOutcome] | None = None) -> object:
    async def ping(host: Host) -> HostOutcome:
        await fleet.client(host).ping(command(), timeout_s=3)
        return HostOutcome(host.name, Outcome.OK)

    outcomes = await fan_out(
        hosts,
        ping,
        limits=Limits(host_deadline_s=3, overall_deadline_s=10, concurrency=len(hosts)),
        budget=Budget(len(hosts)),
        cancel=asyncio.Event(),
        on_outcome=(seen if seen is not None else []).append,
    )
    return [(o.host, o.outcome, o.reason, o.detail) for o in outcomes]


FAULTS: dict[str, Callable[[pki.Authority], Awaitable[object]]] = {
    "blackhole": blackhole,
    "cut-off": cut_off,
    "exhausted": exhausted,
}


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(await FAULTS[sys.argv[1]](authority(Path(folder) / "pki"))))


if __name__ == "__main__":
    asyncio.run(_main())
