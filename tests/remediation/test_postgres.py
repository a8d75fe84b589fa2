"""Actions on PostgreSQL against a real server with real trouble."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fireline_agent.capture import postgres_activity
from fireline_agent.capture.collector import Absent, Context
from fireline_agent.hands.roots import Roots
from fireline_agent.remediation.action import ActionError, Tools
from fireline_agent.remediation.applying import PlanChanged
from fireline_agent.remediation.postgres import (
    activity,
    blocking,
    check,
    connections,
    long_running,
    make_room,
    set_max_connections,
    terminate,
)
from tests.fakes import postgres
from tests.remediation.databases import Trouble, troubled, walsender
from tests.remediation.rehearsal import Rehearsal
from tests.unit.sink import MemorySink

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.PostgresServer]:
    """One server for the module, its limit on its command line."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed here")
    with postgres.running(programs) as running:
        yield running


@pytest.fixture(scope="module")
def small_server() -> Iterator[postgres.PostgresServer]:
    """A server with six connections, three of them for superusers, by its configuration file."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed here")
    with postgres.running(programs, settings="") as running:
        with psycopg.connect(running.url, autocommit=True) as connection:
            connection.execute("alter system set max_connections = 6")
            connection.execute("alter system set max_wal_senders = 2")
        running.stop()
        running.start()
        yield running


@pytest.fixture
def trouble(server: postgres.PostgresServer) -> Iterator[Trouble]:
    """The server, without anybody on it."""
    server.empty()
    with troubled(server) as made:
        yield made


def test_activity_shows_who_does_what_and_no_values(trouble: Trouble) -> None:
    """Each client is told with its state; literals of its statement are not, and we are not among them."""
    trouble.active("shop", "select pg_sleep(60), 'hunter2', 4711 -- secret")
    trouble.idle_in_transaction("report")

    plan = trouble.rehearse(activity.ACTION).plan()

    found = {row["application"]: row for row in plan.result["sessions"]}
    assert sorted(found) == ["report", "shop"]
    assert found["shop"]["query"] == "select pg_sleep(?), ?, ?"
    assert found["report"]["state"] == "idle in transaction"
    assert (plan.result["active"], plan.result["idle_in_transaction"]) == (1, 1)


def test_long_running_leaves_idle_sessions_and_the_young_out(trouble: Trouble) -> None:
    """Only what runs, or is idle in a transaction, for as long as asked for is told."""
    trouble.session("idle")
    trouble.active("slow")
    trouble.idle_in_transaction("stuck")
    trouble.until("application_name = 'stuck' and clock_timestamp() - state_change > interval '1 s'")
    trouble.idle_in_transaction("young")

    plan = trouble.rehearse(long_running.ACTION, older_than=1).plan()

    assert [row["application"] for row in plan.result["rows"]] == ["slow", "stuck"]
    assert plan.result["oldest_s"] >= 1


def test_backups_and_maintenance_are_told_but_not_named_to_be_ended(trouble: Trouble) -> None:
    """They run for long by nature: whoever ends what is named here ends none of them."""
    with psycopg.connect(trouble.server.url, autocommit=True) as connection:
        connection.execute("create table t (id int)")
    trouble.idle_in_transaction("pg_dump", "lock table t in access share mode")
    trouble.active("writer", "lock table t in access exclusive mode; select 1")
    trouble.until("wait_event_type = 'Lock'")

    long, held = trouble.rehearse(long_running.ACTION, older_than=0).plan(), trouble.rehearse(blocking.ACTION).plan()

    assert {row["application"] for row in long.result["rows"]} == {"pg_dump", "writer"}
    assert len(long.result["sessions"]) == 1
    assert (held.result["blocked"], held.result["roots"]) == (1, [])


def test_blocking_is_a_tree(trouble: Trouble) -> None:
    """Who waits stands below who holds it up, also where that one waits itself."""
    with psycopg.connect(trouble.server.url, autocommit=True) as connection:
        connection.execute("create table t (id int)")
    trouble.idle_in_transaction("holder", "lock table t in access share mode")
    trouble.active("writer", "lock table t in access exclusive mode; select 1")
    trouble.active("reader", "select count(*) from t")
    trouble.until("wait_event_type = 'Lock'", count=2)

    plan = trouble.rehearse(blocking.ACTION).plan()

    rows = plan.result["rows"]
    assert [(row["depth"], row["application"]) for row in rows] == [(0, "holder"), (1, "writer"), (2, "reader")]
    assert plan.result["blocked"] == 2
    assert plan.result["roots"] == [rows[0]["session"]]


def test_connections_are_counted_by_application(trouble: Trouble) -> None:
    """The greediest comes first, and the share is of the server's own limit."""
    for _ in range(3):
        trouble.session("greedy")
    trouble.session("modest")

    plan = trouble.rehearse(connections.ACTION).plan()

    assert [(row["application"], row["count"]) for row in plan.result["rows"]] == [("greedy", 3), ("modest", 1)]
    assert plan.result["max"] == 40
    assert plan.result["used_pct"] == plan.result["used"] * 2.5


