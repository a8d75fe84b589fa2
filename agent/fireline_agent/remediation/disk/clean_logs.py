"""Removes old logs below named folders, by age and name; one that a process has open is emptied instead."""

import time

from fireline_agent.hands.chosen import Rules
from fireline_agent.hands.selection import before_ns
from fireline_agent.remediation.action import Action, Change, Facts, Params, Plan, Tools, Verified
from fireline_agent.remediation.disk import cleaning
from fireline_wire.actions import ActionSpec, Kind, Parameter, Risk

_HELD = "empty {} that a process has open (its name and owner stay; what is written next begins anew)"


def _rules(params: Params) -> Rules:
    return Rules(tuple(params["patterns"]), before_ns(params["older_than"], time.time()))


def _gather(tools: Tools, params: Params) -> Facts:
    return cleaning.gather(tools, params["roots"], _rules(params))


def _plan(facts: Facts, params: Params) -> Plan:
    return cleaning.plan(facts, held=_HELD)


def _do(tools: Tools, change: Change, params: Params) -> dict[str, int]:
    return dict(cleaning.do(tools, change, _rules(params)))


def _verify(tools: Tools, plan: Plan, params: Params) -> Verified:
    return cleaning.verify(tools, plan, _rules(params))


ACTION = Action(
    ActionSpec(
        "disk.clean_logs",
        "Remove old logs below named folders, by age and name; empty those that a process has open",
        Risk.DESTRUCTIVE,
        parameters=(
            Parameter("roots", Kind.PATHS, "Folders that hold the logs; nothing outside is touched.", is_required=True),
            Parameter("older_than", Kind.DURATION, "Not written for so long; 0 takes every age.", 7 * 86400),
            Parameter("patterns", Kind.TEXTS, "Shell patterns of file names.", ["*.log", "*.log.*", "*.log-*"]),
        ),
        results=cleaning.RESULTS,
        evidence=("selected_files",),
        evidence_params={"selected_files": {"kind": "logs", **cleaning.CHOSEN_BY}},
    ),
    _gather,
    _plan,
    _do,
    _verify,
    is_bulk=True,
)
