"""Built-in runbooks against containers in real trouble: one that fails its health check, one that grows."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import IMAGE, NETNS, default_backend, engine, eventually
from tests.runbooks.rehearsing import rehearse

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

_HOST = "shop1"
_STAYS = "trap 'exit 0' TERM; touch /tmp/well; while :; do sleep 0.2; done"
# 200 kB more each time, in a shell's variable: memory that only a restart gives back.
_GROWS = (
    "trap 'exit 0' TERM; touch /tmp/well; while :; do x=$x$(head -c 200000 /dev/zero | tr '\\0' a); sleep 0.1; done"
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host with an engine, a second operator, and an incident."""
    if default_backend() != NETNS or engine.lacks():
        pytest.skip("needs root, namespaces and a Docker Engine")
    with Fleet([_HOST], engine=True) as made:
        made.fireline("operator", "add", "bob")
        made.fireline("incident", "open", "P2", "shop is slow")
        yield made


def docker(fleet: Fleet, *words: str) -> str:
    """The engine's own client on the host."""
    return engine.docker(fleet.lab[_HOST], *words)


def start(fleet: Fleet, name: str, script: str, *options: str) -> str:
    """Start a container of a Compose service of its name; when it began."""
    service = ("--label", "com.docker.compose.project=shop", "--label", f"com.docker.compose.service={name}")
    docker(fleet, "run", "-d", "--pull", "never", "--name", name, *service, *options, IMAGE, "sh", "-c", script)
    return began(fleet, name)


def began(fleet: Fleet, name: str) -> str:
    """When a container was started last."""
    return docker(fleet, "inspect", "--format", "{{.State.StartedAt}}", name)


def health(fleet: Fleet, name: str) -> str:
    """What a container's own check says."""
    return docker(fleet, "inspect", "--format", "{{.State.Health.Status}}", name)


def test_unhealthy_containers_restarts_those_and_no_other(fleet: Fleet) -> None:
    """What failed its check is healthy again; what has no check was not touched; the evidence was sealed before."""
    check = ("--health-cmd", "[ -f /tmp/well ]", "--health-interval", "1s", "--health-retries", "1")
    start(fleet, "sick", _STAYS, *check)
    untouched = start(fleet, "plain", _STAYS)
    docker(fleet, "exec", "sick", "/bin/busybox", "rm", "/tmp/well")
    eventually(lambda: health(fleet, "sick") == "unhealthy", within_s=30, what="the failing check")

    told = rehearse(fleet, _HOST, "unhealthy-containers", "-p", "after=1s")

    assert told["state"] == "succeeded", told
    assert health(fleet, "sick") == "healthy"
    assert began(fleet, "plain") == untouched
    assert "volatile" in {e["profile"] for e in fleet.json("evidence", "list", "--host", _HOST)["evidence"]}


def test_memory_leak_restarts_and_bounds_the_service_that_grows(fleet: Fleet) -> None:
    """It is named by its service, begins anew, and has a limit afterwards; a person goes on looking for the leak."""
    before = start(fleet, "leaky", _GROWS)

    told = rehearse(fleet, _HOST, "memory-leak", "-p", "service=leaky", "-p", "memory=64MiB", by_hand=["cause"])

    assert told["state"] == "succeeded", told
    assert began(fleet, "leaky") != before
    assert docker(fleet, "inspect", "--format", "{{.HostConfig.Memory}}", "leaky") == str(64 << 20)


def test_p1_critical_starts_what_is_down(fleet: Fleet) -> None:
    """A service that was stopped runs again before a person has to decide on a failover."""
    start(fleet, "api", _STAYS)
    docker(fleet, "stop", "--time", "1", "api")

    told = rehearse(fleet, _HOST, "p1-critical", "-p", "project=shop", by_hand=["failover"])

    assert told["state"] == "succeeded", told
    assert docker(fleet, "inspect", "--format", "{{.State.Status}}", "api") == "running"
