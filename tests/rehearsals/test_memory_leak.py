"""A container that grows: found by what it uses, restarted alone, bounded; the former limits come back."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, engine, eventually
from tests.rehearsals.ground import (
    WELL,
    Going,
    fleet_of_two_people,
    is_proved,
    lines,
    opened,
    planned,
    run_container,
    service_options,
    started_at,
    steps_on_record,
    suggested,
)

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

BOOK = "memory-leak"
LEAKING, FINE = "shop-api-1", "shop-web-1"
LIMIT = 200 << 20
# A shell's variable grows by 80 KiB at a time, up to 60 MB: enough to be seen, and no harm to this machine.
_LEAK = """
x=aaaaaaaa; n=0; while [ $n -lt 10 ]; do x=$x$x; n=$((n+1)); done
kept=; while :; do [ ${#kept} -lt 60000000 ] && kept=$kept$x$x$x$x$x$x$x$x$x$x; sleep 0.05; done
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts; the service that leaks runs on the first one only, another one on both."""
    if default_backend() != NETNS or engine.lacks():
        pytest.skip("needs root, namespaces and a Docker Engine")
    with fleet_of_two_people("app1", "app2", engine=True) as made:
        for host in made.lab:
            run_container(host, FINE, WELL, *service_options("shop", "web"))
        run_container(made.lab["app1"], LEAKING, _LEAK, *service_options("shop", "api"))
        yield made


def _memory_bytes(host: Host, name: str) -> int:
    """What the first process of a container has of memory, by the kernel's own accounts."""
    pid = engine.docker(host, "inspect", "--format", "{{.State.Pid}}", name)
    status = host.run(["cat", f"/proc/{pid}/status"])
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


def _limit_bytes(host: Host, name: str) -> int:
    return int(engine.docker(host, "inspect", "--format", "{{.HostConfig.Memory}}", name))


def _starts(fleet: Fleet) -> dict[str, dict[str, str]]:
    names = {"app1": (FINE, LEAKING), "app2": (FINE,)}
    return {host.name: started_at(host, *names[host.name]) for host in fleet.lab}


def test_the_leaking_service_is_found_restarted_alone_bounded_and_let_go_again(fleet: Fleet) -> None:
    """Its memory is back, it alone was restarted and has the limit; the rollback leaves it without one."""
    app1 = fleet.lab["app1"]
    eventually(lambda: _memory_bytes(app1, LEAKING) > 20 << 20, within_s=60, what="the leak to be seen")
    incident = opened(fleet, "P3", "memory of the shop grows and grows", "app[1-2]")
    before = _starts(fleet)
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, "service=api", f"memory={LIMIT}")
    after_plan, grown = _starts(fleet), _memory_bytes(app1, LEAKING)
    with Going(fleet, BOOK, incident, "service=api", f"memory={LIMIT}") as going:
        going.until("cause", within_s=90)
        freed = _memory_bytes(app1, LEAKING)
        bounded = _limit_bytes(app1, LEAKING)
        going.done("cause")
        ended = going.ended()
    after = _starts(fleet)
    taken_back = fleet.json("runbook", "rollback", ended.run["run"], "--reason", "the leak is mended")

    assert next(iter(reasons)) == BOOK
    assert f"most: {LEAKING} with" in plan["consumers"]["effects"][0]["effect"]
    assert after_plan == before
    assert ended.state == "succeeded", ended.run
    assert ended.results("consumers", "plan")["app1"]["containers"][0]["name"] == LEAKING
    assert ended.hosts("restart") == [("app1", "ok")]
    assert freed < grown
    assert bounded == LIMIT
    assert after["app1"][LEAKING] > before["app1"][LEAKING]
    assert (after["app1"][FINE], after["app2"]) == (before["app1"][FINE], before["app2"])
    assert taken_back["state"] == "rolled_back"
    assert "restart (a restarted container can't be put back" in taken_back["why"]
    assert _limit_bytes(app1, LEAKING) > 1 << 60  # what the kernel itself calls no limit
    assert steps_on_record(fleet, incident)[:6] == ["evidence", "consumers", "processes", "restart", "bound", "cause"]
    kinds = [line["kind"] for line in lines(fleet, incident)]
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert is_proved(fleet)


def test_a_service_that_runs_nowhere_restarts_nothing(fleet: Fleet) -> None:
    """The run ends before the restart and says which service was not found."""
    incident = opened(fleet, "P3", "memory grows", "app[1-2]")
    before = _starts(fleet)
    with Going(fleet, BOOK, incident, "service=apii") as going:
        ended = going.ended()

    assert (ended.status, ended.state) == (1, "failed")
    assert "processes: app1 and 1 more" in ended.run["why"]
    assert "apii" in ended.run["why"]
    assert "restart" not in steps_on_record(fleet, incident)
    assert _starts(fleet) == before
