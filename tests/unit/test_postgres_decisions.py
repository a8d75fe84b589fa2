"""What is said of sessions and statements without a server."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fireline_agent.hands import sql_text
from fireline_agent.hands.postgres import pick
from fireline_agent.hands.psql import Place, PsqlError
from fireline_agent.remediation.postgres import make_room
from fireline_agent.remediation.postgres.sessions import Session, tree

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("select * from t where a = 'x''y' and b=42", "select * from t where a = ? and b=?"),
        ("alter role app password 'hunter2'", "alter role app password ?"),
        (r"select E'it\'s', 'next'", "select ?, ?"),
        ("select 'C:\\', 'hunter2'", "select ?, ?"),
        ("do $body$ secret $body$; select $$x$$", "do ?; select ?"),
        ("select $1, t1.c2, \"odd 'name'\" from t1", "select $1, t1.c2, \"odd 'name'\" from t1"),
        ("select 1 -- secret\n, 2 /* secret /* nested */ secret */", "select ? , ?"),
        ("insert into t values ('cut off in the midd", "insert into t values (?"),
        ("select X'1F', U&'d\\0061t', 1.5e3", "select ?, U&?, ?"),
    ],
)
def test_values_are_taken_out_of_statements(statement: str, shown: str) -> None:
    """Literals and comments go, names and parameters stay."""
    assert sql_text.masked(statement) == shown


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab'\"$\\-/*eE1; \n", max_size=30), st.text(alphabet="\\'x", max_size=4))
def test_a_masked_statement_is_masked_for_good(statement: str, tail: str) -> None:
    """Whatever stands around it, a quoted secret at a statement's begin never shows."""
    assert "hunter" not in sql_text.masked(f"'hunter' {statement}'{tail}")


def session(pid: int, *blocked_by: int) -> Session:
    """A client's session."""
    return Session.read(
        {
            "pid": pid,
            "backend_start": "2026-05-01T00:00:00+00:00",
            "kind": "client backend",
            "database": "db",
            "role": "app",
            "application": f"a{pid}",
            "client": "",
            "state": "active",
            "waits_for": "",
            "blocked_by": list(blocked_by),
            "transaction_s": 1,
            "query_s": 1,
            "state_s": 1,
            "state_change": None,
            "is_own": False,
            "query": "select 1",
        }
    )


@pytest.mark.parametrize(
    ("waits", "wanted"),
    [
        ({1: (), 2: (1,), 3: (2,), 4: ()}, [(0, 1), (1, 2), (2, 3)]),
        ({1: (), 2: (1,), 3: (1,)}, [(0, 1), (1, 2), (1, 3)]),
        ({1: (2,), 2: (1,)}, [(0, 1), (1, 2)]),
        ({1: (99,), 2: (1,)}, [(0, 1), (1, 2)]),
        ({1: (1,)}, [(0, 1)]),
        ({1: (), 2: ()}, []),
    ],
)
def test_the_tree_of_waiting_sessions(waits: dict[int, tuple[int, ...]], wanted: list[tuple[int, int]]) -> None:
    """Chains, several below one, a circle, a holder that is not listed, one that waits for itself, nobody."""
    found = tree([session(pid, *blocked_by) for pid, blocked_by in waits.items()])

    assert [(depth, one.pid) for depth, one in found] == wanted


def test_a_service_is_found_by_name_or_compose_service() -> None:
    """The container's own name, or the name of its service in Compose."""
    db = {"Id": A, "Names": ["/shop_db_1"], "Labels": {"com.docker.compose.service": "db"}}
    web = {"Id": B, "Names": ["/web"], "Labels": None}

    assert pick([db, web], "db") is db
    assert pick([db, web], "shop_db_1") is db
    assert pick([db], None) is db


@pytest.mark.parametrize(
    ("containers", "service", "message"),
    [
        ([{"Id": A, "Names": ["/web"]}], "db", "no running container or Compose service 'db'; running: web"),
        ([{"Id": A, "Names": ["/x"]}, {"Id": B, "Names": ["/y"]}], None, "several containers fit: x, y; name one"),
        (["garbage", {"Id": "short"}, {}], "db", "running: none"),
    ],
)
def test_a_service_that_is_not_clear_is_refused(containers: list[object], service: str | None, message: str) -> None:
    """None, several, and whatever else an engine may answer."""
    with pytest.raises(PsqlError, match=message):
        pick(containers, service)


def test_a_connection_string_can_not_be_escaped_from() -> None:
    """Quotes and backslashes in a parameter stay inside of its value."""
    conninfo = Place(database="x' host='evil\\").conninfo()

    assert "dbname='x\\' host=\\'evil\\\\'" in conninfo


@pytest.mark.parametrize(
    ("title", "state"),
    [
        (b"postgres: app shop 198.18.0.7(5432) idle in transaction", b"idle in transaction"),
        (b"postgres: 15/main: app shop [local] idle", b"idle"),
        (b"postgres: app shop [local] idle in transaction (aborted)", b"idle in transaction (aborted)"),
        (b"postgres: app shop [local] SELECT", None),
        (b"postgres: app shop [local] idle in transaction waiting", None),
        (b"postgres: walsender app 198.18.0.7(5432) streaming 0/3000060", None),
        (b"postgres: 15/main: autovacuum worker shop", None),
        (b"postgres: logical replication launcher ", None),
        (b"/usr/lib/postgresql/15/bin/postgres -D /data", None),
        (b"vim postgres: app shop [local] idle", None),
    ],
)
def test_only_idle_backends_are_known_by_their_titles(title: bytes, state: bytes | None) -> None:
    """With a cluster's name or without; nothing that works, replicates or belongs to the server."""
    found = make_room._TITLE.match(title)

    assert (found[4] if found else None) == state
