"""Removes old temporary files; never what is in use, a socket, pipe or device, or somebody's running work."""

import time

from fireline_agent.hands.chosen import Rules
from fireline_agent.hands.selection import before_ns
from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.disk import cleaning
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk


def _rules(params: Params) -> Rules:
    return Rules(
        tuple(params["patterns"]),
        before_ns(params["older_than"], time.time()),
        is_newest_time=params["time"] == "newest",
        is_temporary=True,
    )


def _gather(tools: Tools, params: Params) -> Facts:
    return cleaning.gather(tools, params["roots"], _rules(params))


def _plan(facts: Facts, params: Params) -> Plan:
    return cleaning.plan(facts, held="")


def _do(tools: Tools, change: Change, params: Params) -> dict[str, int]:
    return dict(cleaning.do(tools, change, _rules(params)))


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    return cleaning.verify(tools, plan, _rules(params))


ACTION = Action(
    ActionSpec(
        "disk.clean_temp",
        "Remove old temporary files, and folders that are left empty; never what is in use",
        Risk.DESTRUCTIVE,
        parameters=(
            Parameter("roots", Kind.PATHS, "Folders for temporary files.", ["/tmp", "/var/tmp"]),  # noqa: S108 -- named, not used
            Parameter("older_than", Kind.DURATION, "Unused for so long; 0 takes every age.", 10 * 86400),
            Parameter("patterns", Kind.TEXTS, "Shell patterns of file names.", ["*"]),
            Parameter(
                "time", Kind.TEXT, "Which time counts: the newest of read, written and changed, or written only.",
                "newest", choices=("newest", "mtime"),
            ),
        ),
        results=cleaning.RESULTS,
        evidence=("selected_files",),
        evidence_params={"selected_files": {"kind": "temp", "time": "$time", **cleaning.CHOSEN_BY}},
    ),
    _gather,
    _plan,
    _do,
    _verify,
    is_bulk=True,
)  # fmt: skip
