"""A dead host, a refused port, a mute one, a slow one, and each certificate that does not fit: each has its own reason.

gRPC says UNAVAILABLE to most of them, and the operator must do something else in each case.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from fireline_controller import pki
from fireline_controller.config import Fanout
from fireline_controller.hosts import Fleet, HostClient
from fireline_controller.model import Denied, Host, HostError, TimedOut, Unreachable
from fireline_wire.tls import Credentials
from tests.fakes import agent_process
from tests.fakes.agent import FakeAgent
from tests.fakes.fleet import DAY, agent_credentials, authority, command, enrolled, now
from tests.faults.host_process import reason_after_a_break

QUICK = Fanout(dial_s=1, keepalive_s=2, keepalive_timeout_s=1)


@dataclass(frozen=True)
class World:
    """Two authorities: ours, and one that nobody here trusts."""

    ca: pki.Authority
    other: pki.Authority


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: keys take time."""
    folder = Path(tmp_path_factory.mktemp("told-apart"))
    return World(authority(folder / "ours"), authority(folder / "theirs"))


@asynccontextmanager
async def served(credentials: Credentials, *, delay_s: float = 0) -> AsyncIterator[Host]:
    """An agent with these credentials, enrolled as web-1."""
    async with FakeAgent(credentials, delay_s=delay_s).serving() as agent:
        yield enrolled(agent.address)


@asynccontextmanager
async def refused_port(_: World) -> AsyncIterator[Host]:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    yield enrolled(address)


@asynccontextmanager
async def unknown_name(_: World) -> AsyncIterator[Host]:
    """A name too long for the DNS, so that no resolver is asked."""
    yield enrolled(f"{'x' * 64}.invalid:7700")


@asynccontextmanager
async def mute(_: World) -> AsyncIterator[Host]:
    """A port whose connections nobody accepts: what a stopped agent looks like from outside."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield enrolled(f"127.0.0.1:{server.getsockname()[1]}")


@asynccontextmanager
async def no_tls(_: World) -> AsyncIterator[Host]:
    """A web server in the agent's place."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield enrolled(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


def slow(world: World) -> AbstractAsyncContextManager[Host]:
    """An agent that takes its time."""
    return served(agent_credentials(world.ca), delay_s=30)


def expired(world: World) -> AbstractAsyncContextManager[Host]:
    """A certificate of a day, issued ten days ago."""
    return served(agent_credentials(world.ca, issued=now() - 10 * DAY))


def not_yet_valid(world: World) -> AbstractAsyncContextManager[Host]:
    """A certificate that begins in an hour: one of the two clocks is wrong."""
    return served(agent_credentials(world.ca, issued=now() + timedelta(hours=1)))


def untrusted(world: World) -> AbstractAsyncContextManager[Host]:
    """Another authority's agent, which would take our certificate."""
    return served(replace(agent_credentials(world.other), ca_pem=world.ca.ca_pem))


def wrong_name(world: World) -> AbstractAsyncContextManager[Host]:
    """Another host of ours, at this host's address."""
    return served(agent_credentials(world.ca, "db-2"))


def former_enrolment(world: World) -> AbstractAsyncContextManager[Host]:
    """The same name, of a generation that is no more."""
    return served(agent_credentials(world.ca, generation=7))


def rejects_us(world: World) -> AbstractAsyncContextManager[Host]:
    """An agent of ours that trusts another authority for its callers."""
    return served(replace(agent_credentials(world.ca), ca_pem=world.other.ca_pem))


def sound(world: World) -> AbstractAsyncContextManager[Host]:
    """Nothing wrong with this one."""
    return served(agent_credentials(world.ca))


def ours(world: World) -> Credentials:
    """The controller's certificate."""
    return world.ca.controller


def agents(world: World) -> Credentials:
    """A host's certificate, stolen and used for calling: it is for serving only."""
    return agent_credentials(world.ca, "db-2")


def operators(world: World) -> Credentials:
    """An operator's certificate, used on an agent."""
    return world.ca.operator


def strangers(world: World) -> Credentials:
    """A certificate of another authority's, by a caller who trusts ours."""
    return replace(world.other.controller, ca_pem=world.ca.ca_pem)


