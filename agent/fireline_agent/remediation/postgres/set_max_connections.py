"""The server's limit on connections is set. It holds after a restart, which drops every session there is.

Sources: PostgreSQL documentation, "ALTER SYSTEM", "Connections and Authentication", "Hot Standby" (parameters that a
standby may not have smaller than its primary).
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands.psql import Server
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.postgres import connections, server
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_SETTING: Final = """
select json_build_object('source', source, 'is_pending', pending_restart, 'now', setting::int,
  'written', (select setting from pg_file_settings where name = 'max_connections'
    and sourcefile like '%/postgresql.auto.conf' order by seqno desc limit 1),
  'next', (select setting::int from pg_file_settings where name = 'max_connections' order by seqno desc limit 1),
  'replicas', (select count(*) from pg_stat_replication))
from pg_settings where name = 'max_connections'
"""
_POOLER_ABOVE: Final = 300  # connections: each is a process with memory of its own
_RELOADED_S: Final = 5.0  # the postmaster rereads its files when it next wakes
_PAUSE_S: Final = 0.2


def _gather(tools: Tools, params: Params) -> Facts:
    return {**server.sessions(tools, params), "setting": _setting(server.reached(tools, params))}


def _setting(reached: Server) -> dict[str, Any]:
    answer = server.asked(reached, _SETTING)
    if not isinstance(answer, dict):
        raise ActionError(f"{reached.name}: wanted the setting max_connections, found {type(answer).__name__}")
    return answer


def _plan(facts: Facts, params: Params) -> Plan:
    setting, to = facts["setting"], params["to"]
    if setting["source"] in ("command line", "environment variable"):
        raise ActionError(
            f"{facts['server']}: max_connections = {setting['now']} is set on the server's {setting['source']}, which"
            " wins over ALTER SYSTEM: change how the server is started",
            reason="refused",
        )
    if to <= facts["reserved"]:
        raise ActionError(f"`to`: wanted more than the {facts['reserved']} kept for superusers, found {to}")
    result = {"from": setting["now"], "to": to, "sessions": len(facts["sessions"])}
    if to == (setting["next"] or setting["now"]):
        return Plan(f"{facts['server']}: max_connections is {to} already", result=result)
    command = f"alter system set max_connections = {to}"
    return Plan(
        f"{facts['server']}: max_connections from {setting['now']} to {to}, after a restart",
        (Change("setting", "max_connections", command, {"to": to, "written": setting["written"]}),),
        tuple(_warnings(facts, to)),
        result,
    )


def _warnings(facts: Facts, to: int) -> list[str]:
    takers = connections.takers(facts)
    dropped = sum(count for _, count in takers)
    greediest = ", ".join(f"{count} of {application or 'unnamed'}" for (application, _, _), count in takers[:5])
    found = [
        f"it holds after a restart, which drops {dropped} sessions ({greediest or 'none'}) and their transactions:"
        " container.restart or system.service_restart"
    ]
    if to > _POOLER_ABOVE:
        found.append(f"{to} connections are {to} processes: a pooler such as PgBouncer in front of it serves more")
    if to > facts["max_connections"] and facts["setting"]["replicas"]:
        found.append("a replica stops replaying when its primary's limit is above its own: raise the replicas' first")
    if to < facts["max_connections"] and facts["is_in_recovery"]:
        found.append("a replica does not start with less than its primary has")
    return found


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    reached = server.reached(tools, params)
    written = _setting(reached)["written"]
    if written != change.data["written"]:
        raise ActionError(f"postgresql.auto.conf says {written} now, and said {change.data['written']} when planned")
    _write(reached, str(change.data["to"]))
    return {"written": written, "params": {name: params[name] for name in (p.name for p in server.PARAMETERS)}}


def _write(reached: Server, value: str | None) -> None:
    to = f"set max_connections = {int(value)}" if value is not None else "reset max_connections"
    server.asked(reached, f"alter system {to}")
    server.asked(reached, "select pg_reload_conf()::text::json")


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    reached = server.reached(tools, params)
    until = time.monotonic() + _RELOADED_S
    while not (is_known := _is_known(_setting(reached), params["to"])) and time.monotonic() < until:
        time.sleep(_PAUSE_S)
    setting = _setting(reached)
    pending = " and holds after a restart" if setting["is_pending"] else ""
    result = {"is_pending": bool(setting["is_pending"])}
    return Verified(is_known, f"max_connections = {setting['next']} is written{pending}", result)


def _is_known(setting: Mapping[str, Any], to: int) -> bool:
    """The server has read it: it is in force, or waits for the restart."""
    return setting["now"] == to or (setting["next"] == to and bool(setting["is_pending"]))


def _undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    reached = server.reached(tools, kept["params"])
    written = _setting(reached)["written"]
    if written != str(change.data["to"]):
        raise ActionError(f"postgresql.auto.conf says {written} now: somebody changed it since", reason="refused")
    _write(reached, kept["written"])
    return f"max_connections is {kept['written'] or 'what postgresql.conf says'} again, after a restart"


ACTION = Action(
    ActionSpec(
        "postgres.set_max_connections",
        "Set the limit on connections; it holds after the next restart, and the plan says whom that would drop",
        Risk.REVERSIBLE,
        (*server.PARAMETERS, Parameter("to", Kind.INT, "how many", is_required=True, least=5, most=10_000)),
        (
            Result("from", Kind.INT, "in force now"),
            Result("to", Kind.INT, "as asked for"),
            Result("sessions", Kind.INT, "that a restart would drop, the server's own processes included"),
            Result("is_pending", Kind.BOOL, "it waits for a restart"),
        ),
        undo="the former value is written again; it holds after a restart as well",
        needs=server.NEEDS,
    ),
    _gather,
    _plan,
    _do,
    _verify,
    _undo,
)
