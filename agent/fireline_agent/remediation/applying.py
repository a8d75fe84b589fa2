"""One application from the plan to the proof, each change on record before it is done; and the way back.

Leaves to others: where the record is kept (record), what an action is (action).

Invariants I2 and I6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fireline_agent.remediation.action import Action, ActionError, Change, Params, Plan, Tools, Verified


class PlanChanged(Exception):
    """What was planned is not what would be done now; nothing was changed. Holds the plan as it would be now."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("the host is not as it was when this was planned; plan again")
        self.plan = plan


class Record(Protocol):
    """Where an application is written down as it goes. Each call returns once it is safe."""

    def planned(self, plan: Plan) -> None:
        """What will be done."""

    def starting(self, index: int, change: Change) -> None:
        """A change is about to be done."""

    def done(self, index: int, kept: Mapping[str, Any]) -> None:
        """It is done; with what its undo needs."""

    def failed(self, index: int, why: str) -> None:
        """It is not done, or not known to be."""


@dataclass(frozen=True)
class Done:
    """One change that is done, with what its undo needs."""

    change: Change
    kept: Mapping[str, Any]


@dataclass(frozen=True)
class Applied:
    """How an application ended. `error` is empty where every change was done."""

    plan: Plan
    done: tuple[Done, ...]
    verified: Verified
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def planned(action: Action, tools: Tools, params: Params) -> Plan:
    """What the action would do on this host now.

    Raises:
        ActionError: the host lacks what it needs, or the facts allow no plan.
    """
    return action.plan(action.gather(tools, params), params)


def apply(
    action: Action,
    tools: Tools,
    params: Params,
    *,
    plan_sha256: str,
    record: Record,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Applied:
    """Do what was planned, change by change, and look whether it helped. Stops at the first change that fails.

    Raises:
        PlanChanged: the plan is another one now; nothing was changed.
        ActionError: as `planned`.
    """
    plan = planned(action, tools, params)
    if plan.sha256(action.spec.name, params) != plan_sha256:
        raise PlanChanged(plan)
    record.planned(plan)
    done, error = _do_all(action, tools, params, plan, record, is_stopped)
    if error:
        verified = Verified(False, error)
    else:
        tools.tell("verifying")
        verified = _verified(action, tools, plan, params)
    return Applied(plan, tuple(done), verified, error, {**plan.result, **verified.result})


def undo(action: Action, tools: Tools, done: tuple[Done, ...], on_undone: Callable[[int, str], None]) -> list[str]:
    """Take changes back, the last one first; one that can't be taken back keeps none of the others.

    Args:
        action: the one that was applied.
        tools: as when it was applied.
        done: its changes, in the order in which they were done.
        on_undone: told the index and a sentence of each, as it goes.

    Returns:
        what could not be taken back, a sentence each.
    """
    left = []
    for index in reversed(range(len(done))):
        one = done[index]
        try:
            if action.undo is None:
                raise ActionError(f"{action.spec.name} can't be taken back", reason="unsupported")
            on_undone(index, action.undo(tools, one.change, one.kept))
        except ActionError as error:
            left.append(f"{one.change.subject}: {error}")
    return left


def _do_all(
    action: Action, tools: Tools, params: Params, plan: Plan, record: Record, is_stopped: Callable[[], bool]
) -> tuple[list[Done], str]:
    done: list[Done] = []
    for index, change in enumerate(plan.changes):
        if is_stopped():
            return done, f"stopped after {len(done)} of {len(plan.changes)} changes"
        record.starting(index, change)
        try:
            kept = _do(action, tools, change, params)
        except ActionError as error:
            why = f"{change.subject}: {error}"
            record.failed(index, why)
            return done, f"{why}; {len(done)} of {len(plan.changes)} changes were done"
        record.done(index, kept)
        done.append(Done(change, kept))
    return done, ""


def _do(action: Action, tools: Tools, change: Change, params: Params) -> Mapping[str, Any]:
    if action.do is None:
        raise ActionError(f"{action.spec.name} only reads", reason="unsupported")
    return action.do(tools, change, params)


def _verified(action: Action, tools: Tools, plan: Plan, params: Params) -> Verified:
    try:
        return action.verify(tools, plan, params)
    except ActionError as error:
        return Verified(False, f"could not be verified: {error}")