Place = Callable[[World], AbstractAsyncContextManager[Host]]
CASES: list[tuple[Place, Callable[[World], Credentials], type[HostError], str, str]] = [
    (refused_port, ours, Unreachable, "refused", "refused: the host is up and no agent listens there"),
    (unknown_name, ours, Unreachable, "name_unknown", "the name can't be resolved"),
    (mute, ours, Unreachable, "mute", "accepts connections and stays mute: the agent is frozen or overloaded"),
    (no_tls, ours, Unreachable, "no_tls", "what answers there speaks no TLS 1.3"),
    (slow, ours, TimedOut, "slow", "it is connected and gave no answer in time"),
    (expired, ours, Unreachable, "tls_expired", "its certificate expired 2"),
    (not_yet_valid, ours, Unreachable, "tls_expired", "its certificate is not valid before 2"),
    (untrusted, ours, Unreachable, "tls_untrusted", "its certificate is not by our authority"),
    (wrong_name, ours, Unreachable, "tls_wrong_name", "is for db-2.g1.agent.fireline, wanted web-1.g1.agent.fireline"),
    (former_enrolment, ours, Unreachable, "tls_wrong_name", "is for web-1.g7.agent.fireline"),
    (rejects_us, ours, Unreachable, "tls_rejected_us", "it rejects our certificate ("),
    (sound, strangers, Unreachable, "tls_rejected_us", "it rejects our certificate ("),
    (sound, agents, Unreachable, "tls_rejected_us", "it rejects our certificate ("),
    (sound, operators, Denied, "role_refused", "spiffe://fireline/operator/olga called what only the role controller"),
]


@pytest.mark.parametrize(
    ("place", "caller", "kind", "reason", "message"),
    CASES,
    ids=[f"{place.__name__}-{caller.__name__}" for place, caller, *_ in CASES],
)
async def test_each_failure_has_its_own_reason(
    world: World,
    place: Place,
    caller: Callable[[World], Credentials],
    kind: type[HostError],
    reason: str,
    message: str,
) -> None:
    """Kind, reason and words, within the time that the call was given and a second look's."""
    credentials = caller(world)
    fleet = Fleet(lambda: credentials, settings=QUICK)
    began = time.monotonic()
    async with place(world) as host:
        with pytest.raises(HostError) as caught:
            await fleet.client(host).ping(command(), timeout_s=2)
        took_s = time.monotonic() - began
        await fleet.close()

    assert (type(caught.value), caught.value.reason) == (kind, reason), str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).startswith("web-1")
    assert took_s < 2 + 0.5


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still while the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_frozen_agent_is_noticed_by_keep_alive(world: World) -> None:
    """SIGSTOP, where the kernel still acknowledges: within keep-alive, time-out and half a second."""
    fleet = Fleet(lambda: world.ca.controller, settings=QUICK)
    with agent_process.serving(agent_credentials(world.ca)) as agent:
        events = fleet.client(enrolled(agent.address)).watch()
        await anext(aiter(events))
        with stopped(agent.pid):
            began = time.monotonic()
            with pytest.raises(Unreachable) as caught:
                await anext(aiter(events))
            noticed_s = time.monotonic() - began
            again = await reason_after_a_break(fleet.client(enrolled(agent.address)))
        await fleet.client(enrolled(agent.address)).ping(command(), timeout_s=2)
        await fleet.close()

    assert caught.value.reason == "broken"
    assert again == "mute"
    assert noticed_s <= QUICK.keepalive_s + QUICK.keepalive_timeout_s + 0.5


async def test_a_killed_agent_is_noticed_at_once(world: World) -> None:
    """kill -9 in the middle of a stream: the kernel says so, and no clock is needed."""
    fleet = Fleet(lambda: world.ca.controller, settings=QUICK)
    with agent_process.serving(agent_credentials(world.ca)) as agent:
        events = fleet.client(enrolled(agent.address)).watch()
        await anext(aiter(events))
        os.kill(agent.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            await anext(aiter(events))
        noticed_s = time.monotonic() - began
        await fleet.close()

    assert caught.value.reason == "broken"
    assert noticed_s < 0.5


async def test_pings_that_meet_a_dying_agent_are_broken_and_at_once(world: World) -> None:
    """kill -9 under pings one after another: each says that the connection was lost, or what its new dial found."""
    fleet = Fleet(lambda: world.ca.controller, settings=QUICK)
    for _ in range(4):
        with agent_process.serving(agent_credentials(world.ca)) as agent:
            client = fleet.client(enrolled(agent.address))
            pinging = [asyncio.create_task(_reason_of_the_first_that_fails(client)) for _ in range(6)]
            await asyncio.sleep(0.2)
            os.kill(agent.pid, signal.SIGKILL)
            async with asyncio.timeout(1.5):
                reasons = await asyncio.gather(*pinging)

        assert set(reasons) <= {"broken", "refused"}
    await fleet.close()


async def _reason_of_the_first_that_fails(client: HostClient) -> str:
    while True:
        try:
            await client.ping(command(), timeout_s=2)
        except HostError as error:
            return error.reason


async def test_a_host_that_waits_for_its_turn_is_not_taken_for_one_that_does_not_answer(world: World) -> None:
    """Every place for dialling is taken for longer than a dial may take; when one is free the host is reached."""
    ours = world.ca.controller
    fleet = Fleet(lambda: ours, settings=Fanout(dial_s=0.3))
    slots = fleet._control.slots
    async with served(agent_credentials(world.ca)) as host, contextlib.AsyncExitStack() as taken:
        while not slots._free.locked():
            await taken.enter_async_context(slots.slot())  # each is given up after half a second
        answer = await fleet.client(host).ping(command(), timeout_s=5)
        await fleet.close()

    assert answer.round_trip_ns > 0