def test_terminate_ends_what_is_stuck_and_spares_the_rest(trouble: Trouble) -> None:
    """Idle in a transaction: ended. Running: cancelled, and its session lives. Replication, backups, idle: spared."""
    stuck = trouble.idle_in_transaction("stuck")
    slow = trouble.active("slow")
    dump = trouble.active("pg_dump")
    idle = trouble.session("idle")
    with walsender(trouble.server) as streaming:
        trouble.until("backend_type = 'walsender' and state = 'active'")
        trouble.until("application_name = 'stuck' and clock_timestamp() - state_change > interval '1 s'")
        rehearsal = trouble.rehearse(terminate.ACTION, older_than=1)
        plan = rehearsal.plan()
        applied = rehearsal.apply(plan)

        assert sorted(row["application"] for row in plan.result["rows"]) == ["slow", "stuck"]
        assert applied.verified.is_good, applied
        assert applied.result["left"] == 0
        how = {done.change.does.partition(" as ")[0].rpartition(": ")[2]: done.kept["how"] for done in applied.done}
        assert how == {"slow": "its statement was cancelled", "stuck": "it was ended"}
        assert streaming.poll() is None
        assert trouble.count("backend_type = 'walsender' and state = 'active'") == 1
    with pytest.raises(psycopg.OperationalError):
        stuck.execute("select 1")
    assert slow.execute("select 1").fetchone() == idle.execute("select 1").fetchone() == (1,)
    assert trouble.count("application_name = 'pg_dump' and state = 'active'") == 1
    assert dump.closed is False


def test_a_statement_that_is_not_over_after_its_cancel_loses_its_session(trouble: Trouble) -> None:
    """One that stays in its broken transaction still holds its locks: it is ended after the grace."""
    trouble.active("stubborn", is_in_transaction=True)

    applied = trouble.rehearse(terminate.ACTION, older_than=0, grace=1).apply()

    assert [done.kept["how"] for done in applied.done] == ["it was ended"]
    assert trouble.count("application_name = 'stubborn'") == 0


def test_a_plan_whose_session_moved_on_is_refused(trouble: Trouble) -> None:
    """Once the session is in another state the plan is another one, and nothing is done."""
    stuck = trouble.idle_in_transaction("stuck")
    rehearsal = trouble.rehearse(terminate.ACTION, older_than=0)
    plan = rehearsal.plan()
    stuck.execute("commit")

    with pytest.raises(PlanChanged):
        rehearsal.apply(plan)

    assert stuck.execute("select 1").fetchone() == (1,)


def test_a_session_that_moved_on_after_the_plan_is_left_alone(trouble: Trouble) -> None:
    """Each session is looked at once more before it is ended."""
    stuck = trouble.idle_in_transaction("stuck")
    rehearsal = trouble.rehearse(terminate.ACTION, older_than=0)
    (change,) = rehearsal.plan().changes
    stuck.execute("commit")

    kept = terminate.ACTION.do
    assert kept is not None
    assert kept(Tools(), change, rehearsal.params)["how"].startswith("left alone: it is idle since ")
    assert stuck.execute("select 1").fetchone() == (1,)


