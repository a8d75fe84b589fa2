"""From a capture request of unknown honesty to the order that is carried out on this host."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fireline_agent import __version__
from fireline_agent.capture.collector import BESIDE
from fireline_agent.capture.order import CollectorOrder, Limits, Order, timestamp
from fireline_agent.config import Config
from fireline_agent.errors import RefusedError
from fireline_agent.hands.cgroup import Hierarchy
from fireline_agent.policy import Policy
from fireline_agent.server.commands import require_short
from fireline_wire.v1 import capture_pb2

_MAX_COLLECTORS: Final = 200
_MAX_PARAMS: Final = 256 << 10  # characters
_MAX_NUMBER: Final = (1 << 63) - 1  # what a manifest takes


@dataclass(frozen=True)
class Terms:
    """What this host brings to every order."""

    config: Config
    policy: Policy
    # Collector name -> module.
    registry: Mapping[str, str]
    hierarchy: Hierarchy
    agent_pid: int


def order_from(request: capture_pb2.CaptureRequest, terms: Terms, *, host: str, budget_bytes: int) -> Order:
    """What is to be done, with this host's limits and denials in it.

    Raises:
        RefusedError: invalid_request, naming the field.
    """
    context = request.context
    require_short("profile", request.profile, 200)
    require_short("journal_hash", request.journal_hash, 64)
    if request.journal_seq > _MAX_NUMBER:
        raise RefusedError("invalid_request", f"journal_seq: wanted at most {_MAX_NUMBER}, found {request.journal_seq}")
    return Order(
        request_id=context.request_id,
        operation_id=context.operation_id,
        incident_id=context.incident_id,
        operator=context.operator,
        reason=context.reason,
        profile=request.profile,
        host=host,
        agent_version=__version__,
        fence_token=context.fence_token,
        started_at=timestamp(time.time()),
        clock_offset_ns=request.clock_offset_ns,
        clock_round_trip_ns=request.clock_round_trip_ns,
        journal_seq=request.journal_seq,
        journal_hash=request.journal_hash,
        collectors=_collectors(request, terms),
        budget_bytes=budget_bytes,
        agent_pid=terms.agent_pid,
        docker_socket=str(terms.config.docker_socket),
        state=str(terms.config.state),
        lacks=terms.hierarchy.lacks,
        hierarchy=terms.hierarchy,
    )


def _collectors(request: capture_pb2.CaptureRequest, terms: Terms) -> tuple[CollectorOrder, ...]:
    names = [c.name for c in request.collectors]
    if not 0 < len(names) <= _MAX_COLLECTORS:
        raise RefusedError("invalid_request", f"collectors: wanted 1 to {_MAX_COLLECTORS}, found {len(names)}")
    for name in names:
        require_short("collectors.name", name, 100)
        if names.count(name) > 1:
            raise RefusedError("invalid_request", f"collectors: {name} is there twice")
    return tuple(_collector(c, terms) for c in request.collectors)


def _collector(ordered: capture_pb2.CollectorOrder, terms: Terms) -> CollectorOrder:
    params = _params(ordered)
    return CollectorOrder(
        name=ordered.name,
        module=terms.registry.get(ordered.name, ""),
        params=params,
        limits=_limits(ordered.limits, terms.config),
        denial=terms.policy.denial(ordered.name, params),
        is_beside=ordered.name in BESIDE,
    )


def _params(ordered: capture_pb2.CollectorOrder) -> Mapping[str, Any]:
    require_short(f"collectors.{ordered.name}.params_json", ordered.params_json, _MAX_PARAMS)
    try:
        params = json.loads(ordered.params_json or "{}")
    except (ValueError, RecursionError):
        params = None
    if not isinstance(params, dict):
        raise RefusedError("invalid_request", f"collectors.{ordered.name}.params_json: wanted a JSON object")
    return params


def _limits(asked: capture_pb2.CollectorLimits, config: Config) -> Limits:
    """What was asked, under this host's ceilings; zero asks for the ceiling."""
    deadline_s = asked.deadline.ToNanoseconds() / 1e9
    return Limits(
        cpu_percent=_lower(asked.cpu_percent, config.collector_cpu_percent),
        memory_bytes=_lower(asked.memory_bytes, config.collector_memory_bytes),
        io_weight=_lower(asked.io_weight, config.collector_io_weight),
        output_bytes=_lower(asked.output_bytes, config.collector_output_bytes),
        deadline_s=min(deadline_s if deadline_s > 0 else config.collector_deadline_s, config.collector_deadline_s),
        pids=config.collector_pids,
    )


def _lower(asked: int, ceiling: int) -> int:
    return min(asked, ceiling) if asked > 0 else ceiling
