"""Which commands need other operators' approval, and whether they have it. Pure: no store, no wire, no clock.

Imported by store, engine and control. Leaves to others: keeping requests (store), who an operator is (pki, engine).
"""

from fireline_controller.policy.deciding import binding, decide, in_words, is_met, objection
from fireline_controller.policy.rules import ACTIONS, parse
from fireline_controller.policy.values import (
    Allowed,
    Approval,
    Circumstances,
    Demand,
    Needs,
    Proposal,
    Refused,
    Rule,
    Verdict,
    Vote,
    standing,
)

__all__ = [
    "ACTIONS",
    "Allowed",
    "Approval",
    "Circumstances",
    "Demand",
    "Needs",
    "Proposal",
    "Refused",
    "Rule",
    "Verdict",
    "Vote",
    "binding",
    "decide",
    "in_words",
    "is_met",
    "objection",
    "parse",
    "standing",
]