def test_named_sessions_make_a_plan_that_stands(trouble: Trouble) -> None:
    """With names the plan stays the same though one of them went by itself; only the named ones are ended."""
    gone = trouble.idle_in_transaction("gone")
    trouble.idle_in_transaction("stuck")
    other = trouble.idle_in_transaction("other")
    rows = trouble.rehearse(long_running.ACTION, older_than=0).plan().result["rows"]
    names = [row["session"] for row in rows if row["application"] in ("gone", "stuck")]
    rehearsal = trouble.rehearse(terminate.ACTION, older_than=0, sessions=names)
    plan = rehearsal.plan()
    gone.close()
    trouble.until("application_name = 'gone'", count=0)

    applied = rehearsal.apply(plan)

    assert sorted(done.kept["how"] for done in applied.done) == ["had gone by itself", "it was ended"]
    assert applied.verified.is_good
    assert other.execute("select 1").fetchone() == (1,)


def test_replication_is_never_ended_even_where_it_is_named(trouble: Trouble) -> None:
    """A walsender's name is no client session: nothing happens to it."""
    with walsender(trouble.server) as streaming:
        trouble.until("backend_type = 'walsender' and state = 'active'")
        with psycopg.connect(trouble.server.url) as connection:
            row = connection.execute(
                "select pid || '@' || (backend_start at time zone 'UTC') || '+00:00'"
                " from pg_stat_activity where backend_type = 'walsender'"
            ).fetchone()
        assert row is not None
        applied = trouble.rehearse(terminate.ACTION, older_than=0, sessions=[str(row[0])]).apply()

        assert [done.kept["how"] for done in applied.done] == ["had gone by itself"]
        assert streaming.poll() is None
        assert trouble.count("backend_type = 'walsender' and state = 'active'") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"most": 1}, "2 sessions fit, and at most 1 may be ended: raise `most`, or narrow it by"),
        ({"sessions": ["1@now'; drop table t"]}, "wanted a session as PID@START, as postgres.long_running tells it"),
    ],
)
def test_terminate_refuses(trouble: Trouble, given: dict[str, object], message: str) -> None:
    """More sessions than allowed, and what is no session's name."""
    trouble.idle_in_transaction("one")
    trouble.idle_in_transaction("two")

    with pytest.raises(ActionError, match=message) as refused:
        trouble.rehearse(terminate.ACTION, older_than=0, **given).plan()

    assert refused.value.reason == "refused"


def test_check_tells_a_primary_with_its_replicas(trouble: Trouble) -> None:
    """Up, writable, how full, and who streams from it."""
    with walsender(trouble.server):
        trouble.until("backend_type = 'walsender' and state = 'active'")
        plan = trouble.rehearse(check.ACTION).plan()

    assert plan.result["state"] == "up"
    assert plan.result["is_primary"] is True
    assert [replica["name"] for replica in plan.result["replicas"]] == ["pg_receivewal"]


@pytest.mark.slow
def test_a_replica_tells_that_it_is_one_and_is_never_cut_off(trouble: Trouble) -> None:
    """It is asked like a primary; the primary sees it stream, and ending every session there spares it."""
    programs = postgres.binaries()
    assert programs is not None
    with postgres.standby(programs, trouble.server) as replica, troubled(replica) as beside:
        trouble.until("backend_type = 'walsender' and state = 'active'")
        beside.idle_in_transaction("stuck")
        found = beside.rehearse(check.ACTION).plan().result
        on_replica = beside.rehearse(terminate.ACTION, older_than=0).apply()
        trouble.rehearse(terminate.ACTION, older_than=0, states=["active", "idle_in_transaction", "idle"]).apply()
        replicas = trouble.rehearse(check.ACTION).plan().result["replicas"]

    assert (found["state"], found["is_primary"], found["replay_lag_s"]) == ("up", False, 0)
    assert [done.kept["how"] for done in on_replica.done] == ["it was ended"]
    assert [replica["state"] for replica in replicas] == ["streaming"]


