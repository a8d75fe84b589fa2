"""Start what is down of a Compose project. Pulls, builds and makes nothing: only what exists is started."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, Change, Plan, Tools, Verified
from fireline_agent.remediation.compose.restart import gather
from fireline_agent.remediation.compose.scope import PROJECT, SERVICE
from fireline_agent.remediation.container import restarting
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.restart import is_finished
from fireline_agent.remediation.container.selection import from_facts
from fireline_agent.remediation.container.waiting import WAIT, until_well
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_DOWN = ("created", "exited", "paused")
_STOP_S = 10  # what an undo gives each to end by itself


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Start those that are down, and let paused ones go on; jobs that others wait for and that ended well stay so."""
    every = from_facts(facts)
    ordered, warnings = dependencies_first(every)
    jobs = {job for c in every for job in c.needs_done}
    down = [c for c in ordered if c.state in _DOWN and not (is_finished(c) and c.service in jobs)]
    services = {c.service for c in every}
    lacking = sorted({need for c in every for need in c.needs if need not in services})
    if lacking and not params["service"]:
        warnings.append(f"a service that others depend on has no container here: {printable(', '.join(lacking))}")
    changes = tuple(
        change_of(c, f"docker {'unpause' if c.state == 'paused' else 'start'} {c.title}", state=c.state) for c in down
    )
    return Plan(
        f"start {len(down)} of {len(every)} containers",
        changes,
        tuple(warnings),
        {"containers": [c.row() for c in ordered], "count": len(down)},
    )


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Start one and wait until it is well, so that what depends on it finds it there."""
    with changing(tools) as engine:
        before = planned(engine, change)
        if before.state == "paused":
            engine.unpause(change.data["id"])
        else:
            engine.start(change.data["id"])
        until_well(engine, change.data["id"], before.title, within_s=params["wait"], may_end=True)
    return {"state_before": before.state}


def verify(tools: Tools, plan: Plan, _params: Mapping[str, Any]) -> Verified:
    """Whether all that were started run, healthy where they have a check, or ended well."""
    with reading(tools) as engine:
        now = [planned(engine, change) for change in plan.changes]
    ended = [c for c in now if is_finished(c)]
    good = [c for c in now if c.state == "running" and c.health in ("none", "healthy")]
    bad = ", ".join(f"{c.title} ({c.state}, {c.health})" for c in now if c not in (*ended, *good))
    sentence = f"not well: {bad}" if bad else f"{len(good)} run, {len(ended)} ended well"
    return Verified(not bad, sentence, {"containers": [c.row() for c in now]})


def undo(tools: Tools, change: Change, kept: Mapping[str, Any]) -> str:
    """Stop or pause one again."""
    name, before = change.data["name"], kept["state_before"]
    with changing(tools) as engine:
        planned(engine, change)
        if before == "paused":
            engine.pause(change.data["id"])
        elif before in ("created", "exited"):
            engine.stop(change.data["id"], within_s=_STOP_S)
    return f"{printable(name)} is {'exited' if before == 'created' else before} again"


ACTION = Action(
    ActionSpec(
        "compose.up",
        "Start what is down of a Compose project, in order of dependency; never pulls, builds or makes a container",
        Risk.REVERSIBLE,
        parameters=(PROJECT, SERVICE, WAIT),
        results=(*restarting.RESULTS[:1], Result("count", Kind.INT, "containers that are started")),
        undo="stops them again",
        needs=("docker",),
    ),
    gather,
    plan,
    do,
    verify,
    undo,
)
