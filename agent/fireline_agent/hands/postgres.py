"""Finds the host's PostgreSQL server, in a container or by its socket, and holds the question that everybody asks it.

For PostgreSQL 10 and later. Leaves to others: asking (psql), judging the answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import docker
from fireline_agent.hands.psql import ContainerServer, LocalServer, Place, PsqlError, Server
from fireline_agent.hands.roots import Roots

_SOCKET_FOLDERS: Final = ("var/run/postgresql", "tmp")  # Debian's and most others', and the sources' own default
_IMAGE: Final = re.compile(r"(?:^|[/-])(?:postgres|postgresql|postgis|timescaledb|pgvector)(?:[:@-]|$)")

# Sessions and processes of the server, oldest first, with what they wait for; times in UTC, ages in seconds.
SESSIONS: Final = """
select json_build_object(
  'now', clock_timestamp(),
  'version', current_setting('server_version_num')::int,
  'is_in_recovery', pg_is_in_recovery(),
  'max_connections', current_setting('max_connections')::int,
  'reserved', current_setting('superuser_reserved_connections')::int,
  'session_count', (select count(*) from pg_stat_activity),
  'sessions', coalesce((select json_agg(s) from (
    select pid, backend_start, coalesce(backend_type, '') as kind, coalesce(datname, '') as database,
      coalesce(usename, '') as role, coalesce(application_name, '') as application,
      coalesce(host(client_addr), '') as client, coalesce(state, '') as state,
      coalesce(wait_event_type || ':' || wait_event, '') as waits_for,
      xact_start, query_start, state_change,
      round(extract(epoch from clock_timestamp() - xact_start)::numeric, 1) as transaction_s,
      round(extract(epoch from clock_timestamp() - query_start)::numeric, 1) as query_s,
      round(extract(epoch from clock_timestamp() - state_change)::numeric, 1) as state_s,
      case when wait_event_type = 'Lock' then pg_blocking_pids(pid) else '{}' end as blocked_by,
      pid = pg_backend_pid() as is_own, left(query, 1000) as query
    from pg_stat_activity order by backend_start limit 2000) s), '[]'::json))
"""


@dataclass(frozen=True)
class Wanted:
    """What an order says of the server; None where it says nothing."""

    service: str | None = None
    socket: str | None = None
    port: int = 5432
    user: str | None = None
    database: str = "postgres"


def find(roots: Roots, wanted: Wanted) -> Server:
    """The server that is wanted: in the container or Compose service named, behind the socket named, or the only one.

    Raises:
        PsqlError: there is none, or several that fit; the message says what was looked for and where.
    """
    if wanted.service is not None:
        return _contained(roots, wanted, _containers(roots))
    if wanted.socket is not None:
        return LocalServer(Place(wanted.socket, wanted.port, wanted.user or "postgres", wanted.database))
    folders = [roots.root / folder for folder in _SOCKET_FOLDERS]
    for folder in folders:
        if (folder / f".s.PGSQL.{wanted.port}").exists():
            return LocalServer(Place(str(folder), wanted.port, wanted.user or "postgres", wanted.database))
    looked = f"no socket .s.PGSQL.{wanted.port} in {' or '.join(map(str, folders))}"
    try:
        running = [c for c in _containers(roots) if _IMAGE.search(str(c.get("Image", "")))]
    except PsqlError as error:
        raise PsqlError(f"no PostgreSQL here: {looked}; {error}", reason="absent") from None
    if not running:
        raise PsqlError(f"no PostgreSQL here: {looked}, no running container of its image", reason="absent")
    return _contained(roots, wanted, running)


def pick(containers: Sequence[Any], service: str | None) -> Mapping[str, Any]:
    """The one container with this name, Compose service or id, or the only one where none is named.

    Raises:
        PsqlError: none or several.
    """
    known = [c for c in containers if isinstance(c, dict) and docker.is_id(c.get("Id"))]
    fit = known if service is None else [c for c in known if service in docker.called(c)]
    if len(fit) == 1:
        return fit[0]
    names = ", ".join(sorted(map(container_name, fit or known))[:20]) or "none"
    if fit:
        raise PsqlError(f"several containers fit: {names}; name one with `service`", reason="absent")
    raise PsqlError(f"no running container or Compose service {service!r}; running: {names}", reason="absent")


def container_name(container: Mapping[str, Any]) -> str:
    """Its name without the slash, or its short id."""
    names = container.get("Names")
    return str(names[0]).lstrip("/")[:128] if isinstance(names, list) and names else str(container.get("Id", ""))[:12]


def _containers(roots: Roots) -> list[dict[str, Any]]:
    with _reached(roots.docker_socket) as engine:
        return [c for c in engine.containers() if isinstance(c, dict) and c.get("State") == "running"]


def _contained(roots: Roots, wanted: Wanted, containers: Sequence[Any]) -> Server:
    found = pick(containers, wanted.service)
    user = wanted.user or _superuser(roots, found["Id"])
    place = Place(wanted.socket or "/var/run/postgresql", wanted.port, user, wanted.database)
    return ContainerServer(roots.docker_socket, found["Id"], container_name(found), place)


def _superuser(roots: Roots, container: str) -> str:
    """Who the official image made the superuser; its environment holds the password too, which is not looked at."""
    with _reached(roots.docker_socket) as engine:
        config = engine.inspect(container).get("Config")
    variables = config.get("Env") if isinstance(config, dict) else None
    for variable in variables if isinstance(variables, list) else []:
        name, _, value = str(variable).partition("=")
        if name == "POSTGRES_USER" and value:
            return value
    return "postgres"


@contextmanager
def _reached(socket: Path) -> Iterator[docker.Engine]:
    try:
        with docker.connect(socket) as engine:
            yield engine
    except (docker.EngineAbsent, docker.EngineError) as error:
        raise PsqlError(str(error), reason="absent") from None