def test_a_limit_on_the_command_line_can_not_be_set(trouble: Trouble) -> None:
    """ALTER SYSTEM would have no effect there, so it is refused and says why."""
    with pytest.raises(ActionError, match="max_connections = 40 is set on the server's command line, which wins over"):
        trouble.rehearse(set_max_connections.ACTION, to=60).plan()


def test_a_limit_is_set_after_a_restart_and_taken_back(small_server: postgres.PostgresServer) -> None:
    """The plan says whom a restart drops; the setting is written, in force after the restart, and can be undone."""
    with troubled(small_server) as trouble:
        trouble.session("shop")
        rehearsal = trouble.rehearse(set_max_connections.ACTION, to=9)
        plan = rehearsal.plan()
        applied = rehearsal.apply(plan)

        assert "which drops 1 sessions (1 of shop)" in plan.warnings[0]
        assert applied.verified.is_good, applied
        assert applied.verified.sentence == "max_connections = 9 is written and holds after a restart"
    small_server.stop()
    small_server.start()
    with troubled(small_server) as trouble:
        assert trouble.rehearse(connections.ACTION).plan().result["max"] == 9
        assert rehearsal.undo(applied) == []
    small_server.stop()
    small_server.start()
    with troubled(small_server) as trouble:
        assert trouble.rehearse(connections.ACTION).plan().result["max"] == 6


def test_a_server_without_any_connection_left_says_so(small_server: postgres.PostgresServer) -> None:
    """Also the superusers' connections are taken: the check says full, other actions what may help."""
    with troubled(small_server) as trouble:
        for _ in range(6):
            trouble.session("greedy")
        checked = trouble.rehearse(check.ACTION).plan()

        assert (checked.result["state"], checked.result["is_up"], checked.result["used_pct"]) == ("full", False, 100.0)
        with pytest.raises(ActionError, match=r"too many clients already; every connection is taken"):
            trouble.rehearse(activity.ACTION).plan()


def test_room_is_made_on_a_server_that_can_not_be_asked(small_server: postgres.PostgresServer) -> None:
    """An idle transaction is ended by its process; sessions at work and replication stay; then it answers again."""
    with troubled(small_server) as trouble, walsender(small_server) as streaming:
        trouble.until("backend_type = 'walsender' and state = 'active'")
        trouble.active("busy")
        trouble.idle_in_transaction("stuck")
        for _ in range(4):
            trouble.session("idle")
        rehearsal = trouble.rehearse(make_room.ACTION)
        plan = rehearsal.plan()
        applied = rehearsal.apply(plan)

        assert plan.changes[0].does.endswith("fireline on postgres from [local], idle in transaction")
        assert plan.result == {"is_full": True, "idle": 5}
        assert [done.kept["how"] for done in applied.done] == ["it was ended"]
        assert applied.verified.sentence == "the server can be asked again"
        assert trouble.count("application_name = 'stuck'") == 0
        assert trouble.count("application_name = 'busy' and state = 'active'") == 1
        assert streaming.poll() is None


def test_no_room_is_made_where_there_is_some(trouble: Trouble) -> None:
    """A server that answers is left as it is."""
    trouble.session("idle")

    plan = trouble.rehearse(make_room.ACTION).plan()

    assert plan.changes == ()
    assert plan.summary.endswith("has room: nothing to do")


def test_a_server_that_hangs_is_told_within_seconds(small_server: postgres.PostgresServer) -> None:
    """Its first process is stopped: no answer comes, and the check says so."""
    pid = int((small_server.folder / "data/postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        plan = troubled_check(small_server.folder)
        assert time.monotonic() - started < 8
    finally:
        os.kill(pid, signal.SIGCONT)

    assert plan == "hung"


def test_a_server_that_went_down_leaves_its_socket(tmp_path: Path) -> None:
    """A socket that nobody listens on is a server that is down, not one that is absent."""
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / ".s.PGSQL.5432"))

    assert troubled_check(tmp_path) == "down"


def troubled_check(folder: Path) -> str:
    """What the check says of a server."""
    found = Rehearsal(check.ACTION, {"socket": str(folder), "user": "fireline"}).plan()
    return str(found.result["state"])


