"""`p2-database` on real servers: one that is down is started, one that is blocked is freed, one that is lost is not.

The primary is a service of a real systemd; its replica takes over where a person promotes it.
"""

from collections.abc import Iterator

import pytest

from tests.fakes import postgres
from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually, services
from tests.lab.services import Services
from tests.rehearsals import databases
from tests.rehearsals.databases import count, pids, sql
from tests.rehearsals.ground import (
    Going,
    fleet_of_two_people,
    is_proved,
    lines,
    opened,
    planned,
    steps_on_record,
    suggested,
)

pytestmark = [pytest.mark.netns, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(180)]

BOOK = "p2-database"
PARAMS = ("unit=shop-db.service", "blocked_for=2s", "enough=90")
_UNIT = f"""\
[Service]
User=postgres
ExecStart={" ".join(databases.command())}
"""
_HELD = "wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def ground() -> Iterator[tuple[Fleet, Services]]:
    """A primary under systemd, its replica, and the shop on the replica's host."""
    if default_backend() != NETNS or postgres.binaries() is None or services.lacks():
        pytest.skip("needs root, namespaces, systemd and PostgreSQL's server")
    with fleet_of_two_people("db1", "db2") as made:
        databases.allow_everything(made)
        db1, db2 = made.lab
        databases.make_primary(db1)
        databases.make_replica(db2, db1)
        databases.stop(db1)
        db1.end_agent()
        with Services(db1, {"shop-db.service": _UNIT}, can_change=True) as manager:
            eventually(lambda: count(db1, "true") > 0, within_s=20, what="the primary's service")
            ping = ("host", "ping", "-t", "db1")
            eventually(lambda: made.try_fireline(*ping).returncode == 0, within_s=30, what="the agent's service")
            yield made, manager


@pytest.fixture
def fleet(ground: tuple[Fleet, Services]) -> Fleet:
    """The fleet alone."""
    return ground[0]


@pytest.fixture
def manager(ground: tuple[Fleet, Services]) -> Services:
    """The primary's systemd."""
    return ground[1]


def _is_written(host: Host) -> bool:
    """Whether the server of a host takes writes."""
    return "INSERT" in sql(host, "insert into orders (note) values ('by hand')", check=False)


def _opened(fleet: Fleet, title: str) -> str:
    """Open an incident on the primary, of whose server nothing can be captured."""
    fleet.try_fireline("incident", "open", "P2", title, "--target", "db1", "--profile", "database")
    return str(fleet.json("incident", "list")["incidents"][0]["incident"])


def test_a_server_that_is_down_is_started(fleet: Fleet, manager: Services) -> None:
    """Suggested for what the capture saw; planned without a touch; its service runs again and takes writes."""
    db1 = fleet.lab["db1"]
    manager.run("systemctl", "kill", "--signal=KILL", "shop-db")
    eventually(lambda: count(db1, "true") == -1, within_s=10, what="the database to be down")
    incident = _opened(fleet, "the shop's database is unavailable")
    reasons = suggested(fleet, incident)
    planned(fleet, BOOK, incident, *PARAMS)
    after_plan = count(db1, "true")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        ended = going.ended()

    assert next(iter(reasons)) == BOOK
    assert after_plan == -1
    assert (ended.status, ended.state) == (0, "succeeded"), ended.run
    assert ended.hosts("start_unit") == [("db1", "ok")]
    assert ended.hosts("is_up", "verify") == [("db1", "ok")]
    assert _is_written(db1)
    assert steps_on_record(fleet, incident) == [
        "evidence", "state", "start", "start_unit", "settled", "is_up", "enough", "blocking", "sessions", "free",
        "unblocked", "failover", "in_need",
    ]  # fmt: skip
    assert is_proved(fleet)


def test_who_holds_others_up_is_ended_and_those_go_on(fleet: Fleet) -> None:
    """A session that forgot its lock is ended with another's word, its locks sealed before; who waited gets through."""
    db1, db2 = fleet.lab
    databases.session(db2, db1, "reports", "begin; lock table orders;")
    eventually(lambda: count(db1, "state = 'idle in transaction'") == 1, within_s=10, what="the lock")
    databases.session(db2, db1, "checkout", "insert into orders (note) values ('sold');")
    old = "clock_timestamp() - query_start > interval '2 s'"
    eventually(lambda: count(db1, f"{_HELD} and {old}") == 1, within_s=20, what="the shop to wait")
    waiting = pids(db1, "checkout")
    incident = opened(fleet, "P2", "orders wait for locks", "db1", profile="database")
    reasons = suggested(fleet, incident)
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("step free")
        ended = going.ended()
    kinds = [line["kind"] for line in lines(fleet, incident)]

    assert next(iter(reasons)) == BOOK
    assert (ended.status, ended.state) == (0, "succeeded"), ended.run
    assert (pids(db1, "reports"), pids(db1, "checkout")) == ("", waiting)
    assert databases.sold(db1) == 1
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert is_proved(fleet)


def test_a_server_that_does_not_come_back_is_failed_over_by_hand(fleet: Fleet, manager: Services) -> None:
    """Its data is gone: the start fails, nothing else is tried, a person is asked, promotes the replica and says so."""
    db1, db2 = fleet.lab
    manager.run("systemctl", "kill", "--signal=KILL", "shop-db")
    manager.run("mv", databases.FOLDER, f"{databases.FOLDER}.gone")
    incident = _opened(fleet, "the shop's database is unavailable")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        asked = going.until("failover")
        sql(db2, "select pg_promote()")
        going.done("failover")
        ended = going.ended()

    assert "promote" in asked
    assert ended.hosts("start_unit") == [("db1", "failed")]
    assert ended.state == "succeeded", ended.run
    assert count(db1, "true") == -1
    assert _is_written(db2)
    assert is_proved(fleet)
