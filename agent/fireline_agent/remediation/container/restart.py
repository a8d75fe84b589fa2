"""Restart containers: one by name, all with a label, or all of a Compose service or project."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Plan, Tools
from fireline_agent.remediation.container import restarting
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.selection import SELECTORS, Container, containers, from_facts, inspected
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, WAIT
from fireline_wire.actions import ActionSpec, Risk


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The selected containers."""
    with reading(tools) as engine:
        return {"containers": [c.to_document() for c in containers(inspected(engine, params))]}


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Restart all but jobs that ended well, unless one is named."""
    found = from_facts(facts)
    return restarting.plan([c for c in found if params["container"] or not is_finished(c)], params)


def is_finished(container: Container) -> bool:
    """Whether it is a job that ended well, such as a migration, and not a service that is down."""
    return container.state == "exited" and container.exit_code == 0 and container.policy == "no"


ACTION = Action(
    ActionSpec(
        "container.restart",
        "Restart containers in the order in which they depend on each other, each well before the next",
        Risk.DISRUPTIVE,
        parameters=(*SELECTORS, STOP_TIMEOUT, WAIT),
        results=restarting.RESULTS,
        needs=("docker",),
    ),
    gather,
    plan,
    restarting.do,
    restarting.verify,
)
