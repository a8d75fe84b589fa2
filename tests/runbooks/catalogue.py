"""A small catalogue of actions and profiles for runbooks under test: one of each risk, one parameter of each kind."""

from typing import Final

from fireline_controller.runbooks.checking import check
from fireline_controller.runbooks.examined import Known
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.parsing import Problem, RunbookError
from fireline_wire.actions import ActionSpec, Kind, Parameter, Result, Risk

ACTIONS: Final = (
    ActionSpec(
        "db.sessions",
        "read sessions",
        Risk.READ,
        (Parameter("older_than", Kind.DURATION, "how old", 300, least=1),),
        (
            Result("count", Kind.INT, "how many"),
            Result("used_pct", Kind.NUMBER, "percent"),
            Result("rows", Kind.ROWS, "them"),
            Result("names", Kind.TEXTS, "their names"),
        ),
    ),
    ActionSpec(
        "db.end",
        "end sessions",
        Risk.DESTRUCTIVE,
        (
            Parameter("older_than", Kind.DURATION, "how old", 300, least=60),
            Parameter("names", Kind.TEXTS, "only these", []),
            Parameter("most", Kind.INT, "at most", 10, least=1, most=100),
        ),
        evidence=("activity", "locks"),
    ),
    ActionSpec(
        "box.restart",
        "restart",
        Risk.DISRUPTIVE,
        (
            Parameter("service", Kind.TEXT, "which", is_required=True),
            Parameter("memory", Kind.SIZE, "limit"),
            Parameter("mode", Kind.TEXT, "how", "soft", choices=("soft", "hard")),
            Parameter("force", Kind.BOOL, "anyway", False),
            Parameter("ratio", Kind.NUMBER, "share", 0.5),
            Parameter("roots", Kind.PATHS, "where", []),
            Parameter("root", Kind.PATH, "where"),
        ),
    ),
    ActionSpec("box.stop", "stop", Risk.REVERSIBLE, undo="start it"),
    ActionSpec(
        "box.clean",
        "clean folders",
        Risk.DESTRUCTIVE,
        (Parameter("roots", Kind.PATHS, "where", is_required=True),),
        evidence=("activity",),
        evidence_params={"activity": {"roots": "$roots"}},
    ),
    ActionSpec("box.purge", "purge what can be made again", Risk.DESTRUCTIVE),
)
KNOWN: Final = Known(
    {spec.name: spec for spec in ACTIONS},
    {"initial": frozenset({"clocks"}), "database": frozenset({"activity", "locks"}), "half": frozenset({"activity"})},
)
# The first 3 lines of a runbook; what a test writes begins in line 4.
HEAD: Final = "apiVersion: fireline/v1\nkind: Runbook\nmetadata: {name: tried, version: 1, summary: tried out}\n"


def checked(text: str) -> Runbook:
    """The runbook of a text below the head."""
    return check((HEAD + text).encode(), KNOWN, file="tried.yaml")


def problems(raw: str | bytes) -> list[Problem]:
    """What is wrong with a whole file; nothing where it is right."""
    try:
        check(raw.encode() if isinstance(raw, str) else raw, KNOWN, file="tried.yaml")
    except RunbookError as error:
        return list(error.problems)
    return []
