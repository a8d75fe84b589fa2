"""Restart the containers whose own health check fails, and no others: not those without a check, nor those starting."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.action import Action, Change, Plan, Tools
from fireline_agent.remediation.container import restarting
from fireline_agent.remediation.container.failing import gather
from fireline_agent.remediation.container.reaching import planned, reading
from fireline_agent.remediation.container.selection import SELECTORS, Container
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, WAIT
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

HEALTHS: Final = ("none", "starting", "healthy", "unhealthy")
_AFTER: Final = Parameter("after", Kind.DURATION, "leave alone what has been failing for less than this", 60)


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Restart what runs and has been unhealthy for long enough."""
    found = [(Container.from_document(one), one["failing_s"]) for one in facts["containers"]]
    running = [(c, failing) for c, failing in found if c.state == "running"]
    sick = [c for c, failing in running if c.health == "unhealthy" and failing >= params["after"]]
    counted = Counter(c.health for c, _ in running)
    counts = {health: counted[health] for health in HEALTHS}
    made = restarting.plan(sick, params)
    told = ", ".join(f"{count} {_WORDS[health]}" for health, count in counts.items() if count) or "none run"
    early = [f"{c.title} fails for {f:.0f} s only" for c, f in running if c.health == "unhealthy" and c not in sick]
    summary = f"{made.summary} (of {len(running)} that run: {told})" if sick else f"nothing to restart: {told}"
    return Plan(summary, made.changes, (*made.warnings, *early), {**made.result, **counts})


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Restart one, unless it got well by itself in the meantime."""
    with reading(tools) as engine:
        now = planned(engine, change)
    if now.health == "healthy":
        tools.tell(f"{now.title} is healthy again, left alone")
        return {"left_alone": "healthy again"}
    return restarting.do(tools, change, params)


_WORDS: Final = {
    "none": "without a check",
    "starting": "starting",
    "healthy": "healthy",
    "unhealthy": "unhealthy",
}

ACTION = Action(
    ActionSpec(
        "container.restart_unhealthy",
        "Restart the containers that fail their own health check, in order of dependency",
        Risk.DISRUPTIVE,
        parameters=(*SELECTORS, _AFTER, STOP_TIMEOUT, WAIT),
        results=(
            *restarting.RESULTS,
            *(Result(health, Kind.INT, f"running containers that are {_WORDS[health]}") for health in HEALTHS),
        ),
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    restarting.verify,
)
