"""Who takes the connections of a PostgreSQL server, against how many there are."""

from collections import Counter

from fireline_agent.remediation.action import Action, Facts, Params, Plan
from fireline_agent.remediation.postgres import server, sessions
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_MAX_ROWS = 500


def used(facts: Facts) -> int:
    """Connections that count against the limit: of clients, ours too; replication has slots of its own."""
    return sum(session.kind == sessions.CLIENT for session in sessions.read(facts))


def takers(facts: Facts) -> list[tuple[tuple[str, str, str], int]]:
    """How many connections each (application, role, state) takes, the greediest first."""
    return Counter((s.application, s.role, s.state) for s in sessions.clients(facts)).most_common(_MAX_ROWS)


def _plan(facts: Facts, params: Params) -> Plan:
    taken, most, reserved = used(facts), facts["max_connections"], facts["reserved"]
    used_pct = round(100 * taken / most, 1)
    rows = [
        {"application": application, "role": role, "state": state, "count": count}
        for (application, role, state), count in takers(facts)
    ]
    left = most - reserved - taken
    return Plan(
        f"{facts['server']}: {taken} of {most} connections taken ({used_pct:g} %)",
        warnings=() if left > 0 else (f"only the {reserved} connections for superusers are left, or not even those",),
        result={
            "rows": rows,
            "used": taken,
            "max": most,
            "reserved": reserved,
            "used_pct": used_pct,
            "idle_in_transaction": sum(s.is_idle_in_transaction for s in sessions.clients(facts)),
        },
    )


ACTION = Action(
    ActionSpec(
        "postgres.connections",
        "Count connections by application, role and state, against the server's limit",
        Risk.READ,
        server.PARAMETERS,
        (
            Result("rows", Kind.ROWS, "application, role, state, count; the greediest first"),
            Result("used", Kind.INT, "client connections, this one included"),
            Result("max", Kind.INT, "max_connections"),
            Result("reserved", Kind.INT, "of them kept for superusers"),
            Result("used_pct", Kind.NUMBER, "used / max, percent"),
            Result("idle_in_transaction", Kind.INT, "sessions that hold a transaction open and do nothing"),
        ),
        needs=server.NEEDS,
    ),
    server.sessions,
    _plan,
)
