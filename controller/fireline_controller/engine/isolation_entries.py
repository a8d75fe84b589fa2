"""What the journal says of isolations. The one-time code is in none of it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from fireline_controller.hosts import Released
from fireline_controller.isolation import Isolation
from fireline_controller.model import Entry, IsolationTimes, Operation
from fireline_wire.isolation import code_sha256


def arming(isolation: Isolation, at: datetime, *, witnesses: Mapping[str, int], plan: Mapping[str, Any]) -> Entry:
    """The intent, before the host is told (I6). `witnesses`: how many places answered to whom."""
    return _entry(
        isolation,
        "isolation.arming",
        at,
        f"{isolation.host} is to be cut off: {isolation.scope}",
        {
            "reason": isolation.reason,
            "controllers": list(isolation.controllers),
            "allow": list(isolation.allowances),
            "lease_s": isolation.lease_s,
            "fence_token": isolation.fence_token,
            "force": isolation.force,
            "code_sha256": code_sha256(isolation.code),
            "witnesses": dict(witnesses),
            **plan,
        },
    )


def committed(isolation: Isolation, at: datetime, times: IsolationTimes, *, is_proved: bool) -> Entry:
    """In force until it is released, with the time of each phase."""
    what = isolation.host if isolation.scope == "host" else f"{isolation.scope} of {isolation.host}"
    is_settled = is_proved or isolation.scope != "host"
    how = "isolated" if is_settled else f"isolated, NOT PROVED ({isolation.unproved})"
    phases = {name: value for name, value in asdict(times).items() if name != "code_hint"}
    data = {**phases, "witnesses": list(times.witnesses), "proved": is_proved, "unproved": isolation.unproved}
    summary = f"{what} {how}: {isolation.proof}"
    return _entry(isolation, "isolation.committed", at, summary, data)


def undoing(isolation: Isolation, at: datetime, why: str, fence_token: int) -> Entry:
    """It is to be let back, before the host is told (I6)."""
    summary = f"{isolation.host} is to be let back: {why}"
    return _entry(isolation, "isolation.releasing", at, summary, {"fence_token": fence_token})


def ended(isolation: Isolation, at: datetime, summary: str, **data: Any) -> Entry:
    """No longer, or never, in force; its phase says how."""
    return _entry(isolation, f"isolation.{isolation.phase}", at, summary, data)


def held(isolation: Isolation, at: datetime, why: str) -> Entry:
    """The order waits for its host."""
    until = f"{isolation.not_after:%Y-%m-%d %H:%M:%S} UTC" if isolation.not_after else "released"
    summary = f"the order for {isolation.host} is kept until {until}: {why}"
    return _entry(isolation, "isolation.held", at, summary, {"scope": isolation.scope, "reason": isolation.reason})


def releasing(host: str, operation: Operation, at: datetime, fence_token: int) -> Entry:
    """Everything on a host is to be let back, before the host is told (I6)."""
    data = {"reason": operation.reason, "fence_token": fence_token}
    return _of_operation(host, operation, "isolation.releasing", at, f"{host} is to be let back", data)


def released(host: str, operation: Operation, at: datetime, summary: str, back: Released) -> Entry:
    """A host was let back: what it says of its rules, and what was seen of it since."""
    data = {"orders": list(back.order_ids), "restored": back.restored, "difference": back.difference}
    return _of_operation(host, operation, "isolation.released", at, summary, data)


def amending(isolation: Isolation, at: datetime) -> Entry:
    """Other addresses are to stay open, before the host is told (I6)."""
    data = {"controllers": list(isolation.controllers), "fence_token": isolation.fence_token}
    summary = f"{isolation.host} is to leave {', '.join(isolation.controllers)} open"
    return _of_controller(isolation, "isolation.amending", at, summary, data)


def amended(isolation: Isolation, at: datetime) -> Entry:
    """Other addresses stay open from now on."""
    summary = f"{isolation.host} leaves {', '.join(isolation.controllers)} open"
    return _of_controller(isolation, "isolation.amended", at, summary, {"controllers": list(isolation.controllers)})


def noticed(isolation: Isolation, at: datetime, summary: str) -> Entry:
    """What the host's kernel says, where it differs from what was on record."""
    return _of_controller(isolation, "isolation.changed", at, summary, {"phase": str(isolation.phase)})


def _of_operation(
    host: str, operation: Operation, kind: str, at: datetime, summary: str, data: Mapping[str, Any]
) -> Entry:
    return Entry(kind, operation.operator, at, summary, operation.incident_id, operation.id, host, data)


def _of_controller(isolation: Isolation, kind: str, at: datetime, summary: str, data: Mapping[str, Any]) -> Entry:
    return replace(_entry(isolation, kind, at, summary, data), actor="controller")


def _entry(isolation: Isolation, kind: str, at: datetime, summary: str, data: Mapping[str, Any]) -> Entry:
    return Entry(
        kind=kind,
        actor=isolation.operator,
        at=at,
        summary=summary,
        incident_id=isolation.incident_id,
        operation_id=isolation.operation_id,
        host=isolation.host,
        data={"order": isolation.order_id, "scope": isolation.scope, **data},
    )
