"""Built-in runbooks against the real trouble: a disk that is too full, and a database whose connections are taken.

The real commands, two operators, real agents on lab hosts; the trouble is made first and looked at afterwards.
"""

from collections.abc import Iterator

import pytest

from tests.fakes import postgres
from tests.fleet import Fleet
from tests.lab import NETNS, Host, default_backend, eventually
from tests.runbooks.rehearsing import rehearse

pytestmark = [pytest.mark.netns, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]

_SERVER = "/var/lib/shop-db"
_STUCK = 14  # sessions, of 17 that the server has for everybody
_POLICY = b'actions = ["risk:read", "risk:reversible", "risk:disruptive", "disk.*", "postgres.terminate"]\n'


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One host that allows what destroys, a second operator, and an incident."""
    if default_backend() != NETNS or postgres.binaries() is None:
        pytest.skip("needs root, namespaces and PostgreSQL's server")
    with Fleet(1, disk_bytes=512 << 20) as made:
        host = made.lab["h1"]
        host.end_agent()
        host.write("/etc/fireline/policy.toml", _POLICY)
        host.start_agent()
        eventually(lambda: made.try_fireline("host", "ping", "-t", "h1").returncode == 0, within_s=30, what="the agent")
        made.fireline("operator", "add", "bob")
        made.fireline("incident", "open", "P2", "shop is slow")
        yield made


def _used_percent(host: Host) -> int:
    return int(host.run(["df", "--output=pcent", "/"]).split()[-1].rstrip("%"))


def test_disk_full_frees_space_until_there_is_enough(fleet: Fleet) -> None:
    """Old logs go, sealed before and with another's word; data and young logs stay; what was not needed is not done."""
    host = fleet.lab["h1"]
    host.run(["sh", "-c", "mkdir -p /var/log/shop /srv && head -c 150000000 /dev/urandom > /srv/data"])
    host.run(["sh", "-c", "for n in 1 2 3 4 5 6; do head -c 12000000 /dev/urandom > /var/log/shop/old$n.log; done"])
    host.run(["sh", "-c", "touch -d '30 days ago' /var/log/shop/old*.log; echo young > /var/log/shop/new.log"])
    before = _used_percent(host)

    told = rehearse(
        fleet, "h1", "disk-full", "-p", "logs=/var/log/shop", "-p", "look_in=/var/log", "-p", "temp=/var/tmp",
        "-p", f"enough={before - 8}",
    )  # fmt: skip

    assert told["state"] == "succeeded", told
    assert _used_percent(host) <= before - 8
    assert host.run(["ls", "/var/log/shop", "/srv/data"]).split() == ["/srv/data", "/var/log/shop:", "new.log"]
    kept = [
        e for e in fleet.json("evidence", "list", "--host", "h1")["evidence"] if e["profile"].startswith("evidence")
    ]
    assert sum(e["bytes"] for e in kept) > 6 * 12_000_000


@pytest.fixture(scope="module")
def database(fleet: Fleet) -> Host:
    """The host, with a server that is full of sessions idle in transactions."""
    _start_database(fleet.lab["h1"])
    return fleet.lab["h1"]


def test_db_pool_exhausted_ends_what_hangs(fleet: Fleet, database: Host) -> None:
    """A real server full of sessions that are idle in transactions is free again; one that does no harm stays."""
    assert _count(database, "state = 'idle in transaction'") == _STUCK

    told = rehearse(fleet, "h1", "db-pool-exhausted", "-p", "older_than=2s", "-p", "enough=60", "-p", "logs=/var/log")

    assert told["state"] == "succeeded", told
    assert _count(database, "state = 'idle in transaction'") == 0
    assert _count(database, "application_name = 'alive'") == 1


def test_p2_database_calls_a_person_where_the_server_is_dead(fleet: Fleet, database: Host) -> None:
    """Nothing here can start a server that was killed: a failover is asked for, and no question is put to the dead."""
    stop = [f"{postgres.binaries()}/pg_ctl", "stop", "-m", "immediate", "-D", _SERVER]
    database.run(["runuser", "-u", "postgres", "--", *stop])

    told = rehearse(fleet, "h1", "p2-database", by_hand=["failover", "full"])

    record = fleet.fireline("journal", "export")
    assert told["state"] == "succeeded", told
    assert "step failover begins: by hand on h1" in record
    assert "step connections begins: postgres.connections on no host" in record


def _start_database(host: Host) -> None:
    programs = postgres.binaries()
    assert programs is not None
    host.run(["mkdir", "-p", _SERVER, "/run/postgresql"])
    host.run(["chown", "postgres", _SERVER, "/run/postgresql"])
    as_owner = ["runuser", "-u", "postgres", "--"]
    host.run([*as_owner, f"{programs}/initdb", "-D", _SERVER, "-A", "trust", "--no-sync"])
    settings = ["-c", "listen_addresses=", "-c", "max_connections=20", "-k", "/run/postgresql"]
    host.spawn([*as_owner, f"{programs}/postgres", "-D", _SERVER, *settings], unit="postgres", log="/var/log/pg.log")
    eventually(lambda: _count(host, "true") > 0, within_s=20, what="the database")
    for number in range(_STUCK):
        _session(host, "begin; select 4711;", f"stuck{number}")
    _session(host, "select 1;", "alive")
    eventually(lambda: _count(host, "state = 'idle in transaction'") == _STUCK, within_s=20, what="stuck sessions")


def _session(host: Host, statement: str, name: str) -> None:
    stays = f"(echo '{statement}'; sleep 1000) | PGAPPNAME={name} psql -X -U postgres"
    host.spawn(["sh", "-c", stays], unit=name, log=f"/var/log/{name}.log")


def _count(host: Host, condition: str) -> int:
    statement = f"select count(*) from pg_stat_activity where {condition}"
    said = host.run(["psql", "-X", "-A", "-t", "-U", "postgres", "-c", statement], check=False).strip()
    return int(said) if said.isdigit() else 0
