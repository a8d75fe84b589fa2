"""Who must be started again when a secret is another: containers and services, in the order in which they are named.

A container that has the secret in its environment is made anew with the new one, since that is fixed when it is made;
every other is restarted. The former container is kept aside for the undo.

Leaves to others: the secret itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from fireline_agent.hands import systemctl
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.printable import printable
from fireline_agent.hands.systemctl import Systemctl, SystemctlError
from fireline_agent.remediation.action import ActionError, Change, Tools
from fireline_agent.remediation.container.reaching import changing, current, reading
from fireline_agent.remediation.container.selection import Container
from fireline_agent.remediation.container.waiting import until_well
from fireline_agent.remediation.security import anew
from fireline_wire.actions import Kind, Parameter

DEPENDENTS: Final = Parameter(
    "dependents",
    Kind.TEXTS,
    "what is started again with it, in this order: container:NAME, or service:UNIT of systemd",
    (),
)
T = TypeVar("T")

KIND_CONTAINER: Final = "container"
KIND_SERVICE: Final = "service"
_NAME: Final = re.compile(r"(container|service):([A-Za-z0-9][A-Za-z0-9_.@\\-]{0,200})\Z")
_STOP_S: Final = 10
_UNIT_S: Final = 120.0  # a unit's own time-outs are 90 s
_WELL_S: Final = 60.0


def gather(tools: Tools, names: Sequence[str], secrets: Sequence[str]) -> list[dict[str, Any]]:
    """Each dependent as it is now, and whether it was made with one of these secrets.

    Raises:
        ActionError: a name is not spelled as it must be, there is no such container or unit.
    """
    return [_gathered(tools, name, secrets) for name in names]


def changes(found: Sequence[Mapping[str, Any]]) -> tuple[Change, ...]:
    """One for each, in their order."""
    return tuple(_change(one) for one in found)


def do(tools: Tools, change: Change, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Start one again, and wait until it is well. `pairs`: former and new secrets, for what it was made with."""
    if change.kind == KIND_SERVICE:
        _restart_unit(tools, change.data["name"])
        return {}
    tools.tell(f"{change.data['name']} starts again with the new secret")
    with changing(tools) as engine:
        current(engine, change.data["id"], change.data["name"])
        if not change.data["is_made_anew"]:
            engine.restart(change.data["id"], within_s=_STOP_S)
            until_well(engine, change.data["id"], change.data["name"], within_s=_WELL_S)
            return {}
        told = engine.inspect(change.data["id"])
        return anew.put_in_place(engine, told, pairs=pairs, stop_s=_STOP_S, well_s=_WELL_S)


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Put a former container back; all are started again once the secret is back (see `restart`)."""
    if not kept:
        return "it is started again once the former secret is back"
    with changing(tools) as engine:
        anew.put_back(engine, kept, stop_s=_STOP_S)
    return f"{printable(change.data['name'])} is the former container again"


def restart(tools: Tools, found: Sequence[Mapping[str, Any]]) -> None:
    """Start all of them again, by name, after an undo."""
    for one in found:
        if one["kind"] == KIND_SERVICE:
            _restart_unit(tools, one["name"])
            continue
        with changing(tools) as engine:
            engine.restart(one["name"], within_s=_STOP_S)


def unwell(tools: Tools, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not well now, a sentence each."""
    services = [one["name"] for one in found if one["kind"] == KIND_SERVICE]
    problems = [f"service {name} is {state}" for name in services if (state := _state(tools, name)) != "active"]
    names = [one["name"] for one in found if one["kind"] == KIND_CONTAINER]
    if names:
        with reading(tools) as engine:
            now = [Container.inspected(engine.inspect(name)) for name in names]
        problems += [
            f"container {c.title} is {c.state}, {c.health}"
            for c in now
            if c.state != "running" or c.health == "unhealthy"
        ]
    return problems


def _gathered(tools: Tools, name: str, secrets: Sequence[str]) -> dict[str, Any]:
    match = _NAME.match(name)
    if match is None:
        wanted = "container:NAME or service:UNIT"
        raise ActionError(f"dependents: wanted {wanted}, found {printable(name, limit=80)}", reason="refused")
    kind, plain = match[1], match[2]
    if kind == KIND_SERVICE:
        return {"kind": kind, "name": plain, "id": _known_unit(tools, plain)}
    with reading(tools) as engine:
        try:
            told = engine.inspect(plain)
        except EngineError as error:
            if error.reason != "http_status":
                raise
            raise ActionError(f"dependents: there is no container {plain} on this host", reason="not_found") from None
    is_made_anew = anew.has_any(told, secrets)
    if is_made_anew:
        anew.require_possible(told)
    found = Container.inspected(told)
    return {"kind": kind, "name": found.name, "id": found.id, "is_made_anew": is_made_anew}


def _change(one: Mapping[str, Any]) -> Change:
    if one["kind"] == KIND_SERVICE:
        return Change(KIND_SERVICE, one["name"], f"systemctl restart {one['name']}", dict(one))
    how = "make it anew with the new secret in its environment" if one["is_made_anew"] else "docker restart"
    does = f"{how} {one['name']}" if not one["is_made_anew"] else f"{how} (container {one['name']})"
    return Change(KIND_CONTAINER, f"{one['name']} ({one['id'][:12]})", does, dict(one))


def _known_unit(tools: Tools, name: str) -> str:
    if not _state(tools, name):
        raise ActionError(f"dependents: systemd has no unit {name}", reason="not_found")
    return name


def _state(tools: Tools, name: str) -> str:
    """`active`, `failed`, …; empty where systemd has no such unit."""
    found = _systemd(tools, lambda systemd: systemd.show(name, ("LoadState", "ActiveState")))
    return "" if found.get("LoadState", "not-found") == "not-found" else found.get("ActiveState", "")


def _restart_unit(tools: Tools, name: str) -> None:
    _systemd(tools, lambda systemd: systemd.act("restart", name, timeout_s=_UNIT_S))


def _systemd(tools: Tools, ask: Callable[[Systemctl], T]) -> T:
    systemd = systemctl.find(tools.roots.root)
    if systemd is None:
        raise ActionError("dependents: systemd is not this host's service manager", reason="unsupported")
    try:
        return ask(systemd)
    except SystemctlError as error:
        raise ActionError(str(error)) from None
