"""Isolation's part of `wire`: the engine's values to messages, and messages to values."""

from fireline_controller.control.wire import stamp
from fireline_controller.engine import HostIsolations, IsolationWish, Planned
from fireline_controller.hosts import IsolationPlan, IsolationState, IsolationStatus
from fireline_controller.isolation import Isolation
from fireline_controller.model import PolicyError
from fireline_wire.isolation import LEASE_S, MAX_ADDRESSES, Opening, OrderError, Scope
from fireline_wire.v1 import common_pb2, control_pb2, isolation_pb2

_MAX_HOLD_S = 30 * 86_400  # an order that waits longer than a month is forgotten by everybody who gave it


def wish(message: control_pb2.IsolationWish) -> IsolationWish:
    """How hosts are to be cut off.

    Raises:
        PolicyError: a part of it is none; the message names it.
    """
    try:
        found = IsolationWish(
            scope=Scope.parse(message.scope or "host"),
            allowances=tuple(Opening.parse(text) for text in message.allowances),
            lease_s=message.lease_s,
            now=message.now,
            force=message.force.strip(),
            unproved=message.unproved.strip(),
            hold_s=message.hold.ToMilliseconds() / 1000,
        )
    except OrderError as error:
        raise _refused(str(error)) from None
    low, high = LEASE_S
    if found.lease_s and not low <= found.lease_s <= high:
        raise _refused(f"lease: wanted {low} to {high} seconds, found {found.lease_s}")
    if len(found.allowances) > MAX_ADDRESSES:
        raise _refused(f"allowances: wanted at most {MAX_ADDRESSES}, found {len(found.allowances)}")
    if not 0 <= found.hold_s <= _MAX_HOLD_S:
        raise _refused(f"hold: wanted at most {_MAX_HOLD_S} seconds, found {found.hold_s:g}")
    return found


def planned(one: Planned, how: IsolationWish) -> control_pb2.PlannedIsolation:
    """What isolating a host would do."""
    return control_pb2.PlannedIsolation(
        host=one.host,
        outcome=_outcome(one.outcome),
        detail=one.detail,
        scope=str(how.scope),
        plan=None if one.plan is None else _plan(one.plan),
        open=one.open,
        witnesses=one.witnesses,
    )


def host_isolation(one: HostIsolations) -> control_pb2.HostIsolation:
    """What is in force on a host."""
    return control_pb2.HostIsolation(
        host=one.host,
        outcome=_outcome(one.outcome),
        detail=one.detail,
        status=None if one.status is None else _status(one.status),
        records=[_record(record) for record in one.records],
    )


def code(one: Isolation) -> control_pb2.IsolationCode:
    """A code for the console."""
    return control_pb2.IsolationCode(
        order_id=one.order_id, scope=one.scope, code=one.code, operator=one.operator, ordered_at=stamp(one.ordered_at)
    )


def _plan(plan: IsolationPlan) -> isolation_pb2.IsolationPlan:
    return isolation_pb2.IsolationPlan(**vars(plan))


def _status(status: IsolationStatus) -> isolation_pb2.IsolationStatus:
    return isolation_pb2.IsolationStatus(
        isolations=[_state(state) for state in status.isolations],
        capability=status.capability,
        lacks=status.lacks,
        ended=[isolation_pb2.EndedIsolation(order_id=e.order_id, how=e.how, at=stamp(e.at)) for e in status.ended],
    )


def _state(state: IsolationState) -> isolation_pb2.IsolationState:
    values = {
        **vars(state),
        "phase": isolation_pb2.IsolationState.Phase.Value(f"PHASE_{state.phase.upper()}"),
        "armed_at": None if state.armed_at is None else stamp(state.armed_at),
    }
    return isolation_pb2.IsolationState(**values)


def _record(one: Isolation) -> control_pb2.IsolationRecord:
    return control_pb2.IsolationRecord(
        order_id=one.order_id,
        scope=one.scope,
        phase=one.phase,
        operator=one.operator,
        reason=one.reason,
        incident_id=one.incident_id,
        ordered_at=stamp(one.ordered_at),
        committed_at=None if one.committed_at is None else stamp(one.committed_at),
        not_after=None if one.not_after is None else stamp(one.not_after),
        proof=one.proof,
    )


def _outcome(outcome: str) -> "common_pb2.Outcome.ValueType":
    return common_pb2.Outcome.Value(f"OUTCOME_{outcome.upper()}")


def _refused(what: str) -> PolicyError:
    return PolicyError(what, reason="invalid_request")
