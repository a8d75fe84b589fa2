"""A real PostgreSQL on lab hosts: a primary, a replica that streams from it, and applications in all states."""

from collections.abc import Sequence

from tests.fakes import postgres
from tests.fleet import Fleet
from tests.lab import Host, eventually

FOLDER = "/var/lib/shop-db"
CONNECTIONS = 20  # of which the last 3 are kept for superusers
FOR_EVERYBODY = 17
_AS_OWNER = ("runuser", "-u", "postgres", "--")
_TROUBLE = "application_name in ('reports', 'batch', 'greedy')"
_MADE = (
    "create role shop login",
    "create table orders (id serial primary key, note text)",
    "insert into orders (note) select 'new' from generate_series(1, 100)",
    "grant all on orders, orders_id_seq to shop",
)


def allow_everything(fleet: Fleet) -> None:
    """What destroys must be allowed by each host itself."""
    for host in fleet.lab:
        host.end_agent()
        host.write("/etc/fireline/policy.toml", b'actions = ["*"]\n')
        host.start_agent()
    for host in fleet.lab:
        pinged = ("host", "ping", "-t", host.name)
        eventually(lambda: fleet.try_fireline(*pinged).returncode == 0, within_s=30, what=f"the agent of {host.name}")  # noqa: B023  # asked at once


def make_primary(host: Host) -> None:
    """A new server with the table `orders`, for the role `shop` and replicas from anywhere in the lab."""
    programs = _ready(host)
    host.run([*_AS_OWNER, f"{programs}/initdb", "-D", FOLDER, "-A", "trust", "--no-sync"])
    rules = r"host all,replication all 198.18.0.0/15 trust"
    host.run(["sh", "-c", f"echo '{rules}' >> {FOLDER}/pg_hba.conf"])
    host.run(["sh", "-c", f"echo 'max_connections = {CONNECTIONS}' >> {FOLDER}/postgresql.conf"])
    start(host)
    for statement in _MADE:
        sql(host, statement)


def make_replica(host: Host, primary: Host) -> None:
    """A copy of the primary that streams from it."""
    programs = _ready(host)
    host.run([*_AS_OWNER, f"{programs}/pg_basebackup", "-h", primary.address, "-D", FOLDER, "-R", "-c", "fast"])
    start(host)
    eventually(lambda: count(primary, "backend_type = 'walsender'") == 1, within_s=20, what="the replica to stream")


def _ready(host: Host) -> str:
    programs = postgres.binaries()
    assert programs is not None
    host.run(["install", "-d", "-o", "postgres", "-m", "0700", FOLDER])
    host.run(["install", "-d", "-o", "postgres", "/run/postgresql"])
    return str(programs)


def command() -> Sequence[str]:
    """What starts the server of a host in the foreground."""
    settings = ("-c", "listen_addresses=*", "-c", "shared_buffers=16MB", "-k", "/run/postgresql")
    return (f"{postgres.binaries()}/postgres", "-D", FOLDER, *settings)


def start(host: Host) -> None:
    """Start the server of a host, and wait until it answers."""
    host.spawn([*_AS_OWNER, *command()], unit="postgres", log="/var/log/pg.log")
    eventually(lambda: count(host, "true") > 0, within_s=20, what=f"the database of {host.name}")


def stop(host: Host) -> None:
    """Stop it as a power cut would."""
    host.run([*_AS_OWNER, f"{postgres.binaries()}/pg_ctl", "stop", "-w", "-m", "immediate", "-D", FOLDER])


def sql(host: Host, statement: str, *, check: bool = True) -> str:
    """What the host's server answers to its superuser."""
    asked = ["psql", "-X", "-A", "-t", "-U", "postgres", "-h", host.address, "-d", "postgres", "-c", statement]
    return host.run(asked, check=check).strip()


def count(host: Host, condition: str) -> int:
    """How many sessions and processes of a server are as the condition says; -1: it does not answer."""
    said = sql(host, f"select count(*) from pg_stat_activity where {condition}", check=False)
    return int(said) if said.isdigit() else -1


def is_open(at: Host, server: Host) -> bool:
    """Whether an application on one host gets a connection to the server of another."""
    said = at.run(["psql", "-X", "-A", "-t", "-U", "shop", "-h", server.address, "-d", "postgres", "-c", "select 1"],
                  check=False)  # fmt: skip
    return said.strip() == "1"


def session(at: Host, server: Host, name: str, statement: str, *, number: int = 0, role: str = "shop") -> None:
    """An application's session that says one thing and stays."""
    psql = f"PGAPPNAME={name} psql -X -q -U {role} -h {server.address} -d postgres"
    unit = f"{name}{number}"
    at.spawn(["sh", "-c", f'(echo "{statement}"; sleep 1000) | {psql}'], unit=unit, log=f"/var/log/{unit}.log")


def shop(at: Host, server: Host) -> None:
    """The innocent application: one session that takes an order every 0.3 s and must never be cut off."""
    psql = f"PGAPPNAME=checkout psql -X -q -v ON_ERROR_STOP=1 -U shop -h {server.address} -d postgres"
    order = "insert into orders (note) values ('sold');"
    loop = f'while sleep 0.3; do echo "{order}" || exit; done'
    at.spawn(["sh", "-c", f"({loop}) | {psql}"], unit="checkout", log="/var/log/checkout.log")
    eventually(lambda: pids(server, "checkout") != "", within_s=10, what="the shop")


def fill(at: Host, server: Host, *, idle: int, slow: int) -> None:
    """Take connections: sessions idle in their transactions, and statements that run for ever."""
    clear(server)
    for number in range(1, idle + 1):
        session(at, server, "reports", f"begin; update orders set note = 'x' where id = {number};", number=number)
    for number in range(slow):
        session(at, server, "batch", "select pg_sleep(1000);", number=number)
    wanted = "state = 'idle in transaction' or application_name = 'batch'"
    old = "clock_timestamp() - state_change > interval '2 s'"
    eventually(lambda: count(server, f"({wanted}) and {old}") == idle + slow, within_s=30, what="the trouble")


def clear(server: Host) -> None:
    """End what trouble is left."""
    sql(server, f"select pg_terminate_backend(pid) from pg_stat_activity where {_TROUBLE}")
    eventually(lambda: count(server, _TROUBLE) == 0, within_s=10, what="the trouble to be gone")


def pids(server: Host, application: str) -> str:
    """The sessions of an application, by process."""
    return sql(server, f"select pid from pg_stat_activity where application_name = '{application}' order by 1")


def sold(server: Host) -> int:
    """How many orders the innocent application has made."""
    return int(sql(server, "select count(*) from orders where note = 'sold'"))
