"""Actions to wire and back. All that comes in was said by an agent: sizes, numbers and texts are checked (I8)."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from fireline_controller.hosts import failures, wire
from fireline_controller.hosts.values import Command
from fireline_controller.hosts.values_remediation import (
    ActionAccepted,
    ActionEnded,
    ActionNews,
    ActionPlan,
    ActionProgress,
)
from fireline_controller.model import ActionChange
from fireline_wire.actions import MAX_RESULT_BYTES, Risk
from fireline_wire.v1 import remediation_pb2

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_CHANGES: Final = 200
_MAX_NUMBER: Final = (1 << 53) - 1  # what a journal takes: RFC 8785, section 3.2.2.3
_MAX_DEPTH: Final = 20  # of a result's lists and objects


def plan_request(command: Command, action: str, params: Mapping[str, Any]) -> remediation_pb2.PlanActionRequest:
    """The question what an action would do."""
    return remediation_pb2.PlanActionRequest(
        context=wire.context(command), action=action, params_json=json.dumps(dict(params))
    )


def apply_request(
    command: Command, action: str, params: Mapping[str, Any], plan_sha256: str
) -> remediation_pb2.ApplyActionRequest:
    """The order to do what was planned."""
    return remediation_pb2.ApplyActionRequest(
        context=wire.context(command), action=action, params_json=json.dumps(dict(params)), plan_sha256=plan_sha256
    )


def plan(said: remediation_pb2.ActionPlan, *, host: str) -> ActionPlan:
    """What the host says that it would do.

    Raises:
        HostFailed: its hash, its risk, a number or its result is none.
    """
    if _SHA256.fullmatch(said.plan_sha256) is None:
        raise failures.bad_data(host, f"its plan's SHA-256 is {wire.text(said.plan_sha256)[:80]!r}")
    if said.risk not in list(Risk):
        raise failures.bad_data(host, f"its plan's risk is {wire.text(said.risk)[:80]!r}")
    return ActionPlan(
        plan_sha256=said.plan_sha256,
        risk=said.risk,
        summary=wire.text(said.summary),
        changes=tuple(_change(change, host) for change in said.changes[:_MAX_CHANGES]),
        change_count=_number(said.change_count, host),
        total_bytes=_number(said.total_bytes, host),
        warnings=tuple(wire.text(warning) for warning in said.warnings[: wire.MAX_ITEMS]),
        result=result(said.result_json, host=host),
    )


def news(event: remediation_pb2.ActionEvent, *, host: str) -> ActionNews:
    """One event of an application's stream.

    Raises:
        HostFailed: an event of no known kind, or a number or a result that is none.
    """
    kind = event.WhichOneof("event")
    if kind == "accepted":
        return ActionAccepted(event.accepted.replayed)
    if kind == "progress":
        told = event.progress
        return ActionProgress(_number(told.done, host), _number(told.count, host), wire.text(told.doing))
    if kind == "ended":
        return _ended(event.ended, host)
    raise failures.bad_data(host, "it sent an action event of an unknown kind")


def result(said: str, *, host: str) -> Mapping[str, Any]:
    """A result as JSON values.

    Raises:
        HostFailed: it is too long, no JSON object, or too deep.
    """
    if len(said) > MAX_RESULT_BYTES:
        raise failures.bad_data(host, f"its result has {len(said)} characters: at most {MAX_RESULT_BYTES} are allowed")
    try:
        found = json.loads(said or "{}", parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or _depth(found) > _MAX_DEPTH:
        raise failures.bad_data(host, "its result is no JSON object, or one that is nested too deeply")
    # Half a surrogate pair is JSON, and no text: nothing could print or store it.
    whole: Mapping[str, Any] = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    return whole


def _ended(said: remediation_pb2.ActionEnded, host: str) -> ActionEnded:
    known = said.status in remediation_pb2.ActionStatus.values()
    status = remediation_pb2.ActionStatus.Name(said.status) if known else "ACTION_STATUS_UNSPECIFIED"
    return ActionEnded(
        status=status.removeprefix("ACTION_STATUS_").lower(),
        detail=wire.text(said.detail),
        changes_done=_number(said.changes_done, host),
        change_count=_number(said.change_count, host),
        verified=wire.text(said.verified),
        result=result(said.result_json, host=host),
        can_undo=said.can_undo,
        in_doubt=tuple(wire.text(subject) for subject in said.in_doubt[: wire.MAX_ITEMS]),
    )


def _change(said: remediation_pb2.ActionChange, host: str) -> ActionChange:
    texts = (wire.text(said.kind), wire.text(said.subject), wire.text(said.does))
    return ActionChange(*texts, _number(said.size_bytes, host))


def _number(said: int, host: str) -> int:
    if said > _MAX_NUMBER:
        raise failures.bad_data(host, f"it counts {said}: at most {_MAX_NUMBER} makes sense")
    return said


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    """What is too large for a float would be infinite, which is no JSON when it is written again."""
    found = float(number)
    return found if math.isfinite(found) else _refuse(number)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, looked at no deeper than is allowed."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [inner for outer in level for inner in _inside(outer)]
    return depth


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
