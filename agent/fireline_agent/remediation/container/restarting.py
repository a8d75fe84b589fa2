"""Restarting containers one after another, each well before the next: what several actions do.

Leaves to others: which containers (the actions).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fireline_agent.remediation.action import Change, Plan, Tools, Verified
from fireline_agent.remediation.container.ordering import dependencies_first
from fireline_agent.remediation.container.reaching import change_of, changing, planned, reading
from fireline_agent.remediation.container.selection import ROWS, Container
from fireline_agent.remediation.container.waiting import until_well
from fireline_wire.actions import Kind, Result

RESULTS: Final = (ROWS, Result("count", Kind.INT, "containers that are restarted"))


def plan(found: Sequence[Container], params: Mapping[str, Any]) -> Plan:
    """Restart these, those that others depend on first."""
    ordered, warnings = dependencies_first(found)
    changes = tuple(change(container, params) for container in ordered)
    return Plan(
        f"restart {len(changes)} container{'s' * (len(changes) != 1)}, one after another",
        changes,
        tuple(warnings),
        {"containers": [c.row() for c in ordered], "count": len(changes)},
    )


def change(container: Container, params: Mapping[str, Any]) -> Change:
    """Restart one. A container that is down is started; its state is not bound, since a failing one's changes fast."""
    return change_of(container, f"docker restart --time {params['stop_timeout']} {container.title}")


def do(tools: Tools, change: Change, params: Mapping[str, Any]) -> dict[str, Any]:
    """Restart one and wait until it is well."""
    with changing(tools) as engine:
        before = planned(engine, change)
        engine.restart(change.data["id"], within_s=params["stop_timeout"])
        tools.tell(f"{before.title} restarted, waiting for it")
        until_well(engine, change.data["id"], before.title, within_s=params["wait"])
    return {"started_at_before": before.started_at}


def verify(tools: Tools, plan: Plan, params: Mapping[str, Any]) -> Verified:
    """Whether all of them still run, and are healthy where they have a check."""
    with reading(tools) as engine:
        now = [planned(engine, change) for change in plan.changes]
    unwell = [c for c in now if c.state != "running" or c.health not in ("none", "healthy")]
    if unwell:
        sentence = f"not well: {', '.join(f'{c.title} ({c.state}, {c.health})' for c in unwell)}"
    else:
        checked = sum(c.health == "healthy" for c in now)
        sentence = f"{len(now)} running, {checked} of them healthy by their own check"
    return Verified(not unwell, sentence, {"containers": [c.row() for c in now]})
