"""Restart the Docker Engine through systemd, and see that what ran before runs again.

Containers end with the engine unless it keeps them alive (live-restore). Those with a restart policy come back by
themselves; the others that ran are started by this action.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands import systemctl
from fireline_agent.hands.docker import EngineError
from fireline_agent.hands.systemctl import Systemctl, SystemctlError
from fireline_agent.remediation.action import Action, ActionError, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.reaching import changing, reading
from fireline_agent.remediation.container.selection import Container, containers
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_UNIT: Final = "docker.service"
_LOOK_EVERY_S: Final = 0.5
_JOURNAL_LINES: Final = 12


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The unit, and what the engine says of itself and of what runs; an engine that hangs says nothing."""
    shown = _shown(_manager(tools))
    facts: dict[str, Any] = {"pid": int(shown.get("MainPID") or 0), "silent": "", "live_restore": False, "running": []}
    try:
        with reading(tools) as engine:
            facts["live_restore"] = engine.info().get("LiveRestoreEnabled") is True
            listed = [one for one in engine.containers() if one.get("State") in ("running", "paused", "restarting")]
            facts["running"] = [c.to_document() for c in containers(engine.inspect(str(one["Id"])) for one in listed)]
    except ActionError as error:
        facts["silent"] = str(error)
    return facts


def plan(facts: Mapping[str, Any], _params: Mapping[str, Any]) -> Plan:
    """Restart the unit; what stops with it and what does not come back by itself is told before."""
    running = [Container.from_document(one) for one in facts["running"]]
    lone = [c.title for c in running if c.policy == "no"]
    if facts["silent"]:
        warnings = [f"the engine does not answer, so what runs is not known: {facts['silent']}"]
    elif facts["live_restore"]:
        warnings = ["live-restore is on: containers run on meanwhile"]
    else:
        warnings = [f"{len(running)} running containers stop and start again: each is down for some seconds or more"]
        warnings += [f"without a restart policy, started by this action: {', '.join(lone)[:400]}"] if lone else []
    change = Change("service", f"{_UNIT} (process {facts['pid']})", f"systemctl restart {_UNIT}", {"pid": facts["pid"]})
    result = {"running": [c.row() for c in running], "count": len(running)}
    return Plan(f"restart the Docker Engine with {len(running)} running containers", (change,), tuple(warnings), result)


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Restart it, wait until it answers, and start what ran and does not come back by itself."""
    facts = gather(tools, params)
    if facts["pid"] != change.data["pid"]:
        raise ActionError(f"{_UNIT} was restarted since this was planned: wanted process {change.data['pid']}")
    manager = _manager(tools)
    try:
        manager.act("restart", _UNIT, timeout_s=params["wait"])
    except SystemctlError as error:
        raise ActionError(f"{error}; its log ends: {' / '.join(manager.journal(_UNIT, _JOURNAL_LINES))}") from None
    tools.tell("restarted, waiting for the engine's answer")
    _until_answer(tools, within_s=params["wait"])
    return {"started": _start_lone(tools, [Container.from_document(one) for one in facts["running"]])}


def _until_answer(tools: Tools, *, within_s: float) -> None:
    until = time.monotonic() + within_s
    while True:
        try:
            with reading(tools) as engine:
                engine.info()
                return
        except ActionError as error:
            if time.monotonic() >= until:
                raise ActionError(f"the engine does not answer {within_s:g} s after its restart: {error}") from None
        time.sleep(_LOOK_EVERY_S)


def _start_lone(tools: Tools, ran: list[Container]) -> list[str]:
    """Start what has no restart policy; the ids of those that took it."""
    started = []
    with changing(tools) as engine:
        states = {str(one.get("Id")): one.get("State") for one in engine.containers()}
        for container in ran:
            if container.policy != "no" or states.get(container.id) not in ("exited", "created"):
                continue
            try:
                engine.start(container.id)
                started.append(container.id)
            except EngineError as error:
                tools.tell(f"{container.title} does not start: {error}")  # verify names it
    return started


def verify(tools: Tools, plan: Plan, params: Mapping[str, Any]) -> Verified:
    """Whether what ran before runs again, waiting for restart policies to do their part."""
    wanted = {row["id"]: row["name"] for row in plan.result["running"]}
    until = time.monotonic() + params["wait"]
    while True:
        with reading(tools) as engine:
            up = {str(one.get("Id"))[:12] for one in engine.containers() if one.get("State") in ("running", "paused")}
        missing = [name for container, name in wanted.items() if container not in up]
        if not missing or time.monotonic() >= until:
            break
        time.sleep(_LOOK_EVERY_S)
    said = f"the engine answers, {len(wanted) - len(missing)} of {len(wanted)} that ran run again"
    return Verified(not missing, f"{said}; not: {', '.join(missing)[:400]}" if missing else said)


def _manager(tools: Tools) -> Systemctl:
    manager = systemctl.find(tools.roots.root)
    if manager is None:
        raise ActionError(
            "systemd is not this host's service manager (/run/systemd/system is not there): restart the engine by hand",
            reason="unsupported",
        )
    return manager


def _shown(manager: Systemctl) -> Mapping[str, str]:
    try:
        shown = manager.show(_UNIT, ("LoadState", "MainPID"))
    except SystemctlError as error:
        raise ActionError(str(error)) from None
    if shown.get("LoadState") != "loaded":
        found = shown.get("LoadState", "nothing")
        raise ActionError(f"{_UNIT}: wanted a unit of systemd, found {found}", reason="unsupported")
    return shown


ACTION = Action(
    ActionSpec(
        "system.docker_restart",
        "Restart the Docker Engine and see that what ran before runs again",
        Risk.DISRUPTIVE,
        parameters=(
            Parameter("wait", Kind.DURATION, "how long the engine, and then the containers, may take", 120, most=1800),
        ),
        results=(
            Result("running", Kind.ROWS, "containers that ran before"),
            Result("count", Kind.INT, "how many that are"),
        ),
        needs=("docker", "systemd"),
    ),
    gather,
    plan,
    do,
    verify,
)
