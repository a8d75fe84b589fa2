"""Every container with its state, its health, and what it depends on: `docker ps -a` as values, over the fleet."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Action, Plan
from fireline_agent.remediation.container.failing import gather
from fireline_agent.remediation.container.selection import SELECTORS, Container
from fireline_wire.actions import ActionSpec, Kind, Result, Risk

_NAMED: Final = 5  # of those that are not well, in one line


def plan(facts: Mapping[str, Any], _params: Mapping[str, Any]) -> Plan:
    """One row for each, those that are not well first."""
    found = [(Container.from_document(one), one["failing_s"]) for one in facts["containers"]]
    rows = [
        {
            **container.row(),
            "needs": [printable(need) for need in container.needs],
            "policy": container.policy,
            "restarts": container.restarts,
            "exit_code": container.exit_code,
            "started_at": container.started_at,
            "failing_s": round(failing),
        }
        for container, failing in sorted(found, key=lambda one: (is_well(one[0]), one[0].name))
    ]
    states = Counter(container.state for container, _ in found)
    unhealthy = sum(container.health == "unhealthy" for container, _ in found)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    summary = f"{len(rows)} container{'s' * (len(rows) != 1)}: {told}; {unhealthy} unhealthy"
    if unwell := sorted(container.title for container, _ in found if not is_well(container)):
        more = f" and {len(unwell) - _NAMED} more" if len(unwell) > _NAMED else ""
        summary += f"; to look at: {', '.join(unwell[:_NAMED])}{more}"
    return Plan(summary, result={"containers": rows, "count": len(rows), "unhealthy": unhealthy})


def is_well(container: Container) -> bool:
    """Whether it runs and no check of its own says otherwise."""
    return container.state == "running" and container.health in ("none", "healthy")


ACTION = Action(
    ActionSpec(
        "container.states",
        "Show every container with its state, health, restarts and dependencies",
        Risk.READ,
        parameters=SELECTORS,
        results=(
            Result(
                "containers",
                Kind.ROWS,
                "name, id, project, service, state, health, image, needs, restart policy, restarts, exit code, start, "
                "seconds of failing",
            ),
            Result("count", Kind.INT, "containers"),
            Result("unhealthy", Kind.INT, "those that fail their own check"),
        ),
        needs=("docker",),
    ),
    gather,
    plan,
)
