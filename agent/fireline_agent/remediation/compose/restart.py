"""Restart a Compose project, or one service of it."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Plan, Tools
from fireline_agent.remediation.compose.scope import PROJECT, SERVICE, of_project
from fireline_agent.remediation.container import restarting
from fireline_agent.remediation.container.reaching import reading
from fireline_agent.remediation.container.restart import is_finished
from fireline_agent.remediation.container.selection import containers, from_facts
from fireline_agent.remediation.container.waiting import STOP_TIMEOUT, WAIT
from fireline_wire.actions import ActionSpec, Risk


def gather(tools: Tools, params: Mapping[str, Any]) -> dict[str, Any]:
    """The containers of the project."""
    with reading(tools) as engine:
        return {"containers": [c.to_document() for c in containers(of_project(engine, params))]}


def plan(facts: Mapping[str, Any], params: Mapping[str, Any]) -> Plan:
    """Restart all but jobs that ended well."""
    return restarting.plan([c for c in from_facts(facts) if not is_finished(c)], params)


ACTION = Action(
    ActionSpec(
        "compose.restart",
        "Restart a Compose project or one service, in order of dependency, each well before the next",
        Risk.DISRUPTIVE,
        parameters=(PROJECT, SERVICE, STOP_TIMEOUT, WAIT),
        results=restarting.RESULTS,
        needs=("docker",),
    ),
    gather,
    plan,
    restarting.do,
    restarting.verify,
)
