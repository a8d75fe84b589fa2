"""Restarts services of systemd, and sees each run anew and stay."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.system import services
from fireline_wire.actions import ActionSpec, Risk


def _plan(facts: Facts, params: Params) -> Plan:
    units = services.known(facts, params)
    names = ", ".join(unit["name"] for unit in units)
    changes = tuple(services.change("restart", unit) for unit in units)
    return Plan(f"restart {names}", changes, tuple(services.warnings("restart", units)))


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    return services.act(tools, change, params, "restart")


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    return services.verify(tools, plan.changes, params, _runs_anew)


def _runs_anew(change: Change, unit: Mapping[str, Any]) -> bool:
    return bool(unit["active"] == "active" and unit["invocation"] != change.data["invocation"])


ACTION = Action(
    ActionSpec(
        "system.service_restart",
        "Restart services of systemd",
        Risk.DISRUPTIVE,
        services.PARAMETERS,
        services.RESULTS,
        needs=("systemd",),
    ),
    services.gather,
    _plan,
    _do,
    _verify,
)
