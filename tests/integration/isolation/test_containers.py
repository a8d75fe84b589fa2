"""Containers cut off alone: those that come later, those that fight back, those on the host's own network."""

from collections.abc import Iterator

import pytest

from fireline_wire.isolation import Scope
from fireline_wire.v1 import isolation_pb2
from tests.integration.conftest import need
from tests.integration.isolation.ground import Ground, ground
from tests.lab import IMAGE, NETNS, Host, default_backend, engine, eventually

pytestmark = [pytest.mark.netns, pytest.mark.docker, pytest.mark.timeout(120)]

_SOON_S = 15.0  # looked at every five seconds, and the engine is asked each time


@pytest.fixture(scope="module")
def engine_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One host with a Docker Engine."""
    need(default_backend() == NETNS, "namespaces need root, iproute2 and nftables")
    need(not engine.lacks(), f"an engine needs {', '.join(engine.lacks())}")
    with ground(tmp_path_factory.mktemp("ground"), ("web-1",), engine=True) as made:
        yield made


@pytest.fixture
def host(engine_ground: Ground) -> Iterator[Host]:
    """The host; its containers end with the test."""
    found = engine_ground.lab["web-1"]
    yield found
    for name in engine.docker(found, "ps", "-aq").split():
        engine.docker(found, "rm", "-f", name)


def run(host: Host, name: str, *options: str) -> str:
    """Start a container; its pid on the host."""
    engine.docker(host, "run", "-d", "--pull", "never", "--name", name, *options, IMAGE, "sleep", "9999")
    return engine.docker(host, "inspect", "-f", "{{.State.Pid}}", name).strip()


def rules(host: Host, pid: str) -> str:
    """The rules inside a container."""
    return host.run(["nsenter", "-t", pid, "-n", "nft", "-s", "list", "ruleset"])


def is_dark(host: Host, pid: str) -> bool:
    """Whether both tables are in force there for good."""
    return rules(host, pid).count("elements = { 0x00000000 }") == 2


async def test_a_container_that_is_started_later_is_cut_off_too(engine_ground: Ground, host: Host) -> None:
    """The scope is what it selects, not who was there."""
    first = run(host, "one")
    order = engine_ground.order(host, scope=Scope("image", IMAGE))
    async with engine_ground.connected(host) as controller:
        await controller.isolate(order, host)
        assert is_dark(host, first)
        later = run(host, "two")
        eventually(lambda: is_dark(host, later), within_s=_SOON_S, what="the later one to be dark")
        released = await controller.release(order.order_id)

    assert list(released.order_ids) == [order.order_id]
    assert [pid for pid in (first, later) if "fireline_" in rules(host, pid)] == []


async def test_a_container_that_undoes_its_own_rules(engine_ground: Ground, host: Host) -> None:
    """It is said in the plan, and they come back."""
    pid = run(host, "strong", "--cap-add", "NET_ADMIN")
    order = engine_ground.order(host, scope=Scope("container", "strong"))
    async with engine_ground.connected(host) as controller:
        plan = await controller.plan(order)
        await controller.isolate(order, host)
        host.run(["nsenter", "-t", pid, "-n", "nft", "flush", "ruleset"])
        eventually(lambda: is_dark(host, pid), within_s=_SOON_S, what="the rules")
        [state] = (await controller.status()).isolations
        await controller.release(order.order_id)

    assert list(plan.lacks) == [
        "container strong may change its own rules (NET_ADMIN): what it undoes is put back within seconds; "
        "the scope paused:strong leaves it no say"
    ]
    assert state.drifts == 1


async def test_a_container_on_the_hosts_network_is_refused(engine_ground: Ground, host: Host) -> None:
    """With what to do instead."""
    run(host, "shared", "--net", "host")
    async with engine_ground.connected(host) as controller:
        plan = await controller.plan(engine_ground.order(host, scope=Scope("container", "shared")))
        nobody = await controller.plan(engine_ground.order(host, scope=Scope("container", "nosuch")))

    assert plan.refusal == (
        "container shared is on the host's network: isolate the host, "
        "or stop its processes with the scope paused:shared"
    )
    assert nobody.refusal == "no running container is container:nosuch"


async def test_the_lease_of_a_paused_container_outlives_the_agent(engine_ground: Ground, host: Host) -> None:
    """The agent is killed, nobody commits: the container goes on in time."""
    run(host, "held")
    order = engine_ground.order(host, scope=Scope("paused", "held"), lease_s=5)
    async with engine_ground.connected(host) as controller:
        armed = await controller.arm(order)
    host.kill_agent()
    paused = _is_paused(host)
    eventually(lambda: not _is_paused(host), within_s=20, what="the container to go on")
    engine_ground.start(host)

    assert armed.state.phase == isolation_pb2.IsolationState.PHASE_ARMED
    assert paused


def _is_paused(host: Host) -> bool:
    return engine.docker(host, "inspect", "-f", "{{.State.Paused}}", "held").strip() == "true"
