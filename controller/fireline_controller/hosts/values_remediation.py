"""What a host is asked about actions, and what it tells of them, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fireline_controller.model import ActionChange


@dataclass(frozen=True)
class ActionPlan:
    """What an action would do on a host. `changes` are the first of `change_count`; `result` holds JSON values."""

    plan_sha256: str
    risk: str
    summary: str
    changes: tuple[ActionChange, ...] = ()
    change_count: int = 0
    total_bytes: int = 0
    warnings: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ActionAccepted:
    """The host has the order. Replayed: it had it before."""

    replayed: bool


@dataclass(frozen=True)
class ActionProgress:
    """How far it is."""

    done: int
    count: int
    doing: str


@dataclass(frozen=True)
class ActionEnded:
    """How an application or an undo ended. `status`: ok, failed, timed_out, cancelled, interrupted, unspecified."""

    status: str
    detail: str
    changes_done: int = 0
    change_count: int = 0
    verified: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    can_undo: bool = False
    in_doubt: tuple[str, ...] = ()


ActionNews: TypeAlias = ActionAccepted | ActionProgress | ActionEnded
