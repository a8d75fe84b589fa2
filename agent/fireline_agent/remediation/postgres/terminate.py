"""Sessions that have been at it for too long are ended: a running statement is cancelled first, the session after.

Never our own, replication, or the server's own processes, which are no client's; and of clients never the programs
that back it up, nor work on the server itself such as an index being built, unless a session is named.

Sources: PostgreSQL documentation, "Server Signalling Functions".
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from fireline_agent.hands.psql import APPLICATION, Server
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.postgres import server, sessions
from fireline_agent.remediation.postgres.connections import used
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_STATES: Final = {"active": ("active",), "idle_in_transaction": sessions.IDLE_IN_TRANSACTION, "idle": ("idle",)}
_KEY: Final = re.compile(r"(\d{1,9})@(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:\+00(?::00)?|Z))\Z")
_END_S: Final = 5.0  # a backend that is told to end does so at once, unless it hangs in the kernel
_PAUSE_S: Final = 0.2

# The session, and only it: a later one with its pid was started at another time.
_SIGNAL: Final = """
select json_build_object('state', coalesce(state, ''), 'since', state_change, 'waits_for', wait_event,
  'age_s', extract(epoch from clock_timestamp() - case when state = 'active' then query_start else state_change end),
  'is_done', {act})
from pg_stat_activity where pid = {pid} and backend_start = '{started}'::timestamptz
  and backend_type = 'client backend' and pid <> pg_backend_pid() and application_name <> '{own}'
