"""Who holds up whom on a PostgreSQL server, as a tree. By pg_blocking_pids: joins over pg_locks get this wrong."""

from fireline_agent.remediation.action import Action, Facts, Params, Plan
from fireline_agent.remediation.postgres import server, sessions
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_MAX_ROWS = 500


def _plan(facts: Facts, params: Params) -> Plan:
    found = list(sessions.tree(sessions.read(facts)))
    blocked = [session for _, session in found if session.blocked_by]
    roots = [session for depth, session in found if depth == 0]
    return Plan(
        f"{facts['server']}: {len(blocked)} sessions wait for locks"
        + (f", held up by {len(roots)} at the root" if blocked else ""),
        result={
            "rows": [{"depth": depth, **session.row()} for depth, session in found[:_MAX_ROWS]],
            "blocked": len(blocked),
            "roots": [session.key for session in roots if session.is_client and not session.is_spared],
            "longest_wait_s": round(max((session.query_s for session in blocked), default=0.0), 1),
        },
    )


ACTION = Action(
    ActionSpec(
        "postgres.blocking",
        "Show who holds up whom: sessions that wait for a lock below those that hold it",
        Risk.READ,
        server.PARAMETERS,
        (
            Result("rows", Kind.ROWS, "the tree from its roots, with `depth`; at most 500"),
            Result("blocked", Kind.INT, "sessions that wait for a lock"),
            Result("roots", Kind.TEXTS, "who holds others up, for postgres.terminate; no backup or maintenance"),
            Result("longest_wait_s", Kind.NUMBER, "seconds since the statement began that waits the longest"),
        ),
        needs=server.NEEDS,
    ),
    server.sessions,
    _plan,
)
