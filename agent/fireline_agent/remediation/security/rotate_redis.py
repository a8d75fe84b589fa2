"""security.rotate_redis: another password for a user of Redis, in the server, its settings and the file.

The user `default` has its password by `requirepass`, every other by its ACL. The server itself writes its settings (or
ACL file) anew; one that was started without a file is told to have forgotten at its next start. Connections that were
opened with the former password are closed.

Sources: Redis documentation, "ACL", "CONFIG REWRITE", "CLIENT KILL".
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from fireline_agent.hands import redis_wire
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.printable import printable
from fireline_agent.hands.redis_wire import RedisError, Session
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import part
from fireline_agent.remediation.security import aside, dependents, rotation, secretfile
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_DEFAULT: Final = "default"


def gather(tools: Tools, params: Params) -> Facts:
    """What the server says of itself, with the password as it stands in the file."""
    found = rotation.gather(tools, params)
    now = secretfile.current(rotation.read(tools, params["file"]).content, params["keys"])
    host, port = _address(tools, params)
    try:
        with redis_wire.connect(host, port) as session:
            session.log_in(params["user"], now)
            return {**found, **_told(session)}
    except RedisError as error:
        _require_no_other(tools, params, found["leftovers"])
        raise _explained(error, params) from None


def plan(facts: Facts, params: Params) -> Plan:
    """The secret, then everyone who uses it."""
    user = printable(params["user"])
    warnings = []
    if not facts["config_file"]:
        warnings.append("the server has no file of settings: at its next start the password is as before")
    if facts["replicas"] or facts["role"] != "master":
        warnings.append("it replicates: replicas log in with masterauth, which is not changed here: set it there")
    made = rotation.plan(facts, params, what=f"the password of Redis user {user}", warnings=warnings)
    return Plan(made.summary, made.changes, made.warnings, {**made.result, "clients": facts["clients"]})


def do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    """One step."""
    if change.kind != rotation.SECRET:
        return dependents.do(tools, change, rotation.pairs(tools, params))
    secret = secretfile.new_secret()

    def told(old: bytes, _new: bytes) -> None:
        _exchange(tools, params, secretfile.current(old, params["keys"]), secret)

    made = rotation.exchange(
        tools, change, lambda content: secretfile.with_secret(content, params["keys"], secret), between=told
    )
    return {**made, "server": {name: params[name] for name in ("container", "host", "port", "user", "keys")}}


def verify(tools: Tools, plan_: Plan, params: Params) -> Verified:
    """The new password is taken and the former is not, and all dependents are well."""
    host, port = _address(tools, params)
    new = secretfile.current(rotation.read(tools, params["file"]).content, params["keys"])
    old = secretfile.current(aside.held(aside.path_of(tools, params["file"])), params["keys"])
    try:
        taken, refused = (redis_wire.may_log_in(host, port, user=params["user"], password=p) for p in (new, old))
    except RedisError as error:
        raise ActionError(f"Redis: {error}") from None
    if not taken or refused:
        return Verified(False, f"new password taken: {taken}; former password taken: {refused}")
    problems = dependents.unwell(tools, plan_.changes[0].data["dependents"])
    return Verified(not problems, "; ".join(problems) or "the new password is taken and the former one refused")


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """The former password and file."""
    if change.kind != rotation.SECRET:
        return dependents.undo(tools, change, kept)
    server = kept["server"]

    def told(now: bytes, former: bytes) -> None:
        words = (secretfile.current(content, server["keys"]) for content in (now, former))
        _exchange(tools, server, *words)

    rotation.restore(tools, kept, between=told)
    dependents.restart(tools, change.data["dependents"])
    return f"Redis user {printable(server['user'])} has its former password again, and its dependents were started"


def _exchange(tools: Tools, params: Mapping[str, Any], old: str, new: str) -> None:
    host, port = _address(tools, params)
    try:
        with redis_wire.connect(host, port) as session:
            session.log_in(params["user"], old)
            _set(session, params["user"], new)
            try:
                _write_down(session)
                session.ask("CLIENT", "KILL", "USER", params["user"], "SKIPME", "yes")
            except RedisError:
                # The new password is about to be forgotten with the file that waits: nobody would know it.
                with suppress(RedisError):
                    _set(session, params["user"], old)
                raise
    except RedisError as error:
        raise _explained(error, params) from None


def _require_no_other(tools: Tools, params: Mapping[str, Any], leftovers: list[str]) -> None:
    """A rotation that was killed between server and file left the password that is in force beside the file."""
    host, port = _address(tools, params)
    for path in leftovers:
        password = secretfile.current(rotation.read(tools, path).content, params["keys"])
        with suppress(RedisError):
            if redis_wire.may_log_in(host, port, user=params["user"], password=password):
                where = f"the password in force is the one in {path}: move it over {params['file']} and plan again"
                raise ActionError(f"a rotation was killed in the middle: {where}", reason="refused")


def _set(session: Session, user: str, secret: str) -> None:
    if user == _DEFAULT:
        session.ask("CONFIG", "SET", "requirepass", secret)
    else:
        session.ask("ACL", "SETUSER", user, "resetpass", f"#{hashlib.sha256(secret.encode()).hexdigest()}")


def _write_down(session: Session) -> None:
    """Into the ACL file where there is one, and into the settings; the server refuses what it has no file for."""
    has_acl_file = bool(_setting(session, "aclfile"))
    if has_acl_file:
        session.ask("ACL", "SAVE")
    with suppress(RedisError):  # told in the plan
        session.ask("CONFIG", "REWRITE")


def _told(session: Session) -> dict[str, Any]:
    server, replication, clients = (_info(session, part_) for part_ in ("server", "replication", "clients"))
    return {
        "config_file": server.get("config_file", "") or _setting(session, "aclfile"),
        "role": replication.get("role", ""),
        "replicas": int(replication.get("connected_slaves", "0") or 0),
        "clients": int(clients.get("connected_clients", "0") or 0),
    }


def _info(session: Session, section: str) -> dict[str, str]:
    lines = str(session.ask("INFO", section)).splitlines()
    return dict(line.partition(":")[::2] for line in lines if ":" in line)


def _setting(session: Session, name: str) -> str:
    answer = session.ask("CONFIG", "GET", name)
    return str(answer[1]) if isinstance(answer, list) and len(answer) == 2 else ""


def _address(tools: Tools, params: Mapping[str, Any]) -> tuple[str, int]:
    if not params["container"]:
        return params["host"], params["port"]
    with reading(tools) as engine:
        try:
            told = engine.inspect(params["container"])
        except EngineError as error:
            if error.reason != "http_status":
                raise
            name = printable(params["container"])
            raise ActionError(f"there is no container {name} on this host", reason="not_found") from None
    networks = part(told, "NetworkSettings", "Networks")
    found = [str(part(networks, name).get("IPAddress") or "") for name in sorted(networks)]
    return next((one for one in found if one), params["host"]), params["port"]


def _explained(error: RedisError, params: Mapping[str, Any]) -> ActionError:
    user = printable(params["user"])
    if error.word == "WRONGPASS":
        return ActionError(f"Redis refuses user {user} with the password in the file: is it the right one?")
    if error.word == "ERR":
        return ActionError(f"Redis: {error}; has it a password at all (requirepass)?", reason="refused")
    if error.word == "NOPERM":
        return ActionError(f"Redis user {user} may not change passwords: {error}", reason="refused")
    return ActionError(f"Redis: {error}", reason="failed" if error.word else "unsupported")


ACTION: Final = Action(
    ActionSpec(
        "security.rotate_redis",
        "Give a user of Redis a new password, in the server, its settings and the file that holds it",
        Risk.DISRUPTIVE,
        (
            rotation.FILE,
            rotation.KEYS,
            dependents.DEPENDENTS,
            Parameter("container", Kind.TEXT, "the server's container; left out, the server is at host and port"),
            Parameter("host", Kind.TEXT, "the server's address", "127.0.0.1"),
            Parameter("port", Kind.INT, "the server's port", 6379, least=1, most=65535),
            Parameter("user", Kind.TEXT, "the user; `default` has its password by requirepass", _DEFAULT),
        ),
        (*rotation.RESULTS, Result("clients", Kind.INT, "clients that the server has")),
        evidence=("processes", "docker_containers"),
        undo="the former password and file; dependents are started again",
        needs=("redis",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
