"""Whether a PostgreSQL server is up, and how it is. A server that is down is an answer here, not an error."""

from typing import Any, Final

from fireline_agent.hands.psql import PsqlError
from fireline_agent.remediation.action import Action, ActionError, Facts, Params, Plan, Tools
from fireline_agent.remediation.postgres import server
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_STATES: Final = "up, full, starting, down, hung, denied"
# Nothing can be said of a server that can't be found or asked.
_UNKNOWN: Final = ("absent", "no_psql", "barred", "failed")
_CHECK: Final = """
select json_build_object(
  'version', current_setting('server_version'),
  'is_in_recovery', pg_is_in_recovery(),
  'uptime_s', round(extract(epoch from clock_timestamp() - pg_postmaster_start_time())),
  'max', current_setting('max_connections')::int,
  'used', (select count(*) from pg_stat_activity where backend_type = 'client backend'),
  'idle_in_transaction', (select count(*) from pg_stat_activity where state like 'idle in transaction%'),
  'blocked', (select count(*) from pg_stat_activity where wait_event_type = 'Lock'),
  'replay_lag_s', case when pg_is_in_recovery() then case
      when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
      else round(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::numeric, 1) end end,
  'replicas', coalesce((select json_agg(r) from (
    select application_name as name, coalesce(host(client_addr), 'socket') as client, coalesce(state, '') as state,
      case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint end as lag_bytes
    from pg_stat_replication order by 1, 2 limit 100) r), '[]'::json))
"""


def _gather(tools: Tools, params: Params) -> Facts:
    found = server.reached(tools, params)
    try:
        return {"server": found.name, "state": "up", "answer": found.ask(_CHECK)}
    except PsqlError as error:
        if error.reason in _UNKNOWN:
            raise server.explained(error) from None
        return {"server": found.name, "state": error.reason, "said": str(server.explained(error)), "answer": {}}


def _plan(facts: Facts, params: Params) -> Plan:
    answer = facts["answer"]
    if facts["state"] != "up":
        return Plan(f"{facts['server']}: {facts['state']}", warnings=(facts["said"],), result=_result(facts, 0.0))
    if not isinstance(answer, dict) or not answer.get("max"):
        raise ActionError(f"{facts['server']}: wanted the server's state, found something else")
    used_pct = round(100 * answer["used"] / answer["max"], 1)
    role = "replica" if answer["is_in_recovery"] else "primary"
    lag = f", {answer['replay_lag_s']:g} s behind" if answer["replay_lag_s"] else ""
    return Plan(
        f"{facts['server']}: up, {role}{lag}, {answer['used']} of {answer['max']} connections taken ({used_pct:g} %)",
        result=_result(facts, used_pct),
    )


def _result(facts: Facts, used_pct: float) -> dict[str, Any]:
    answer = facts["answer"]
    is_up = facts["state"] == "up"
    return {
        "state": facts["state"],
        "is_up": is_up,
        "is_primary": is_up and not answer["is_in_recovery"],
        "version": answer.get("version", ""),
        "uptime_s": answer.get("uptime_s", 0),
        "used_pct": used_pct if is_up else 100.0 * (facts["state"] == "full"),
        "idle_in_transaction": answer.get("idle_in_transaction", 0),
        "blocked": answer.get("blocked", 0),
        "replay_lag_s": answer.get("replay_lag_s") or 0.0,
        "replicas": answer.get("replicas", []),
    }


ACTION = Action(
    ActionSpec(
        "postgres.check",
        "Show whether the server is up, primary or replica, how far behind, how full",
        Risk.READ,
        server.PARAMETERS,
        (
            Result("state", Kind.TEXT, _STATES),
            Result("is_up", Kind.BOOL, "it answered"),
            Result("is_primary", Kind.BOOL, "it answered and takes writes"),
            Result("version", Kind.TEXT, "as 15.4"),
            Result("uptime_s", Kind.INT, "seconds since it was started"),
            Result("used_pct", Kind.NUMBER, "connections taken, percent"),
            Result("idle_in_transaction", Kind.INT, "sessions that hold a transaction open and do nothing"),
            Result("blocked", Kind.INT, "sessions that wait for a lock"),
            Result("replay_lag_s", Kind.NUMBER, "of a replica: seconds since its last replayed transaction; 0: none"),
            Result("replicas", Kind.ROWS, "who streams from it: name, client, state, lag_bytes"),
        ),
        needs=server.NEEDS,
    ),
    _gather,
    _plan,
)
