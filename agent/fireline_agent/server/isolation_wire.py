"""Isolation's values as messages, and back."""

import re
from typing import Final
from urllib.parse import unquote

from google.protobuf.timestamp_pb2 import Timestamp

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.guardian import Planned
from fireline_agent.isolation.keeper import Caller
from fireline_agent.isolation.model import Arming, Capability, Cut, Ended, Phase, Report, Standing
from fireline_agent.isolation.orders import Signed
from fireline_agent.server.edge import Context
from fireline_wire.v1 import isolation_pb2

_MAX_CUT: Final = 1000
_PHASES: Final = {
    Phase.ARMED: isolation_pb2.IsolationState.PHASE_ARMED,
    Phase.CONFIRMED: isolation_pb2.IsolationState.PHASE_CONFIRMED,
    Phase.COMMITTED: isolation_pb2.IsolationState.PHASE_COMMITTED,
    Phase.RELEASING: isolation_pb2.IsolationState.PHASE_NONE,
}
_PEER: Final = re.compile(r"(?:ipv4:(?P<v4>[0-9.]+)|ipv6:\[(?P<v6>[0-9a-fA-F:.]+)(?:%[^\]]*)?\]):\d+\Z")


def plan(planned: Planned, capability: Capability, machine_id: str) -> isolation_pb2.IsolationPlan:
    """What isolating would do."""
    return isolation_pb2.IsolationPlan(
        transaction=planned.plan.transaction,
        capability=capability.line,
        lacks=planned.plan.lacks,
        refusal=planned.plan.refusal,
        addresses=planned.addresses,
        ports=planned.ports,
        agent_port=planned.ports[0],
        interfaces=planned.plan.interfaces,
        effects=planned.plan.effects,
        ruleset_sha256=planned.ruleset_sha256,
        machine_id=machine_id,
    )


def caller_of(context: Context) -> Caller:
    """Where a call came from, as gRPC tells it: `ipv4:192.0.2.1:7700` or `ipv6:%5B2001:db8::1%5D:7700`."""
    peer = unquote(context.peer())
    match = _PEER.match(peer)
    return Caller(peer, (match["v4"] or match["v6"]) if match else "")


def signed(order: isolation_pb2.SignedOrder) -> Signed:
    """The order as it came.

    Raises:
        RefusedError: invalid_request.
    """
    if not order.envelope:
        raise RefusedError("invalid_request", "order: it is missing")
    return Signed(order.envelope, order.chain_pem)


def armed(arming: Arming) -> isolation_pb2.Armed:
    """What Arm did."""
    return isolation_pb2.Armed(
        nonce=arming.nonce,
        applied_us=arming.applied_us,
        cut_us=arming.cut_us,
        sockets_killed=len(arming.cut),
        flows_dropped=arming.flows_dropped,
        cut=[_cut(one) for one in arming.cut[:_MAX_CUT]],
        lacks=arming.lacks,
        state=state(arming.standing),
    )


def _cut(cut: Cut) -> isolation_pb2.CutConnection:
    return isolation_pb2.CutConnection(
        protocol=cut.protocol,
        local=cut.local,
        remote=cut.remote,
        state=cut.state,
        pid=cut.pid,
        process=cut.process,
        container=cut.container,
    )


def state(standing: Standing) -> isolation_pb2.IsolationState:
    """An isolation as it stands; one of which nothing is in force has no phase."""
    order = standing.order
    phase = _PHASES[standing.phase] if standing.is_in_force else isolation_pb2.IsolationState.PHASE_NONE
    return isolation_pb2.IsolationState(
        order_id=order.order_id,
        scope=str(order.scope),
        phase=phase,
        lease_left_ms=standing.lease_left_ms,
        controllers=order.controllers,
        armed_at=_timestamp(standing.armed_at),
        operator=order.operator,
        incident_id=order.incident_id,
        reason=order.reason,
        drifts=standing.drifts,
        dropped_packets=standing.dropped_packets,
    )


def released(report: Report) -> isolation_pb2.Released:
    """What a release found."""
    return isolation_pb2.Released(
        order_ids=report.order_ids,
        restored=report.is_restored,
        difference=report.difference,
        applied_us=report.applied_us,
    )


def ended(one: Ended) -> isolation_pb2.EndedIsolation:
    """An isolation that ended otherwise."""
    return isolation_pb2.EndedIsolation(order_id=one.order_id, how=one.how, at=_timestamp(one.at))


def _timestamp(text: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromJsonString(text.replace("+00:00", "Z"))
    return stamp
