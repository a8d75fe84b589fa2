"""Containers in every state of health on three hosts: only the unhealthy are restarted, one host first."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, default_backend, engine
from tests.rehearsals.ground import (
    CHECK,
    WELL,
    Going,
    fail_check,
    fleet_of_two_people,
    health,
    is_proved,
    lines,
    opened,
    planned,
    run_container,
    started_at,
    steps_on_record,
    suggested,
    until_health,
)

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

HOSTS = ("web1", "web2", "web3")
OTHERS = ("plain", "starting", "fine")
BOOK = "unhealthy-containers"
PARAMS = ("after=1s", "wait=10s")
_STARTING = ("--health-cmd", "false", "--health-interval", "1s", "--health-start-period", "1h")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three hosts, each with one container without a check, one that is starting, a healthy and a sick one."""
    if default_backend() != NETNS or engine.lacks():
        pytest.skip("needs root, namespaces and a Docker Engine")
    with fleet_of_two_people(*HOSTS, engine=True) as made:
        for host in made.lab:
            run_container(host, "plain")
            run_container(host, "starting", WELL, *_STARTING)
            run_container(host, "fine", WELL, *CHECK)
            run_container(host, "sick", WELL, *CHECK)
        yield made


def _started(fleet: Fleet, *names: str) -> dict[str, dict[str, str]]:
    return {host.name: started_at(host, *names) for host in fleet.lab}


def _fail(fleet: Fleet) -> None:
    for host in fleet.lab:
        until_health(host, "fine", "healthy")
        fail_check(host, "sick")


def test_only_what_is_unhealthy_is_restarted_one_host_first(fleet: Fleet) -> None:
    """Suggested by the finding; planned without a touch; cured host after host; the others keep their start."""
    _fail(fleet)
    before = _started(fleet, *OTHERS, "sick")
    incident = opened(fleet, "P2", "containers are unhealthy on the web hosts", "web[1-3]")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *PARAMS)
    after_plan = _started(fleet, *OTHERS, "sick")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        ended = going.ended()

    assert next(iter(reasons)) == BOOK
    assert "warning finding container-unhealthy on web1, web2, web3" in reasons[BOOK]
    assert [e["effect"] for e in plan["restart"]["effects"]] == [
        "restart 1 container, one after another (of 4 that run: 1 without a check, 1 starting, 1 healthy, 1 unhealthy)"
        ": docker restart --time 10 sick"
    ] * 3
    assert after_plan == before
    assert (ended.status, ended.state) == (0, "succeeded")
    assert ended.hosts("restart") == [(name, "ok") for name in HOSTS]
    assert [health(host, "sick") for host in fleet.lab] == ["healthy"] * 3
    assert {name: told["unhealthy"] for name, told in ended.results("look", "plan").items()} == dict.fromkeys(HOSTS, 0)
    assert _started(fleet, *OTHERS) == {host: {n: at[n] for n in OTHERS} for host, at in before.items()}
    assert all(_started(fleet, "sick")[host]["sick"] > at["sick"] for host, at in before.items())


def test_the_timeline_has_every_step_and_the_evidence_first(fleet: Fleet) -> None:
    """Each step begins on record, what each host restarts is named, and nothing is restarted before the last seal."""
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    found = lines(fleet, incident)
    kinds = [line["kind"] for line in found]
    intents = [line["summary"] for line in found if line["kind"] == "action.applying"]

    assert steps_on_record(fleet, incident) == ["evidence", "restart", "look", "by_hand"]
    assert all(summary.endswith(": docker restart --time 10 sick") for summary in intents)
    assert len(intents) == 3
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert is_proved(fleet)


def test_a_canary_that_does_not_get_well_spares_the_others_and_calls_a_person(fleet: Fleet) -> None:
    """The check of the first host's container can't hold again: the other hosts keep theirs, a person takes over."""
    first, *rest = fleet.lab
    for host in fleet.lab:
        engine.docker(host, "rm", "-f", "sick")
        broken = WELL.replace("touch /tmp/well; ", "") if host is first else WELL
        run_container(host, "sick", broken, *CHECK)
    for host in rest:
        until_health(host, "sick", "healthy")
        fail_check(host, "sick")
    until_health(first, "sick", "unhealthy")
    before = _started(fleet, "sick")
    incident = opened(fleet, "P3", "containers are unhealthy", "web[1-3]")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        asked = going.done("by_hand")
        ended = going.ended()

    outcomes = dict(ended.hosts("restart"))
    assert outcomes["web1"] == "failed"
    assert "ok" not in outcomes.values()
    assert "did not become healthy" in asked
    assert {host: at for host, at in _started(fleet, "sick").items() if host != "web1"} == {
        host: at for host, at in before.items() if host != "web1"
    }
    assert is_proved(fleet)
