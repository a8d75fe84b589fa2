"""Takes a recurring clean-up away that disk.schedule_cleanup made."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.disk import schedules, scheduling
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk


def _gather(tools: Tools, params: Params) -> Facts:
    name = schedules.checked_name(params["name"])
    systemd = schedules.has_systemd(tools)
    found = schedules.found(tools, schedules.places(name, systemd=systemd))
    return {"found": found, "waits": systemd and scheduling.is_waiting(tools, name)}


def _plan(facts: Facts, params: Params) -> Plan:
    changes = [scheduling.switching(params["name"], on=False)] if facts["waits"] else []
    changes += [scheduling.removing(path, text) for path, text in facts["found"].items()]
    summary = f"take the clean-up {params['name']} away" if changes else f"there is no clean-up {params['name']}"
    return Plan(summary, tuple(changes))


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    if change.kind == "service":
        scheduling.switch(tools, change.data["unit"], on=False)
    else:
        scheduling.remove(tools, change.data)
    return {}


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    facts = _gather(tools, params)
    left = [*facts["found"], *([schedules.timer(params["name"])] if facts["waits"] else [])]
    return Verified(not left, f"{', '.join(left)} still there" if left else "nothing of it is left")


def _undo(tools: Tools, change: Change, _kept: Mapping[str, Any]) -> str:
    if change.kind == "service":
        scheduling.switch(tools, change.data["unit"], on=True)
        return f"{change.data['unit']} waits again"
    scheduling.write(tools, change.data)
    return f"{change.data['path']} is back"


ACTION = Action(
    ActionSpec(
        "disk.unschedule_cleanup",
        "Take a recurring clean-up away",
        Risk.REVERSIBLE,
        parameters=(Parameter("name", Kind.TEXT, "What the schedule is called.", is_required=True),),
        undo="puts the schedule back",
        needs=("systemd or cron",),
    ),
    _gather,
    _plan,
    _do,
    _verify,
    _undo,
)
