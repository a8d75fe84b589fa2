"""What an action is: gather what is so, plan what would change, do one change, verify, take one change back.

An action runs in a process of its own as root on the host, in the host's mount namespace; it may block, fail, or be
killed at any point. Only `plan` decides, and it is pure; the rest is a thin shell over `hands`. Leaves to others: the
order of steps and their record (applying), processes and limits (runner).
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fireline_agent.hands.roots import Roots
from fireline_wire.actions import ActionSpec, catalogue, nearest

_SHOWN_CHANGES: Final = 200  # of a plan, to whoever asked; its hash is over all of them


class ActionError(Exception):
    """The action can't be planned, done or taken back; the message names the thing, what was wanted and found.

    `reason` is `not_found`, `unsupported`, `refused` or `failed`, or `denied` where the host's policy forbids it.
    """

    def __init__(self, message: str, *, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Change:
    """One thing that applying a plan changes.

    Attributes:
        kind: what it is: `container`, `file`, `process`, `service`, `session`, `setting`, `account`, ….
        subject: which one, so exactly that another that took its place is not mistaken for it: an id, an inode with
            its times, a pid with its start time.
        does: what happens to it, for a person; a command as it would be typed.
        data: what `do` needs, as JSON values; never a secret.
        size_bytes: what it frees, moves or writes. Not part of the plan's hash: files that are written to grow.
    """

    kind: str
    subject: str
    does: str
    data: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What an action would do on this host now, or what it found where it only reads.

    Attributes:
        summary: one sentence, with counts and sizes.
        changes: in the order in which they are done; none means that there is nothing to do.
        warnings: what the operator must know before.
        result: values named in the specification's results, as JSON values.
    """

    summary: str
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)

    def sha256(self, name: str, params: Mapping[str, Any]) -> str:
        """What the plan is known by: over the action, its parameters and all that would change, not over sizes."""
        bound = [[c.kind, c.subject, c.does, dict(c.data)] for c in self.changes]
        text = json.dumps([name, dict(params), bound], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def to_document(self) -> dict[str, Any]:
        """For whoever asked: the first changes in full, the rest as counts and sizes."""
        return {
            "summary": self.summary,
            "changes": [
                {"kind": c.kind, "subject": c.subject, "does": c.does, "size_bytes": c.size_bytes}
                for c in self.changes[:_SHOWN_CHANGES]
            ],
            "change_count": len(self.changes),
            "total_bytes": sum(c.size_bytes for c in self.changes),
            "warnings": list(self.warnings),
            "result": dict(self.result),
        }


@dataclass(frozen=True)
class Verified:
    """Whether the host is as the plan wanted it, by a look after the act, and how that is known."""

    is_good: bool
    sentence: str
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tools:
    """What an action works with.

    Attributes:
        roots: where the host's state is found.
        request_id: of the application; names what is put aside for an undo.
        tell: progress for whoever watches, one short sentence.
        allows_path: whether the host's policy lets actions write below a path.
        allows_reading: whether it lets actions read a file because an order names it.
    """

    roots: Roots = field(default_factory=Roots)
    request_id: str = "rehearsal"
    tell: Callable[[str], None] = lambda _text: None
    allows_path: Callable[[str], bool] = lambda _path: True
    allows_reading: Callable[[str], bool] = lambda _path: True


Params = Mapping[str, Any]
Facts = Mapping[str, Any]


def _nothing_to_verify(_tools: Tools, plan: Plan, _params: Params) -> Verified:
    return Verified(True, plan.summary)


@dataclass(frozen=True)
class Action:
    """One action. All but `plan` may raise ActionError; what else they raise is a fault of the action.

    Attributes:
        spec: what everybody may know of it. Parameters come checked by it, all of them present.
        gather: reads what is so, as JSON values. Changes nothing.
        plan: pure; raises ActionError where the facts allow no plan.
        do: one change of the plan; returns what its undo needs, as JSON values without secrets. Looks once more
            whether the subject is still the one that was planned. Must bear being cut off anywhere.
        verify: a look after all changes, waiting within bounds where the host needs time.
        undo: takes one change back with what `do` kept; returns a sentence. None where it can't be.
        is_bulk: its changes are many and small; their record may lag by a moment.
    """

    spec: ActionSpec
    gather: Callable[[Tools, Params], Facts]
    plan: Callable[[Facts, Params], Plan]
    do: Callable[[Tools, Change, Params], Mapping[str, Any]] | None = None
    verify: Callable[[Tools, Plan, Params], Verified] = _nothing_to_verify
    undo: Callable[[Tools, Change, Mapping[str, Any]], str] | None = None
    is_bulk: bool = False


def load(name: str) -> Action:
    """The action of a name; `container.restart` stands in `remediation/container/restart.py` as `ACTION`.

    Imported in the acting process only, so that the agent itself stays small.

    Raises:
        ActionError: there is none.
    """
    if name not in catalogue():
        raise ActionError(f"unknown action {name[:100]!r}; {nearest(name, catalogue())}", reason="not_found")
    action: Action = importlib.import_module(f"fireline_agent.remediation.{name}").ACTION
    return action
