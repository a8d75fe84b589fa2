"""`fireline analyze` over real agents: many hosts' logs and a real database, folded into one table."""

import gzip
import re
from collections.abc import Iterator

import pytest

from tests.fakes import postgres
from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually

pytestmark = [pytest.mark.netns, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]

_SERVER = "/var/lib/shop-db"
_STUCK = "(echo 'begin; select 4711;'; sleep 1000) | PGAPPNAME=stuck psql -X -U postgres"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Two hosts with logs, one of them with a database that has a session idle in its transaction."""
    if default_backend() != NETNS or postgres.binaries() is None:
        pytest.skip("needs root, namespaces and PostgreSQL's server")
    with Fleet(2, labels={"h1": "role=db"}) as made:
        for number, host in enumerate(made.lab, start=1):
            lines = [f"2026-05-01 1{number}:00:00 ERROR slow response_time={number * n}\n" for n in range(1, 101)]
            host.write("/var/log/shop/api.log", "".join(lines).encode())
            host.write("/var/log/shop/api.log.1.gz", gzip.compress(b"2026-05-01 09:00:00 ERROR pool exhausted\n"))
        _start_database(made.lab["h1"])
        _allow_ending(made, made.lab["h1"])
        yield made


def _allow_ending(fleet: Fleet, host: Host) -> None:
    """What destroys must be allowed by the host itself."""
    host.end_agent()
    host.write("/etc/fireline/policy.toml", b'actions = ["risk:read", "postgres.terminate"]\n')
    host.start_agent()
    eventually(
        lambda: fleet.try_fireline("host", "ping", "-t", host.name).returncode == 0, within_s=30, what="the agent"
    )


def _start_database(host: Host) -> None:
    programs = postgres.binaries()
    assert programs is not None
    host.run(["mkdir", "-p", _SERVER, "/run/postgresql"])
    host.run(["chown", "postgres", _SERVER, "/run/postgresql"])
    as_owner = ["runuser", "-u", "postgres", "--"]
    host.run([*as_owner, f"{programs}/initdb", "-D", _SERVER, "-A", "trust", "--no-sync"])
    settings = ["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-k", "/run/postgresql"]
    host.spawn([*as_owner, f"{programs}/postgres", "-D", _SERVER, *settings], unit="postgres", log="/var/log/pg.log")
    eventually(lambda: _count(host, "true") > 0, within_s=20, what="the database")
    host.spawn(["sh", "-c", _STUCK], unit="stuck", log="/var/log/stuck.log")
    eventually(lambda: _count(host, "state = 'idle in transaction'") == 1, within_s=10, what="a stuck session")


def _count(host: Host, condition: str) -> int:
    statement = f"select count(*) from pg_stat_activity where {condition}"
    said = host.run(["psql", "-X", "-A", "-t", "-U", "postgres", "-c", statement], check=False).strip()
    return int(said) if said.isdigit() else 0


def test_errors_of_all_hosts_are_one_table(fleet: Fleet) -> None:
    """By the hour, with compressed parts, over both hosts."""
    found = fleet.json("analyze", "log", "errors", "-t", "all", "--path", "/var/log/shop/*.log")

    assert [(row["hour"], row["lines"], row["hosts"]) for row in found["table"]["rows"]] == [
        ("2026-05-01T09", 2, 2),
        ("2026-05-01T11", 100, 1),
        ("2026-05-01T12", 100, 1),
    ]
    assert found["counts"] == {"ok": 2}


def test_response_times_rank_over_the_fleet(fleet: Fleet) -> None:
    """Each host's own, and those of all values together, for people."""
    said = fleet.fireline("analyze", "log", "response-times", "-t", "all", "--path", "/var/log/shop/api.log")

    rows = {line.split("  ")[0]: line.split()[-6:] for line in said.splitlines() if re.match(r"h\d|all together", line)}
    assert rows == {
        "h1": ["100", "50.5", "50", "95", "99", "100"],
        "h2": ["100", "101", "100", "190", "198", "200"],
        "all together": ["200", "75.75", "67", "180", "196", "200"],
    }
    assert "percentiles by nearest rank over 200 values" in said


def test_a_search_says_which_host_has_it(fleet: Fleet) -> None:
    """Lines with their host and log; a host without any is no failure."""
    found = fleet.json("analyze", "log", "search", "pool", "-t", "all", "--path", "/var/log/shop/api.log")
    none = fleet.json("analyze", "log", "search", "-E", "no (such|thing)$", "-t", "all", "--path", "/var/log/shop")

    assert [(row["host"], row["line"]) for row in found["table"]["rows"]] == [
        (host, "2026-05-01 09:00:00 ERROR pool exhausted") for host in ("h1", "h2")
    ]
    assert none["table"]["rows"] == []


def test_a_log_that_only_some_have_is_told(fleet: Fleet) -> None:
    """Those that have it answer; the others are named, and the exit status says so."""
    done = fleet.try_fireline("analyze", "log", "errors", "-t", "all", "--path", "/var/log/pg.log")

    assert done.returncode == 1
    assert "h2" in done.stdout
    assert "no log is there: looked for /var/log/pg.log" in done.stdout


def test_questions_to_databases(fleet: Fleet) -> None:
    """What it does, for how long, who takes the connections, who waits: each in one table, without values."""
    activity = fleet.json("analyze", "postgres", "activity", "-t", "role=db")
    long_running = fleet.json("analyze", "postgres", "long-running", "-t", "role=db", "-p", "older_than=0s")
    connections = fleet.json("analyze", "postgres", "connections", "-t", "role=db")
    blocking = fleet.json("analyze", "postgres", "blocking", "-t", "role=db")

    [session] = activity["table"]["rows"]
    assert (session["application"], session["state"]) == ("stuck", "idle in transaction")
    assert session["statement"] == "select ?;"
    assert [row["pid"] for row in long_running["table"]["rows"]] == [session["pid"]]
    assert [(row["application"], row["connections"]) for row in connections["table"]["rows"]] == [("stuck", 1)]
    assert blocking["table"]["rows"] == []


def test_stuck_sessions_are_ended_after_their_evidence(fleet: Fleet) -> None:
    """The whole way: plan, sealed evidence of sessions and locks, the end, and a look after it."""
    given = ["-t", "role=db", "-p", "older_than=0s", "--reason", "drill", "--yes"]
    done = fleet.json("action", "run", "postgres.terminate", *given)

    [host] = done["hosts"]
    assert host["action"]["verified"].startswith("1 of 1 sessions are over; "), host
    evidence = fleet.json("evidence", "list", "--host", "h1")["evidence"]
    assert len(evidence) == 1
    assert _count(fleet.lab["h1"], "application_name = 'stuck'") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("log", "errors"), "no logs are named: give --path or --container"),
        (("log", "errors", "--path", "relative.log"), "wanted an absolute path"),
        (("log", "errors", "--path", "/x", "-p", "wrds=ERROR"), "did you mean 'words'?"),
        (("postgres", "activity", "-p", "port=none"), "port: wanted a whole number"),
    ],
)
def test_usage_is_told_before_any_host_is_asked(fleet: Fleet, arguments: tuple[str, ...], said: str) -> None:
    """With what is wrong and what to write."""
    done = fleet.try_fireline("analyze", *arguments, "-t", "all")

    assert done.returncode == 2
    assert said in done.stderr
