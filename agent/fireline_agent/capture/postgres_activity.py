"""A PostgreSQL server's sessions and locks: what is gone once sessions are ended.

Values in statements are masked unless the order wants them: they may be passwords and people's data.
Leaves to others: the server's log and files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import flag, refuse_unknown
from fireline_agent.hands import postgres, sql_text
from fireline_agent.hands.psql import PsqlError

VERSION: Final = "1"
_CLIENT: Final = "client backend"
_SCARCE: Final = 0.9  # of the connections taken
_HAS_NONE: Final = ("absent", "down")  # nothing of it runs: there are no sessions to lose
_ANSWERS_NOT: Final = ("down", "starting", "full", "hung")

_LOCKS: Final = """
select coalesce(json_agg(l), '[]'::json) from (
  select pid, locktype, coalesce(database::text, '') as database, coalesce(relation::regclass::text, '') as relation,
    coalesce(transactionid::text, '') as transaction, mode, granted
  from pg_locks where pid <> pg_backend_pid() order by granted, pid limit 20000) l
"""


def collect(context: Context, sink: Sink) -> None:
    """Write `postgres/server.json`, `postgres/sessions.jsonl` and `postgres/locks.jsonl`.

    Params: `service`, `socket`, `port`, `user`, `database` (which server), `mask_secrets`.

    Raises:
        Absent: no server is found, or it is down.
        PsqlError: it does not answer, or not whoever asks; a finding says so too.
        ValueError: a param is unknown or wrong.
    """
    refuse_unknown(context.params, *_WHICH, "mask_secrets")
    is_masked = flag(context.params, "mask_secrets", default=True)
    try:
        server = postgres.find(context.roots, _wanted(context.params))
        answer = server.ask(postgres.SESSIONS)
        locks = server.ask(_LOCKS)
    except PsqlError as error:
        if error.reason in _ANSWERS_NOT:
            sink.finding("critical", "postgres-not-answering", "postgresql", str(error))
        if error.reason in _HAS_NONE:
            raise Absent(str(error)) from None
        raise
    sessions = answer.pop("sessions")
    _note_scarcity(sink, server.name, answer, sessions)
    with sink.artifact("postgres/server.json", source=server.name, method="psql") as artifact:
        artifact.record({"server": server.name, **answer})
    with sink.artifact("postgres/sessions.jsonl", source="pg_stat_activity", method="psql") as artifact:
        for session in sessions:
            artifact.record(session | {"query": sql_text.masked(session["query"] or "")} if is_masked else session)
    with sink.artifact("postgres/locks.jsonl", source="pg_locks", method="psql") as artifact:
        for lock in locks:
            artifact.record(lock)


def _note_scarcity(sink: Sink, name: str, answer: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]]) -> None:
    taken, most = sum(session["kind"] == _CLIENT for session in sessions), answer["max_connections"]
    is_out = taken >= most - answer["reserved"]
    if is_out or taken >= _SCARCE * most:
        left = "; only those for superusers are left" if is_out else ""
        told = f"{name}: {taken} of {most} connections are taken{left}"
        severity = "critical" if is_out else "warning"
        sink.finding(severity, "postgres-connections-taken", "postgresql", told)


_WHICH: Final = {"service": str, "socket": str, "port": int, "user": str, "database": str}


def _wanted(params: Mapping[str, Any]) -> postgres.Wanted:
    given = {name: params[name] for name in _WHICH if name in params}
    for name, value in given.items():
        if not isinstance(value, _WHICH[name]) or isinstance(value, bool):
            raise ValueError(f"collector parameter {name!r}: wanted {_WHICH[name].__name__}, found {value!r}")
    return postgres.Wanted(**given)
