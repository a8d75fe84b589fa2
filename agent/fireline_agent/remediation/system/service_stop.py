"""Stops services of systemd."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.system import services
from fireline_wire.actions import ActionSpec, Risk

_STOPPED = ("inactive", "failed")


def _plan(facts: Facts, params: Params) -> Plan:
    units = [unit for unit in services.known(facts, params) if unit["active"] not in _STOPPED]
    changes = tuple(services.change("stop", unit) for unit in units)
    names = ", ".join(unit["name"] for unit in units)
    summary = f"stop {names}" if units else "all of them are stopped already"
    return Plan(summary, changes, tuple(services.warnings("stop", units)))


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    return services.act(tools, change, params, "stop")


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    return services.verify(tools, plan.changes, params, lambda _change, unit: unit["active"] in _STOPPED)


def _undo(tools: Tools, change: Change, _kept: Mapping[str, Any]) -> str:
    return services.take_back(tools, change, "start")


ACTION = Action(
    ActionSpec(
        "system.service_stop",
        "Stop services of systemd",
        Risk.DISRUPTIVE,
        services.PARAMETERS,
        services.RESULTS,
        undo="starts them again",
        needs=("systemd",),
    ),
    services.gather,
    _plan,
    _do,
    _verify,
    _undo,
)
