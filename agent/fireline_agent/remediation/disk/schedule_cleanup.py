"""Makes this host clean logs or temporary files by itself, by the clock, until it is told otherwise."""

from collections.abc import Mapping
from typing import Any

from fireline_agent.remediation.action import Action, ActionError, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.disk import cleaning, ground, schedules, scheduling
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

_DAY_S = 86400


def _gather(tools: Tools, params: Params) -> Facts:
    name = schedules.checked_name(params["name"])
    ground.check_patterns(params["patterns"])
    ground.check(params["roots"], state=tools.roots.state.resolve(), allows_path=tools.allows_path)
    systemd = schedules.has_systemd(tools)
    return {
        "systemd": systemd,
        "wanted": schedules.texts(params, systemd=systemd),
        "found": schedules.found(tools, schedules.places(name, systemd=systemd)),
        "waits": not systemd or scheduling.is_waiting(tools, name),
    }


def _plan(facts: Facts, params: Params) -> Plan:
    name, wanted = params["name"], facts["wanted"]
    for word in [*params["roots"], *params["patterns"]]:
        if not word.isprintable():
            raise ActionError(f"{word!r}: a schedule takes printable names only", reason="refused")
    if other := next((path for path, text in facts["found"].items() if wanted.get(path) != text), None):
        raise ActionError(
            f"{other}: another schedule has the name {name}; take it away first: disk.unschedule_cleanup name={name}",
            reason="refused",
        )
    changes = [scheduling.writing(path, text) for path, text in wanted.items() if path not in facts["found"]]
    if facts["systemd"] and not (facts["waits"] and not changes):
        changes.append(scheduling.switching(name, on=True))
    by = "a timer of systemd" if facts["systemd"] else "cron"
    what = f"clean {params['kind']} older than {params['older_than'] // _DAY_S} days {params['every']} by {by}"
    return Plan(what if changes else f"already so: {what}", tuple(changes), result={"files": list(wanted)})


def _do(tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    if change.kind == "service":
        scheduling.switch(tools, change.data["unit"], on=True)
    else:
        scheduling.write(tools, change.data)
    return {}


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    systemd = schedules.has_systemd(tools)
    wanted = schedules.texts(params, systemd=systemd)
    if schedules.found(tools, list(wanted)) != wanted:
        return Verified(False, "the files are not there, or not as written")
    if systemd and not scheduling.is_waiting(tools, params["name"]):
        return Verified(False, f"{schedules.timer(params['name'])} does not wait for its time")
    return Verified(True, f"{', '.join(wanted)} in place{', the timer waits' if systemd else ''}")


def _undo(tools: Tools, change: Change, _kept: Mapping[str, Any]) -> str:
    if change.kind == "service":
        scheduling.switch(tools, change.data["unit"], on=False)
        return f"{change.data['unit']} is off"
    scheduling.remove(tools, change.data)
    return f"{change.data['path']} is removed"


ACTION = Action(
    ActionSpec(
        "disk.schedule_cleanup",
        "Have this host clean logs or temporary files by itself, by a timer of systemd or by cron",
        Risk.DESTRUCTIVE,
        parameters=(
            Parameter("name", Kind.TEXT, "What the schedule is called: a-z, 0-9, '-'.", is_required=True),
            Parameter(
                "kind",
                Kind.TEXT,
                "By the rules of disk.clean_logs or disk.clean_temp.",
                "logs",
                choices=("logs", "temp"),
            ),
            Parameter("roots", Kind.PATHS, "Folders to clean; nothing outside is touched.", is_required=True),
            Parameter("older_than", Kind.DURATION, "Only what is so old.", 7 * _DAY_S, least=_DAY_S),
            Parameter("patterns", Kind.TEXTS, "Shell patterns of file names.", ["*.log", "*.log.*", "*.log-*"]),
            Parameter("every", Kind.TEXT, "How often.", "daily", choices=schedules.EVERY),
        ),
        results=(Result("files", Kind.PATHS, "The files that make the schedule."),),
        evidence=("selected_files",),
        evidence_params={"selected_files": {"kind": "$kind", **cleaning.CHOSEN_BY}},
        undo="takes the schedule away; what it removed by then stays removed",
        needs=("systemd or cron",),
    ),
    _gather,
    _plan,
    _do,
    _verify,
    _undo,
)
