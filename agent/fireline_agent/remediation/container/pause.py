"""Stop the processes of containers where they stand: they keep memory and connections, and answer nobody."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.restart import gather
from fireline_agent.remediation.container.selection import ROWS, SELECTORS, from_facts
from fireline_wire.actions import ActionSpec, Risk


def plan(facts: Mapping[str, Any], _params: Mapping[str, Any]) -> Plan:
    """Pause those that run."""
    found = [c for c in from_facts(facts) if c.state == "running"]
    changes = tuple(change_of(c, f"docker pause {c.title}") for c in found)
    return Plan(f"pause {len(found)} running containers", changes, (), {"containers": [c.row() for c in found]})


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Pause one; one that is paused by now was so before us, and the undo leaves it."""
    with changing(tools) as engine:
        was_paused = planned(engine, change).state == "paused"
        if not was_paused:
            engine.pause(change.data["id"])
    return {"was_paused": was_paused}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether all of them stand still."""
    with reading(tools) as engine:
        now = [planned(engine, change) for change in plan.changes]
    going = [c.title for c in now if c.state != "paused"]
    sentence = f"not paused: {', '.join(going)}" if going else f"the engine says that {len(now)} are paused"
    return Verified(not going, sentence, {"containers": [c.row() for c in now]})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Let one go on."""
    name = change.data["name"]
    if kept["was_paused"]:
        return f"{name} was paused before, left so"
    with changing(tools) as engine:
        if planned(engine, change).state == "paused":
            engine.unpause(change.data["id"])
    return f"{name} goes on"


ACTION = Action(
    ActionSpec(
        "container.pause",
        "Stop the processes of running containers where they stand",
        Risk.DISRUPTIVE,
        parameters=SELECTORS,
        results=(ROWS,),
        undo="lets them go on",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
