"""An outage over two hosts: what is down starts, dependencies first; what is unhealthy restarts; a person decides."""

from collections.abc import Iterator

import pytest

from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, engine, eventually
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
    service_options,
    started_at,
    steps_on_record,
    suggested,
    until_health,
)

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

BOOK = "p1-critical"
PARAMS = ("project=shop", "after=1s", "wait=15s")
DB, API, WEB, CACHE = "shop-db-1", "shop-api-1", "shop-web-1", "shop-cache-1"
SETTINGS = '[evidence]\ncritical_services = ["compose:db", "compose:api"]\n'

# The database answers on its port, unless its data is broken; the API is healthy as long as it reaches the database.
_DB = "[ -f /tmp/broken ] && exit 1; trap 'exit 0' TERM; httpd -f -p 5432 -h /tmp & wait"
_DB_ADDRESS = "198.18.240.10"
_ASK_DB = f"echo | nc -w 2 {_DB_ADDRESS} 5432"
_ASKED = ("--health-cmd", _ASK_DB, "--health-interval", "1s", "--health-retries", "2")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A project over two hosts: database, API and cache on the first, the web server on the second."""
    if default_backend() != NETNS or engine.lacks():
        pytest.skip("needs root, namespaces and a Docker Engine")
    with fleet_of_two_people("shop1", "shop2", engine=True, settings=SETTINGS) as made:
        shop1, shop2 = made.lab
        engine.docker(shop1, "network", "create", "--subnet", "198.18.240.0/24", "shop")
        for name, script, *options in (
            (DB, _DB, "--ip", _DB_ADDRESS, *_ASKED, *service_options("shop", "db")),
            (API, WELL, *_ASKED, *service_options("shop", "api", "db")),
            (CACHE, WELL, *service_options("shop", "cache")),
        ):
            run_container(shop1, name, script, "--network", "shop", *options)
        run_container(shop2, WEB, WELL, *CHECK, *service_options("shop", "web"))
        yield made


def _well(fleet: Fleet) -> dict[str, str]:
    shop1, shop2 = fleet.lab
    return {name: health(host, name) for host, name in ((shop1, DB), (shop1, API), (shop1, CACHE), (shop2, WEB))}


def _answers(host: Host) -> bool:
    """Whether the database answers, seen from the host."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {_DB_ADDRESS} 5432"
    return "HTTP/1" in host.run(["sh", "-c", ask], check=False)


def _break_down(fleet: Fleet) -> None:
    """The database and the API are down, the web server is unhealthy; the cache is well."""
    shop1, shop2 = fleet.lab
    until_health(shop1, API, "healthy")
    until_health(shop2, WEB, "healthy")
    engine.docker(shop1, "kill", DB, API)
    fail_check(shop2, WEB)


def test_an_outage_over_two_hosts_is_cured_in_order(fleet: Fleet) -> None:
    """The database before the API that needs it; the web server restarts; what was well keeps its start."""
    shop1, _shop2 = fleet.lab
    _break_down(fleet)
    before = started_at(shop1, DB, API, CACHE)
    incident = opened(fleet, "P1", "the shop is down", "shop[1-2]", profile="initial")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *PARAMS)
    untouched = started_at(shop1, DB, API, CACHE) == before
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        asked = going.until("failover", within_s=120)
        cured = _well(fleet)
        going.done("failover", "--skip")
        ended = going.ended()
    after = started_at(shop1, DB, API, CACHE)

    assert next(iter(reasons)) == BOOK, reasons
    assert any("critical-service-down" in reason for reason in reasons[BOOK])
    start = {e["host"]: e["effect"] for e in plan["start"]["effects"]}
    assert start["shop1"].startswith(f"start 2 of 3 containers: docker start {DB}, docker start {API}")
    assert start["shop2"] == "start 0 of 1 containers"
    assert untouched
    assert "fail over by hand" in asked
    assert ended.state == "succeeded", ended.run
    assert cured == {DB: "healthy", API: "healthy", CACHE: "running", WEB: "healthy"}
    assert _answers(shop1)
    assert after[CACHE] == before[CACHE]
    assert before[API] < after[DB] < after[API]
    assert ended.hosts("restart", "plan") == [("shop1", "ok"), ("shop2", "ok")]
    assert ended.hosts("all_services") == []


def test_the_timeline_tells_the_outage_from_capture_to_the_person(fleet: Fleet) -> None:
    """Every step has its line, the evidence of both hosts is sealed first, and the journal holds."""
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    kinds = [line["kind"] for line in lines(fleet, incident)]

    wanted = ["evidence", "disks", "memory", "start", "restart", "all_services", "look", "failover"]
    assert [step for step in steps_on_record(fleet, incident) if step in wanted] == wanted
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert kinds[-1] == "runbook.succeeded"
    assert is_proved(fleet)


def test_a_database_that_does_not_come_up_ends_with_a_person(fleet: Fleet) -> None:
    """Start and restart of all fail on its host; the other host is cured; who fails over by hand says how it went."""
    shop1, _shop2 = fleet.lab
    engine.docker(shop1, "exec", DB, "/bin/busybox", "touch", "/tmp/broken")
    _break_down(fleet)
    incident = opened(fleet, "P1", "the shop is down", "shop[1-2]", profile="volatile")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.until("failover", within_s=150)
        eventually(lambda: health(fleet.lab["shop2"], WEB) == "healthy", within_s=10, what="the other host to be cured")
        going.done("failover", "--failed")
        ended = going.ended()

    looked = {h: r["containers"][0]["name"] for h, r in ended.results("look", "plan").items()}
    assert (ended.status, ended.state) == (1, "failed")
    assert ended.run["why"] == "failover: tester says failed: rehearsal"
    assert ended.hosts("start") == [("shop1", "failed")]  # the other one has nothing to start
    assert ended.hosts("all_services")[0] == ("shop1", "failed")
    assert looked["shop1"] in (DB, API)
    assert health(shop1, DB) == "exited" or not _answers(shop1)
    assert is_proved(fleet)
