"""A server's sessions as values, and what can be said of them without asking again. Pure.

Nothing of a statement but its words is ever shown: values in it are masked (hands.sql_text).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from fireline_agent.hands import sql_text
from fireline_agent.hands.printable import printable
from fireline_agent.hands.psql import APPLICATION
from fireline_agent.remediation.action import ActionError, Facts

_MAX_SHOWN: Final = 300  # characters of a statement, of an application's name
CLIENT: Final = "client backend"
IDLE_IN_TRANSACTION: Final = ("idle in transaction", "idle in transaction (aborted)")
# Programs that back a server up, by the names that they give themselves.
BACKUPS: Final = ("pg_dump", "pg_dumpall", "pg_basebackup", "pg_restore", "pgbackrest", "barman")
# Work on the server itself that looks like any other client's: an index being built, a table being rewritten.
MAINTENANCE: Final = ("vacuum", "analyze", "reindex", "cluster", "create index", "create unique index", "refresh ")


@dataclass(frozen=True)
class Session:
    """One session or process of the server. `started` tells it from a later one with its pid. Ages in seconds."""

    pid: int
    started: str
    kind: str
    database: str
    role: str
    application: str
    client: str
    state: str
    waits_for: str
    blocked_by: tuple[int, ...]
    transaction_s: float
    query_s: float
    state_s: float
    state_since: str
    is_own: bool
    query: str

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """From a row of the answer; its statement masked at once."""
        return cls(
            pid=int(row["pid"]),
            started=str(row["backend_start"]),
            kind=str(row["kind"]),
            database=_shown(row["database"]),
            role=_shown(row["role"]),
            application=_shown(row["application"]),
            client=_shown(row["client"]),
            state=_shown(row["state"]),
            waits_for=_shown(row["waits_for"]),
            blocked_by=tuple(sorted({int(pid) for pid in row["blocked_by"] or ()})),
            transaction_s=float(row["transaction_s"] or 0),
            query_s=float(row["query_s"] or 0),
            state_s=float(row["state_s"] or 0),
            state_since=str(row["state_change"] or ""),
            is_own=bool(row["is_own"]) or row["application"] == APPLICATION,
            query=_shown(sql_text.masked(str(row["query"] or ""))),
        )

    @property
    def key(self) -> str:
        """What names it and no later one: `PID@START`."""
        return f"{self.pid}@{self.started}"

    @property
    def is_client(self) -> bool:
        """A client's, not our own; replication, autovacuum and the server's other processes are none."""
        return self.kind == CLIENT and not self.is_own

    @property
    def is_idle_in_transaction(self) -> bool:
        """It holds a transaction open and does nothing."""
        return self.state in IDLE_IN_TRANSACTION

    @property
    def is_maintenance(self) -> bool:
        """Its statement works on the server itself."""
        return self.query.lower().startswith(MAINTENANCE)

    @property
    def is_spared(self) -> bool:
        """It backs the server up or works on it: long, and ended only by somebody who names it."""
        return self.is_maintenance or self.application in BACKUPS

    @property
    def age_s(self) -> float:
        """For how long it has been in its state: its statement has run, or it has been idle."""
        return self.query_s if self.state == "active" else self.state_s

    def row(self) -> dict[str, Any]:
        """As a row of a result."""
        return {
            "pid": self.pid,
            "session": self.key,
            "application": self.application,
            "role": self.role,
            "database": self.database,
            "client": self.client,
            "state": self.state or self.kind,
            "age_s": round(self.age_s, 1),
            "transaction_s": round(self.transaction_s, 1),
            "waits_for": self.waits_for,
            "blocked_by": list(self.blocked_by),
            "query": self.query,
        }


def read(facts: Facts) -> list[Session]:
    """All sessions of the answer.

    Raises:
        ActionError: it is no such answer.
    """
    try:
        return [Session.read(row) for row in facts["sessions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ActionError(f"{facts['server']}: a session's row is not as wanted: {error}") from None


def clients(facts: Facts) -> list[Session]:
    """The sessions of clients, but our own."""
    return [session for session in read(facts) if session.is_client]


def oldest_first(found: Iterable[Session]) -> list[Session]:
    """By age, the oldest first."""
    return sorted(found, key=lambda session: -session.age_s)


def tree(found: Iterable[Session]) -> Iterator[tuple[int, Session]]:
    """Who holds up whom: each session that blocks or is blocked, with its depth, below the first that blocks it.

    A session with depth 0 waits for nobody, or stands in a circle that the server is about to break.
    """
    by_pid = {session.pid: session for session in found}
    waiting: dict[int, list[Session]] = {}
    for session in by_pid.values():
        for blocker in session.blocked_by:
            waiting.setdefault(blocker, []).append(session)
    seen: set[int] = set()
    roots = [s for s in by_pid.values() if s.pid in waiting and not _held(s, by_pid)]
    circles = [s for s in by_pid.values() if s.blocked_by]
    for start in (*roots, *circles):
        todo = [(0, start)]
        while todo:
            depth, session = todo.pop()
            if session.pid not in seen:
                seen.add(session.pid)
                yield depth, session
                todo += [(depth + 1, next_one) for next_one in reversed(waiting.get(session.pid, []))]


def _held(session: Session, by_pid: Mapping[int, Session]) -> bool:
    return any(pid in by_pid for pid in session.blocked_by)


def _shown(value: Any) -> str:
    return printable(str(value), limit=_MAX_SHOWN)
