"""A server whose every connection is taken, those for superusers too, can't be asked what to end. This makes room.

It ends idle sessions with the signal that pg_terminate_backend sends, choosing by what each backend says of itself in
its process title. Never one that is at work, replication, or the server's own processes. One session is enough: then
the server can be asked, and postgres.terminate ends what should be.

Sources: PostgreSQL documentation, "Standard Unix Tools" (the titles) and "Server Signalling Functions" (SIGTERM);
pidfd_open(2).
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import process, procfs
from fireline_agent.hands.printable import printable
from fireline_agent.hands.psql import PsqlError, Server
from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.postgres import server
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

# `postgres: [CLUSTER: ]ROLE DATABASE CLIENT STATE`; walsenders and the server's own processes have no such state.
_TITLE: Final = re.compile(
    rb"postgres: (?:[^:\0]{1,64}: )?([^ \0]+) ([^ \0]+) (\[local\]|[^ \0]+\(\d+\))"
    rb" (idle in transaction \(aborted\)|idle in transaction|idle)\s*\Z"
)
# The most useless first.
_STATES: Final = ("idle in transaction (aborted)", "idle in transaction", "idle")
_END_S: Final = 5.0
_PAUSE_S: Final = 0.1


def _gather(tools: Tools, params: Params) -> Facts:
    found = server.reached(tools, params)
    if _has_room(found):
        return {"server": found.name, "is_full": False, "backends": []}
    first = found.pid()
    if first is None:
        raise ActionError(f"{found.name} is full, and its processes are not known: end one with system.process_kill")
    return {"server": found.name, "is_full": True, "backends": list(_backends(tools, first))}


def _has_room(found: Server) -> bool:
    try:
        found.ask("select to_json(1)")
    except PsqlError as error:
        if error.reason == "full":
            return False
        raise server.explained(error) from None
    return True


def _backends(tools: Tools, first: int) -> Iterator[dict[str, Any]]:
    """The idle backends of the server whose first process is known."""
    proc = tools.roots.proc
    for pid in process.descendants(first, proc=proc):
        title, started = _seen(proc, pid)
        told = _TITLE.match(title)
        if told:
            role, database, client, state = (printable(part.decode(errors="replace")) for part in told.groups())
            yield {
                "pid": pid,
                "started": started,
                "role": role,
                "database": database,
                "client": client,
                "state": state,
            }


def _seen(proc: Path, pid: int) -> tuple[bytes, int]:
    """A process's title and when it was started, in ticks; nothing and 0 where it has gone."""
    one = procfs.opened(proc, pid)
    if one is None:
        return b"", 0
    with one:
        title, stat = one.read("cmdline"), one.stat()
    return (title or b"").rstrip(b"\0"), stat.start_ticks if stat else 0


def _plan(facts: Facts, params: Params) -> Plan:
    if not facts["is_full"]:
        return Plan(f"{facts['server']} has room: nothing to do", result={"is_full": False, "idle": 0})
    backends = sorted(facts["backends"], key=lambda one: (_STATES.index(one["state"]), one["started"]))
    if not backends:
        raise ActionError(f"{facts['server']} is full, and every session is at work: raise its max_connections")
    changes = tuple(
        Change(
            "session",
            f"{one['pid']}@{one['started']}",
            f"kill -TERM {one['pid']}: {one['role']} on {one['database']} from {one['client']}, {one['state']}",
            {"pid": one["pid"], "started": one["started"]},
        )
        for one in backends[: params["count"]]
    )
    return Plan(
        f"{facts['server']} is full: {len(changes)} of {len(backends)} idle sessions to end",
        changes,
        ("what they did in open transactions is rolled back",),
        {"is_full": True, "idle": len(backends)},
    )


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    pid, started = change.data["pid"], change.data["started"]
    proc = tools.roots.proc
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return {"how": "had gone by itself"}
    try:
        title, begun = _seen(proc, pid)
        if begun != started or not _TITLE.match(title):
            return {"how": "left alone: it is no longer that idle session"}
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        return {"how": "had gone by itself"}
    finally:
        os.close(descriptor)
    until = time.monotonic() + _END_S
    while process.is_running(pid, proc=proc) and time.monotonic() < until:
        time.sleep(_PAUSE_S)
    if process.is_running(pid, proc=proc):
        raise ActionError(f"did not end within {_END_S:g} s of its signal")
    return {"how": "it was ended"}


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    if _has_room(server.reached(tools, params)):
        return Verified(True, "the server can be asked again", {"is_full": False})
    return Verified(False, "the server is full still: others took what was freed; try a higher `count`")


ACTION: Final = Action(
    ActionSpec(
        "postgres.make_room",
        "End an idle session of a server that is so full that it can't be asked, so that it can be",
        Risk.DESTRUCTIVE,
        (*server.PARAMETERS, Parameter("count", Kind.INT, "sessions to end at most", default=1, least=1, most=50)),
        (
            Result("is_full", Kind.BOOL, "it can't be asked, for want of a connection"),
            Result("idle", Kind.INT, "idle sessions by their process titles, where it is full"),
        ),
        evidence=("processes",),
        needs=server.NEEDS,
    ),
    _gather,
    _plan,
    _do,
    _verify,
)
