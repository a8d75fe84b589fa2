"""Let paused containers go on."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Plan, Tools, Verified
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.restart import gather
from fireline_agent.remediation.container.selection import ROWS, SELECTORS, from_facts
from fireline_wire.actions import ActionSpec, Risk


def plan(facts: Mapping[str, Any], _params: Mapping[str, Any]) -> Plan:
    """Unpause those that are paused."""
    found = [c for c in from_facts(facts) if c.state == "paused"]
    changes = tuple(change_of(c, f"docker unpause {c.title}") for c in found)
    warnings = ("an isolation may hold one of them paused and pauses it again; that is let go by a release",)
    return Plan(
        f"let {len(found)} paused containers go on",
        changes,
        warnings if changes else (),
        {"containers": [c.row() for c in found]},
    )


def do(tools: Tools, change: Change, _params: Mapping[str, Any]) -> dict[str, Any]:
    """Let one go on."""
    with changing(tools) as engine:
        was_paused = planned(engine, change).state == "paused"
        if was_paused:
            engine.unpause(change.data["id"])
    return {"was_paused": was_paused}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether all of them run."""
    with reading(tools) as engine:
        now = [planned(engine, change) for change in plan.changes]
    still = [f"{c.title} ({c.state})" for c in now if c.state != "running"]
    sentence = f"not running: {', '.join(still)}" if still else f"the engine says that {len(now)} run"
    return Verified(not still, sentence, {"containers": [c.row() for c in now]})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Pause one again."""
    name = change.data["name"]
    if not kept["was_paused"]:
        return f"{name} was not paused, left so"
    with changing(tools) as engine:
        if planned(engine, change).state == "running":
            engine.pause(change.data["id"])
    return f"{name} is paused again"


ACTION = Action(
    ActionSpec(
        "container.unpause",
        "Let paused containers go on",
        Risk.REVERSIBLE,
        parameters=SELECTORS,
        results=(ROWS,),
        undo="pauses them again",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
