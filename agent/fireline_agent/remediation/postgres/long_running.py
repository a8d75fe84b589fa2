"""Sessions that have been at one statement, or idle in a transaction, for too long."""

from fireline_agent.remediation.action import Action, Facts, Params, Plan
from fireline_agent.remediation.postgres import server, sessions
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_MAX_ROWS = 500


def _plan(facts: Facts, params: Params) -> Plan:
    limit_s = params["older_than"]
    busy = (s for s in sessions.clients(facts) if s.state == "active" or s.is_idle_in_transaction)
    found = sessions.oldest_first(session for session in busy if session.age_s >= limit_s)
    oldest_s = round(found[0].age_s, 1) if found else 0.0
    return Plan(
        f"{facts['server']}: {len(found)} sessions at it for {limit_s} s or longer"
        + (f", the oldest for {oldest_s:g} s" if found else ""),
        result={
            "rows": [session.row() for session in found[:_MAX_ROWS]],
            "sessions": [session.key for session in found if not session.is_spared][:_MAX_ROWS],
            "count": len(found),
            "oldest_s": oldest_s,
        },
    )


ACTION = Action(
    ActionSpec(
        "postgres.long_running",
        "Show sessions that run one statement, or are idle in a transaction, for too long; never idle ones or our own",
        Risk.READ,
        (*server.PARAMETERS, Parameter("older_than", Kind.DURATION, "how long is too long", default=300)),
        (
            Result("rows", Kind.ROWS, "the sessions, the oldest first; at most 500"),
            Result("sessions", Kind.TEXTS, "their names for postgres.terminate; of backups and maintenance none"),
            Result("count", Kind.INT, "how many"),
            Result("oldest_s", Kind.NUMBER, "seconds; 0 where there is none"),
        ),
        needs=server.NEEDS,
    ),
    server.sessions,
    _plan,
)
