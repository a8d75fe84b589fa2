"""`db-pool-exhausted` on a real server whose connections are all taken, with a replica and a shop that must survive."""

from collections.abc import Iterator

import pytest

from tests.fakes import postgres
from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually
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

BOOK = "db-pool-exhausted"
PARAMS = ("older_than=2s", "enough=60")
_STUCK = "state = 'idle in transaction' or (application_name = 'batch' and state = 'active')"
_LIMIT = f"cat {databases.FOLDER}/postgresql.auto.conf"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A primary, its replica, and on the replica's host the shop and a backup that runs for long."""
    if default_backend() != NETNS or postgres.binaries() is None:
        pytest.skip("needs root, namespaces and PostgreSQL's server")
    with fleet_of_two_people("db1", "db2") as made:
        databases.allow_everything(made)
        db1, db2 = made.lab
        databases.make_primary(db1)
        databases.make_replica(db2, db1)
        databases.shop(db2, db1)
        databases.session(db2, db1, "pg_dump", "select pg_sleep(1000);")
        yield made


def _innocent(server: Host) -> tuple[str, str, int]:
    """The sessions that must stay: of the shop, of the backup, and how many replicas stream."""
    return pids(server, "checkout"), pids(server, "pg_dump"), count(server, "backend_type = 'walsender'")


def test_what_hangs_is_ended_and_nobody_else(fleet: Fleet) -> None:
    """Suggested by what the capture saw; planned without a touch; sealed, approved, ended; others get in again."""
    db1, db2 = fleet.lab
    databases.fill(db2, db1, idle=10, slow=5)
    before = _innocent(db1)
    assert not databases.is_open(db2, db1)

    incident = opened(fleet, "P2", "checkout: too many clients", "db1", profile="database")
    reasons = suggested(fleet, incident)
    plan = planned(fleet, BOOK, incident, *PARAMS)
    after_plan = count(db1, _STUCK)
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("step end")
        ended = going.ended()

    assert next(iter(reasons)) == BOOK
    assert "critical finding postgres-connections-taken on db1" in reasons[BOOK]
    assert "15 sessions to end" in plan["end"]["effects"][0]["effect"]
    assert plan["room"]["effects"] == []
    assert after_plan == 15
    assert (ended.status, ended.state) == (0, "succeeded")
    assert count(db1, _STUCK) == 0
    assert databases.is_open(db2, db1)
    assert _innocent(db1) == before
    sold = databases.sold(db1)
    eventually(lambda: databases.sold(db1) > sold, within_s=10, what="the shop to go on selling")


def test_the_timeline_has_every_step_and_the_evidence_first(fleet: Fleet) -> None:
    """Each step begins on record, what was ended is named there, and sessions and locks were sealed before."""
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    found = lines(fleet, incident)
    kinds = [line["kind"] for line in found]
    [applying] = [line for line in found if line["kind"] == "action.applying"]
    [kept] = [e for e in fleet.json("evidence", "list", "--host", "db1")["evidence"] if "postgres_act" in e["profile"]]

    assert steps_on_record(fleet, incident) == [
        "state", "processes", "room", "before", "hanging", "blocking", "evidence", "end", "relieved", "raise_it",
        "restart", "cause", "by_hand",
    ]  # fmt: skip
    assert "postgres.terminate on db1: /var/run/postgresql:5432: 15 sessions to end" in applying["summary"]
    assert len(kinds) - kinds[::-1].index("evidence.sealed") <= kinds.index("action.applying")
    assert "postgres/sessions.jsonl" in fleet.fireline("evidence", "show", kept["evidence_id"])
    assert is_proved(fleet)


def test_a_denied_approval_ends_nobody(fleet: Fleet) -> None:
    """The second operator says no: the run ends, and every session is as it was."""
    db1, db2 = fleet.lab
    databases.fill(db2, db1, idle=10, slow=5)
    incident = opened(fleet, "P2", "checkout: too many clients", "db1", profile="database")
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("step end", "--deny")
        ended = going.ended()

    assert (ended.status, ended.state) == (1, "failed")
    assert "bob denied it" in ended.run["why"]
    assert count(db1, _STUCK) == 15
    assert is_proved(fleet)


def test_a_server_that_can_not_even_be_asked_gets_room_first(fleet: Fleet) -> None:
    """Superusers took the last connections too: an idle session goes with its own approval, then those that hang."""
    db1, db2 = fleet.lab
    before = _innocent(db1)
    for number in range(3):
        databases.session(db2, db1, "greedy", "begin; select 1;", number=number, role="postgres")
    eventually(lambda: count(db1, "true") == -1, within_s=20, what="the server to be full")
    fleet.fireline(
        "incident", "open", "P2", "no connections left", "--target", "db1", "--profile", "database", status=1
    )  # fmt: skip
    incident = fleet.json("incident", "list")["incidents"][0]["incident"]
    reasons = suggested(fleet, incident)
    with Going(fleet, BOOK, incident, *PARAMS) as going:
        going.approved("step room")
        going.approved("step end")
        ended = going.ended()

    assert (ended.status, ended.state) == (0, "succeeded"), ended.run
    assert "critical finding postgres-not-answering on db1" in reasons["p2-database"]
    assert count(db1, _STUCK) == 0
    assert _innocent(db1) == before
    assert is_proved(fleet)


def test_a_raised_limit_is_taken_back(fleet: Fleet) -> None:
    """Written for the next restart, which is a person's; `rollback` brings the former setting back."""
    db1 = fleet.lab["db1"]
    databases.clear(db1)
    incident = opened(fleet, "P2", "connection pool of the shop is small", "db1", profile="database")
    with Going(fleet, BOOK, incident, *PARAMS, "raise_limit=true", "limit=30") as going:
        going.done("restart", "--skip")
        ended = going.ended()
    written = db1.run(["sh", "-c", _LIMIT])
    fleet.fireline("runbook", "rollback", ended.run["run"], "--reason", "rehearsal")

    assert ended.state == "succeeded"
    assert ended.hosts("end") == []
    assert "max_connections = '30'" in written
    assert "max_connections" not in db1.run(["sh", "-c", _LIMIT])
    assert sql(db1, "show max_connections") == str(databases.CONNECTIONS)
