"""Starts services of systemd that do not run."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.system import services
from fireline_wire.actions import ActionSpec, Risk


def _plan(facts: Facts, params: Params) -> Plan:
    units = [unit for unit in services.known(facts, params) if unit["active"] != "active"]
    changes = tuple(services.change("start", unit) for unit in units)
    names = ", ".join(unit["name"] for unit in units)
    return Plan(f"start {names}" if units else "all of them run already", changes)


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    return services.act(tools, change, params, "start")


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    return services.verify(tools, plan.changes, params, lambda _change, unit: unit["active"] == "active")


def _undo(tools: Tools, change: Change, _kept: Mapping[str, Any]) -> str:
    return services.take_back(tools, change, "stop")


ACTION = Action(
    ActionSpec(
        "system.service_start",
        "Start services of systemd",
        Risk.REVERSIBLE,
        services.PARAMETERS,
        services.RESULTS,
        undo="stops them again",
        needs=("systemd",),
    ),
    services.gather,
    _plan,
    _do,
    _verify,
    _undo,
)
