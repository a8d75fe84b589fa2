"""Rules, what is proposed, what was approved, and the verdict."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import rfc8785

from fireline_controller.model import Host, Target


@dataclass(frozen=True)
class Rule:
    """Who must agree to what. It binds a command of these actions on more than `above` hosts that `target` selects."""

    # What it binds: isolate, release, remediate, failover, operator (adding and removing them), fleet (changing labels
    # and removing hosts).
    actions: tuple[str, ...]
    # A label selector, or `all`.
    target: str = "all"
    # So many of the selected hosts one operator may address alone, within the time below.
    above: int = 0
    # Hosts that the operator addressed alone in this time before, by the same action, are counted too; "0s": not.
    within: timedelta = timedelta(hours=1)
    # How many other operators must approve.
    approvals: int = 1
    # Whose approval counts; nobody named: everybody's.
    operators: tuple[str, ...] = ()
    # How long a request can be approved and used, from the moment when it is asked.
    expires: timedelta = timedelta(minutes=15)
    # Whether the command may pass without approval, with a reason and loudly.
    break_glass: bool = False
    # Of the action `remediate`: only those of these risks; empty: all.
    risks: tuple[str, ...] = ()
    # Of the action `remediate`: only those whose name is like one of these shell patterns; empty: all.
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demand:
    """So many approvals of these operators; nobody named: of any. The requester's own never counts."""

    approvals: int
    operators: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = " or ".join(self.operators) if self.operators else "any other operator"
        return f"{self.approvals} approval{'s' * (self.approvals != 1)} by {by}"


@dataclass(frozen=True)
class Proposal:
    """What an operator wants done. `parameters` are JSON values: all that changes what happens on a host."""

    action: str
    target: Target
    parameters: Mapping[str, Any]
    requester: str

    @property
    def digest(self) -> str:
        """What an approval is bound to: SHA-256 over action, hosts and parameters as canonical JSON (RFC 8785)."""
        bound: dict[str, Any] = {
            "action": self.action,
            "target_sha256": self.target.sha256,
            "parameters": dict(self.parameters),
        }
        return hashlib.sha256(rfc8785.dumps(bound)).hexdigest()


@dataclass(frozen=True)
class Circumstances:
    """What a decision depends on besides the rules and the command.

    `hosts` is the fleet with the labels that it has now, `operators` are those of now. `alone` are the hosts that the
    requester addressed by the same action without approval, and when last.
    """

    now: datetime
    hosts: Sequence[Host]
    operators: frozenset[str]
    alone: Mapping[str, datetime]


@dataclass(frozen=True)
class Vote:
    """One operator's word on a request."""

    by: str
    at: datetime
    approves: bool
    reason: str = ""


@dataclass(frozen=True)
class Approval:
    """A request for approval, and what became of it.

    `ended` is `spent`, `denied` or `expired` once that is on record; `used_by` is what spent it, an operation's id for
    most actions. `hosts` are folded; `demands` are those of the moment when it was asked.
    """

    id: str
    digest: str
    action: str
    summary: str
    hosts: str
    parameters: Mapping[str, Any]
    requester: str
    reason: str
    incident_id: str
    asked_at: datetime
    expires_at: datetime
    demands: tuple[Demand, ...]
    votes: tuple[Vote, ...] = ()
    ended: str = ""
    used_by: str = ""


def standing(approval: Approval, now: datetime) -> str:
    """`open`, `spent`, `denied` or `expired`."""
    return approval.ended or ("expired" if now >= approval.expires_at else "open")


@dataclass(frozen=True)
class Allowed:
    """It may be done. `by`: whose approval it stands on; nobody's where no rule binds it."""

    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """It may be done once all of these demands are met, within `expires` of the asking.

    `earlier`: hosts that are not the command's, without which no rule would bind it.
    """

    demands: tuple[Demand, ...]
    expires: timedelta
    break_glass: bool
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """It may not be done."""

    why: str
    break_glass: bool


Verdict = Allowed | Needs | Refused
