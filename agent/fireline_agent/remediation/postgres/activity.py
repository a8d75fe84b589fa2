"""What every session of a PostgreSQL server does right now."""

from fireline_agent.remediation.action import Action, Facts, Params, Plan
from fireline_agent.remediation.postgres import server, sessions
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_MAX_ROWS = 500


def _plan(facts: Facts, params: Params) -> Plan:
    found = sessions.oldest_first(sessions.clients(facts))
    active = sum(session.state == "active" for session in found)
    stuck = sum(session.is_idle_in_transaction for session in found)
    lost = facts["session_count"] - len(facts["sessions"])
    return Plan(
        f"{facts['server']}: {len(found)} client sessions, {active} active, {stuck} idle in transaction",
        warnings=(f"{lost} sessions more were left out",) if lost > 0 else (),
        result={
            "sessions": [session.row() for session in found[:_MAX_ROWS]],
            "count": len(found),
            "active": active,
            "idle_in_transaction": stuck,
        },
    )


ACTION = Action(
    ActionSpec(
        "postgres.activity",
        "Show what every client's session does, the longest in its state first; values in statements are masked",
        Risk.READ,
        server.PARAMETERS,
        (
            Result("sessions", Kind.ROWS, "pid, application, role, state, age_s, query, …; at most 500"),
            Result("count", Kind.INT, "client sessions"),
            Result("active", Kind.INT, "of them run a statement"),
            Result("idle_in_transaction", Kind.INT, "of them hold a transaction open and do nothing"),
        ),
        needs=server.NEEDS,
    ),
    server.sessions,
    _plan,
)