"""
_ACTS: Final = {"look": "true", "cancel": "pg_cancel_backend(pid)", "terminate": "pg_terminate_backend(pid)"}


def _plan(facts: Facts, params: Params) -> Plan:
    found = sessions.oldest_first(session for session in sessions.clients(facts) if _is_meant(session, params))
    if len(found) > params["most"]:
        raise ActionError(
            f"{facts['server']}: {len(found)} sessions fit, and at most {params['most']} may be ended:"
            " raise `most`, or narrow it by `applications` or `older_than`",
            reason="refused",
        )
    named = params["sessions"]
    changes = [_named(key, params) for key in named] if named else [_found(session, params) for session in found]
    oldest = f", the oldest at it for {found[0].age_s:.0f} s" if found else ""
    return Plan(
        f"{facts['server']}: {len(changes)} sessions to end{oldest}",
        tuple(changes),
        ("what they did in open transactions is rolled back",) if changes else (),
        {"rows": [session.row() for session in found], "count": len(changes)},
    )


def _is_meant(session: sessions.Session, params: Params) -> bool:
    if params["sessions"]:
        return session.key in {_normal(key) for key in params["sessions"]}
    states = [state for word in params["states"] for state in _STATES[word]]
    applications = params["applications"]
    return (
        session.state in states
        and session.age_s >= params["older_than"]
        and (not applications or session.application in applications)
        and session.application not in params["spare"]
        and not session.is_maintenance
    )


def _found(session: sessions.Session, params: Params) -> Change:
    data = {"state": session.state, "since": session.state_since}
    who = f"{session.application or 'unnamed'} as {session.role} on {session.database}"
    does = f"{_how(session.state, params)}: {who}, {session.state} since {session.state_since}: {session.query}"
    return Change("session", session.key, does, data)


def _named(key: str, params: Params) -> Change:
    """Bound to nothing but its name, so that the plan stands when one of several has gone by itself."""
    return Change("session", _normal(key), f"pid {_identity(key)[0]}: {_how('active', params)}")


def _how(state: str, params: Params) -> str:
    if state == "active" and params["grace"]:
        return f"cancel its statement, end it after {params['grace']} s"
    return "end it"


def _normal(key: str) -> str:
    return "@".join(_identity(key))


def _identity(key: str) -> tuple[str, str]:
    found = _KEY.match(key)
    if found is None:
        raise ActionError(
            f"wanted a session as PID@START, as postgres.long_running tells it, found {key[:100]!r}", reason="refused"
        )
    return found[1], found[2]


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    reached = server.reached(tools, params)
    session = _look(reached, change, "look")
    if session is None:
        return {"how": "had gone by itself"}
    if not _is_still_meant(session, change, params):
        return {"how": f"left alone: it is {session['state']} since {session['since']}"}
    if session["state"] == "active" and params["grace"]:
        _signal(reached, change, "cancel")
        left = _waited(reached, change, params["grace"], is_over=_is_idle)
        if left is None or _is_idle(left):
            return {"how": "its statement was cancelled"}
    _signal(reached, change, "terminate")
    left = _waited(reached, change, _END_S, is_over=lambda _session: False)
    if left is not None:
        raise ActionError(f"did not end within {_END_S:g} s; it waits for {left['waits_for'] or 'nothing known'}")
    return {"how": "it was ended"}


def _is_still_meant(session: Mapping[str, Any], change: Change, params: Params) -> bool:
    if change.data:
        return bool(session["state"] == change.data["state"] and session["since"] == change.data["since"])
    states = [state for word in params["states"] for state in _STATES[word]]
    return session["state"] in states and float(session["age_s"] or 0) >= params["older_than"]


def _look(reached: Server, change: Change, act: str) -> dict[str, Any] | None:
    pid, started = _identity(change.subject)
    statement = _SIGNAL.format(act=_ACTS[act], pid=pid, started=started, own=APPLICATION)
    answer = server.asked(reached, statement)
    return answer if isinstance(answer, dict) else None


def _signal(reached: Server, change: Change, act: str) -> None:
    answer = _look(reached, change, act)
    if answer is not None and not answer["is_done"]:
        raise ActionError(f"the server would not {act} it")


def _waited(
    reached: Server, change: Change, within_s: float, *, is_over: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any] | None:
    """How it is once it is over or has gone (None), or at the end of the time."""
    until = time.monotonic() + within_s
    while (left := _look(reached, change, "look")) and not is_over(left) and time.monotonic() < until:
        time.sleep(_PAUSE_S)
    return left


def _is_idle(session: Mapping[str, Any]) -> bool:
    """Its statement is over, and no transaction is left open."""
    return bool(session["state"] == "idle")


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    facts = server.sessions(tools, params)
    left = [session for session in sessions.clients(facts) if _is_left(session, plan, params)]
    taken, most = used(facts), facts["max_connections"]
    over = f"{len(plan.changes) - len(left)} of {len(plan.changes)} sessions are over"
    result = {"left": len(left), "used_pct": round(100 * taken / most, 1)}
    return Verified(not left, f"{over}; {taken} of {most} connections taken", result)


def _is_left(session: sessions.Session, plan: Plan, params: Params) -> bool:
    """The same session in the same state: one whose statement was cancelled may live on."""
    change = next((change for change in plan.changes if change.subject == session.key), None)
    now = {"state": session.state, "since": session.state_since, "age_s": session.age_s}
    return change is not None and _is_still_meant(now, change, params)


ACTION = Action(
    ActionSpec(
        "postgres.terminate",
        "End sessions that run a statement or are idle in a transaction for too long; cancel first",
        Risk.DESTRUCTIVE,
        (
            *server.PARAMETERS,
            Parameter("older_than", Kind.DURATION, "how long in its state", default=600),
            Parameter(
                "states",
                Kind.TEXTS,
                "which",
                default=["active", "idle_in_transaction"],
                choices=tuple(_STATES),
            ),
            Parameter("applications", Kind.TEXTS, "only these application names; none: all", default=[]),
            Parameter("spare", Kind.TEXTS, "application names that are never ended", default=list(sessions.BACKUPS)),
            Parameter("sessions", Kind.TEXTS, "only these, as postgres.long_running names them", default=[]),
            Parameter("grace", Kind.DURATION, "between cancel and end; 0: no cancel", default=5, most=60),
            Parameter("most", Kind.INT, "refused where more sessions fit", default=100, least=1, most=1000),
        ),
        (
            Result("rows", Kind.ROWS, "the sessions with application, role, state, age_s and masked statement"),
            Result("count", Kind.INT, "sessions to end"),
            Result("left", Kind.INT, "of them still as they were"),
            Result("used_pct", Kind.NUMBER, "connections taken after it, percent"),
        ),
        evidence=("postgres_activity",),
        evidence_params={"postgres_activity": {p.name: f"${p.name}" for p in server.PARAMETERS}},
        needs=server.NEEDS,
    ),
    server.sessions,
    _plan,
    _do,
    _verify,
)
