"""Stop containers, those that depend on others first."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.restart import gather
from fireline_agent.remediation.container.selection import ROWS, SELECTORS, Container, from_facts
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, until_well
from fireline_wire.actions import ActionSpec, Risk

_START_S = 60.0  # what an undo waits for one


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Stop those that are up."""
    ordered, warnings = dependencies_first([c for c in from_facts(facts) if c.is_up])
    found = ordered[::-1]
    changes = tuple(change_of(c, f"docker stop --time {params['stop_timeout']} {c.title}") for c in found)
    result = {"containers": [c.row() for c in found]}
    return Plan(f"stop {len(found)} containers", changes, (*warnings, *_policy_warnings(found)), result)


def _policy_warnings(found: list[Container]) -> list[str]:
    back = [c.title for c in found if c.policy == "always"]
    return [f"restart policy always: comes back when the engine itself restarts: {', '.join(back)}"] if back else []


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Stop one."""
    with changing(tools) as engine:
        before = planned(engine, change)
        if before.is_up:
            engine.stop(change.data["id"], within_s=params["stop_timeout"])
    return {"state_before": before.state}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether all of them are down."""
    with reading(tools) as engine:
        now = [planned(engine, change) for change in plan.changes]
    up = [f"{c.title} ({c.state})" for c in now if c.is_up]
    sentence = f"still up: {', '.join(up)}" if up else f"the engine says that {len(now)} are stopped"
    return Verified(not up, sentence, {"containers": [c.row() for c in now]})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Start one, and pause it again where it was paused."""
    name = change.data["name"]
    with changing(tools) as engine:
        planned(engine, change)
        if kept["state_before"] in ("running", "paused", "restarting"):
            engine.start(change.data["id"])
            until_well(engine, change.data["id"], name, within_s=_START_S)
        if kept["state_before"] == "paused":
            engine.pause(change.data["id"])
    return f"{name} is {kept['state_before']} again"


ACTION = Action(
    ActionSpec(
        "container.stop",
        "Stop containers, those that depend on others first",
        Risk.DISRUPTIVE,
        parameters=(*SELECTORS, STOP_TIMEOUT),
        results=(ROWS,),
        undo="starts them, those that others depend on first",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
