"""security.rotate_postgres_role: another password for a role of PostgreSQL, in the server and in its file.

The password is made here; the server gets its SCRAM verifier only, in a session that logs nothing, over the server's
own socket. Sessions that were opened with the former one are ended. What is known after: a login over the network with
the new password and none with the former one; where the server asks nobody from here, by what it keeps of the role.

Sources: PostgreSQL documentation, "ALTER ROLE", "pg_authid", "Error Reporting and Logging".
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands import postgres_wire, scram
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.postgres_wire import Socket, WireError, identifier, literal
from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import part
from fireline_agent.remediation.security import aside, dependents, rotation, secretfile
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_SALT_BYTES: Final = 16
_SESSIONS: Final = "session"
# What would write the verifier down: the log by statement, by duration and by error, and the view of activity.
_QUIET: Final = (
    "SET log_statement = 'none'",
    "SET log_min_duration_statement = -1",
    "SET log_duration = off",
    "SET log_min_error_statement = panic",
    "SET track_activities = off",
    "SET pgaudit.log = 'none'",
    "SET pg_stat_statements.track_utility = off",
)


def gather(tools: Tools, params: Params) -> Facts:
    """The role, its sessions, and the file."""
    role = literal(params["role"])
    statement = (
        f"SELECT rolcanlogin, left(coalesce(rolpassword, ''), 13), pg_is_in_recovery(), "  # noqa: S608 -- quoted
        f"(SELECT count(*) FROM pg_stat_activity WHERE usename = {role} AND pid <> pg_backend_pid()), oid "
        f"FROM pg_authid WHERE rolname = {role}"
    )
    [rows] = _execute(tools, params, [statement])
    if not rows:
        raise ActionError(f"the server has no role {printable(params['role'])}", reason="not_found")
    [[can_login, method, in_recovery, sessions, oid]] = rows
    return {
        **rotation.gather(tools, params),
        "can_login": can_login == "t",
        "method": method,
        "is_standby": in_recovery == "t",
        "sessions": int(sessions),
        "oid": oid,
    }


def plan(facts: Facts, params: Params) -> Plan:
    """The secret, then the sessions, then everyone who uses it."""
    role = printable(params["role"])
    if facts["is_standby"]:
        raise ActionError("this server is a standby: rotate on its primary, and it follows", reason="refused")
    if not facts["can_login"]:
        raise ActionError(f"role {role} can't log in: it has no password to rotate", reason="refused")
    made = rotation.plan(facts, params, what=f"the password of PostgreSQL role {role}")
    secret, *after = made.changes
    whom = {"oid": facts["oid"]}
    changes = [Change(secret.kind, f"{secret.subject}, role {role}", secret.does, {**secret.data, **whom})]
    if params["end_sessions"]:
        changes.append(Change(_SESSIONS, f"sessions of role {role}", "end those opened before", whom))
    result = {**made.result, "sessions": facts["sessions"]}
    return Plan(made.summary, (*changes, *after), made.warnings, result)


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """One step."""
    if change.kind == rotation.SECRET:
        return _rotate(tools, change, params)
    if change.kind == _SESSIONS:
        role = literal(params["role"])
        statement = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "  # noqa: S608 -- quoted
            f"WHERE usename = {role} AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        [[[count]]] = _execute(tools, params, [statement])
        return {"ended": int(count)}
    return dependents.do(tools, change, rotation.pairs(tools, params))


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """The new password is taken and the former is not, and all dependents are well."""
    [[[kept]]] = _execute(tools, params, [_verifier_of(params)])
    new = secretfile.current(rotation.read(tools, params["file"]).content, params["keys"])
    old = secretfile.current(aside.held(aside.path_of(tools, params["file"])), params["keys"])
    if not scram.fits(new, kept) or scram.fits(old, kept):
        return Verified(False, f"the server does not keep the new password of role {printable(params['role'])}")
    ways = {"new": _login(tools, params, new), "old": _login(tools, params, old)}
    if (ways["new"], ways["old"]) not in (("accepted", "refused"), ("not_asked", "not_asked"), ("", "")):
        return Verified(False, f"a login with the new password is {ways['new']}, with the old one {ways['old']}", ways)
    problems = dependents.unwell(tools, plan_.changes[0].data["dependents"])
    how = {
        "accepted": "a login with the new password is accepted and one with the old refused",
        "not_asked": "the server keeps the new password's verifier (it asks nobody for a password from here)",
        "": "the server keeps the new password's verifier (no login could be tried over the network)",
    }[ways["new"]]
    return Verified(not problems, "; ".join(problems) or how, {"login": ways["new"] or "not_tried"})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former verifier and file."""
    if change.kind == _SESSIONS:
        return "sessions that were ended can't be brought back"
    if change.kind != rotation.SECRET:
        return dependents.undo(tools, change, kept)
    former = aside.held(kept["verifier"]).decode()
    password = literal(former) if former else "NULL"
    statement = f"ALTER ROLE {identifier(kept['role'])} PASSWORD {password}"
    rotation.restore(
        tools, kept, between=lambda _now, _former: _require_executed(tools, kept["place"], [*_QUIET, statement])
    )
    dependents.restart(tools, change.data["dependents"])
    return f"role {printable(kept['role'])} has its former password again, the file too, and its dependents started"