def test_a_host_without_a_server_is_told_where_was_looked(tmp_path: Path) -> None:
    """Neither a socket nor an engine: unsupported, with both places."""
    tools = Tools(roots=Roots(root=tmp_path, docker_socket=tmp_path / "docker.sock"))

    with pytest.raises(ActionError) as absent:
        Rehearsal(check.ACTION, {}, tools).plan()

    assert absent.value.reason == "unsupported"
    for words in ("var/run/postgresql", "docker.sock is not there", "name it with `service`"):
        assert words in str(absent.value)


def test_the_wrong_role_is_refused_with_the_servers_words(trouble: Trouble) -> None:
    """The message names the role that does not exist."""
    with pytest.raises(ActionError, match='role "nobody-here" does not exist'):
        trouble.rehearse(activity.ACTION, user="nobody-here").plan()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lose the right to be somebody else")
def test_an_agent_that_may_be_nobody_else_is_told_what_opens_its_unit(server: postgres.PostgresServer) -> None:
    """As under the agent's unit without its drop-in: the server is well, and asking it as its own user is barred."""
    asks = (
        "from fireline_agent.remediation.postgres import check; from fireline_agent.remediation.action import Tools\n"
        "given = {'service': None, 'user': None, 'port': 5432, 'database': 'postgres', 'socket': %r}\n"
        "try: check.ACTION.gather(Tools(), given)\n"
        "except Exception as error: print(error)"
    )
    bounded = ["setpriv", "--bounding-set", "-setuid,-setgid", sys.executable, "-c", asks % str(server.folder)]
    said = subprocess.run(bounded, capture_output=True, text=True, check=True, timeout=30).stdout

    assert "the agent may not act as the server's own user; its unit lacks CAP_SETUID: install" in said


def test_the_collector_keeps_sessions_and_locks(trouble: Trouble) -> None:
    """What terminate would destroy is kept before, with masked statements."""
    with psycopg.connect(trouble.server.url, autocommit=True) as connection:
        connection.execute("create table t (id int)")
    trouble.idle_in_transaction("stuck", "select 'hunter2' from t")
    sink = MemorySink()

    params = {"socket": str(trouble.server.folder), "user": "fireline"}
    postgres_activity.collect(Context(params=params), sink)

    sessions = {s["application"]: s for s in sink.artifacts["postgres/sessions.jsonl"].records()}
    assert sessions["stuck"]["query"] == "select ? from t"
    assert {"t"} <= {lock["relation"] for lock in sink.artifacts["postgres/locks.jsonl"].records()}
    assert sink.artifacts["postgres/server.json"].document()["max_connections"] == 40


def test_the_collector_is_absent_without_a_server(tmp_path: Path) -> None:
    """No socket and no engine is no failure."""
    with pytest.raises(Absent, match="no PostgreSQL here"):
        postgres_activity.collect(Context(roots=Roots(root=tmp_path, docker_socket=tmp_path / "none")), MemorySink())


def test_the_collector_notes_that_connections_are_taken(small_server: postgres.PostgresServer) -> None:
    """Before the server can't be asked any more: three of six are left, for superusers only."""
    sink = MemorySink()
    with troubled(small_server) as trouble:
        trouble.session("greedy")
        trouble.session("greedy")
        postgres_activity.collect(Context(params={"socket": str(small_server.folder), "user": "fireline"}), sink)

    [found] = sink.findings
    assert (found.severity, found.code) == ("critical", "postgres-connections-taken")
    assert "3 of 6 connections are taken; only those for superusers are left" in found.summary


def test_the_collector_notes_a_server_that_is_full(small_server: postgres.PostgresServer) -> None:
    """A critical finding, whatever can be kept."""
    from fireline_agent.hands.psql import PsqlError

    sink = MemorySink()
    with troubled(small_server) as trouble:
        for _ in range(6):
            trouble.session("greedy")
        with pytest.raises(PsqlError, match="too many clients"):
            postgres_activity.collect(Context(params={"socket": str(small_server.folder), "user": "fireline"}), sink)

    assert [finding.code for finding in sink.findings] == ["postgres-not-answering"]
