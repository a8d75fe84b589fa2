"""Drives one action in this process by the same loop as the agent does, and keeps its record in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fireline_agent.remediation import applying
from fireline_agent.remediation.action import Action, Change, Plan, Tools


@dataclass
class MemoryRecord:
    """What the loop wrote down, in order."""

    events: list[tuple[str, Any]] = field(default_factory=list)

    def planned(self, plan: Plan) -> None:
        """See Record."""
        self.events.append(("planned", plan))

    def starting(self, index: int, change: Change) -> None:
        """See Record."""
        self.events.append(("starting", index))

    def done(self, index: int, kept: Mapping[str, Any]) -> None:
        """See Record."""
        self.events.append(("done", index))

    def failed(self, index: int, why: str) -> None:
        """See Record."""
        self.events.append(("failed", why))


@dataclass
class Rehearsal:
    """One action with its parameters, as an operator gives them (checked by its specification)."""

    action: Action
    given: Mapping[str, Any]
    tools: Tools = field(default_factory=Tools)
    record: MemoryRecord = field(default_factory=MemoryRecord)

    @property
    def params(self) -> dict[str, Any]:
        """All parameters."""
        return self.action.spec.check(self.given)

    def plan(self) -> Plan:
        """What it would do now."""
        return applying.planned(self.action, self.tools, self.params)

    def apply(self, plan: Plan | None = None) -> applying.Applied:
        """Do it, by the plan given or one made just now."""
        wanted = (plan or self.plan()).sha256(self.action.spec.name, self.params)
        return applying.apply(self.action, self.tools, self.params, plan_sha256=wanted, record=self.record)

    def undo(self, applied: applying.Applied) -> list[str]:
        """Take it back; what could not be."""
        return applying.undo(self.action, self.tools, applied.done, lambda _index, _sentence: None)