def _rotate(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    secret = secretfile.new_secret()
    [[[former, oid]]] = _execute(
        tools,
        params,
        [f"SELECT rolpassword, oid FROM pg_authid WHERE rolname = {literal(params['role'])}"],  # noqa: S608 -- quoted
    )
    if oid != change.data["oid"]:
        raise ActionError(f"role {printable(params['role'])} is another one than was planned: plan again")
    kept = aside.keep(tools, f"verifier of {params['role']}", (former or "").encode())
    verifier = scram.verifier(secret, os.urandom(_SALT_BYTES))
    statement = f"ALTER ROLE {identifier(params['role'])} PASSWORD {literal(verifier)}"

    def told(_old: bytes, _new: bytes) -> None:
        _execute(tools, params, [*_QUIET, statement])

    made = rotation.exchange(
        tools, change, lambda content: secretfile.with_secret(content, params["keys"], secret), between=told
    )
    place = {name: params[name] for name in ("container", "socket", "port", "superuser")}
    return {**made, "verifier": kept, "role": params["role"], "place": place}


def _verifier_of(params: Params) -> str:
    role = literal(params["role"])
    return f"SELECT coalesce(rolpassword, '') FROM pg_authid WHERE rolname = {role}"  # noqa: S608 -- quoted


def _login(tools: Tools, params: Params, password: str) -> str:
    """How a login ends; empty where none can be tried."""
    try:
        address = _address(tools, params)
        return postgres_wire.try_password(
            address, user=params["role"], database=params["database"] or params["role"], password=password
        )
    except (WireError, ActionError):
        return ""


def _address(tools: Tools, params: Params) -> tuple[str, int]:
    if not params["container"]:
        return "127.0.0.1", params["port"]
    networks = part(_inspected(tools, params["container"]), "NetworkSettings", "Networks")
    found = [str(part(networks, name).get("IPAddress") or "") for name in sorted(networks)]
    return next((one for one in found if one), "127.0.0.1"), params["port"]


def _execute(tools: Tools, params: Mapping[str, Any], statements: list[str]) -> list[list[list[Any]]]:
    root = str(tools.roots.root)
    if params["container"]:
        pid = part(_inspected(tools, params["container"]), "State").get("Pid")
        if not isinstance(pid, int) or pid <= 0:
            raise ActionError(f"container {printable(params['container'])} does not run")
        root = f"{tools.roots.proc}/{pid}/root"
    try:
        place = Socket(params["socket"], params["port"], root)
        return postgres_wire.execute(place, statements, user=params["superuser"])
    except WireError as error:
        raise ActionError(f"PostgreSQL: {error}", reason="failed" if error.code else "unsupported") from None


def _require_executed(tools: Tools, place: Mapping[str, Any], statements: list[str]) -> None:
    _execute(tools, place, statements)


def _inspected(tools: Tools, container: str) -> dict[str, Any]:
    with reading(tools) as engine:
        try:
            return engine.inspect(container)
        except EngineError as error:
            if error.reason != "http_status":
                raise
            name = printable(container)
            raise ActionError(f"there is no container {name} on this host", reason="not_found") from None


ACTION: Final = Action(
    ActionSpec(
        "security.rotate_postgres_role",
        "Give a PostgreSQL role a new password, in the server and in the file that holds it; end its old sessions",
        Risk.DISRUPTIVE,
        (
            Parameter("role", Kind.TEXT, "the role", is_required=True),
            rotation.FILE,
            rotation.KEYS,
            dependents.DEPENDENTS,
            Parameter("container", Kind.TEXT, "the server's container; left out, the server is on the host"),
            Parameter(
                "socket", Kind.PATH, "folder of the server's socket, as the server sees it", "/var/run/postgresql"
            ),
            Parameter("port", Kind.INT, "the server's port", 5432, least=1, most=65535),
            Parameter("superuser", Kind.TEXT, "as whom the role is changed", "postgres"),
            Parameter("database", Kind.TEXT, "what the login is tried on; left out, the one called as the role"),
            Parameter("end_sessions", Kind.BOOL, "end sessions that were opened before", True),
        ),
        (
            *rotation.RESULTS,
            Result("sessions", Kind.INT, "sessions that the role has"),
            Result("login", Kind.TEXT, "how the new password was tried: accepted, not_asked or not_tried"),
        ),
        evidence=("processes", "docker_containers"),
        undo="the former password, by its verifier, and the former file; dependents are started again",
        needs=("postgresql",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
