"""Orders given to one agent call by call, where a test stands between two of them; without engine and record."""

import itertools
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_controller import state
from fireline_controller.pki import Authority
from fireline_wire import envelope
from fireline_wire.identity import agent_dns
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, Opening, Scope, code_sha256
from fireline_wire.tls import channel_credentials
from fireline_wire.v1 import common_pb2, isolation_pb2, isolation_pb2_grpc
from tests.fleet import Fleet
from tests.isolation.world import AGENT_PORT
from tests.lab import Host

CODE = "7H3Q-DRILL-2KX9"
LEASE_S = 20
_CALL_S = 20.0


@dataclass
class Ordering:
    """A controller's calls to one host's agent."""

    authority: Authority
    host: Host
    controllers: tuple[str, ...]
    _tokens: Iterator[int] = field(default_factory=lambda: itertools.count(time.time_ns() // 1_000_000))

    @classmethod
    def of(cls, fleet: Fleet, host: Host) -> "Ordering":
        """With the fleet's own authority, from the lab's controller."""
        place = fleet.lab.controller
        return cls(state.open_state(fleet.state).authority, host, (place.address, place.address6))

    def signed(
        self, scope: str = "host", *, allowances: tuple[str, ...] = (), lease_s: int = LEASE_S, token: int | None = None
    ) -> "Order":
        """An order that the agent will believe."""
        order = IsolationOrder(
            order_id=f"drill-{uuid.uuid4().hex[:12]}",
            host=self.host.name,
            scope=Scope.parse(scope),
            controllers=self.controllers,
            lease_s=lease_s,
            fence_token=next(self._tokens) if token is None else token,
            issued_at=datetime.now(UTC).isoformat(),
            code_sha256=code_sha256(CODE),
            allowances=tuple(map(Opening.parse, allowances)),
            operator="tester",
            reason="drill",
        )
        key: Any = load_pem_private_key(self.authority.controller.key_pem, None)
        sealed = envelope.seal(order.to_bytes(), PAYLOAD_TYPE, key)
        wire = isolation_pb2.SignedOrder(envelope=sealed, chain_pem=self.authority.controller.chain_pem)
        return Order(order, wire)

    def arm(self, order: "Order") -> isolation_pb2.Armed:
        """Put it in force under its lease."""
        with self.agent() as agent:
            request = isolation_pb2.ArmRequest(context=self._context(order), order=order.wire)
            armed: isolation_pb2.Armed = agent.Arm(request, timeout=_CALL_S)
            return armed

    def confirm(self, order: "Order", armed: isolation_pb2.Armed) -> isolation_pb2.IsolationState:
        """Come back on a new connection."""
        request = isolation_pb2.ConfirmRequest(context=self._context(order), order_id=order.order_id, nonce=armed.nonce)
        with self.agent() as agent:
            reply: isolation_pb2.IsolationState = agent.Confirm(request, timeout=_CALL_S)
            return reply

    def commit(self, order: "Order") -> isolation_pb2.IsolationState:
        """End the lease."""
        request = isolation_pb2.CommitRequest(context=self._context(order), order_id=order.order_id)
        with self.agent() as agent:
            reply: isolation_pb2.IsolationState = agent.Commit(request, timeout=_CALL_S)
            return reply

    def isolate(self, order: "Order") -> isolation_pb2.Armed:
        """All three."""
        armed = self.arm(order)
        self.confirm(order, armed)
        self.commit(order)
        return armed

    def release(self, order: "Order | None" = None) -> isolation_pb2.Released:
        """Let back what an order cut off, or everything."""
        context = common_pb2.CommandContext(
            request_id=uuid.uuid4().hex, operator="tester", reason="drill", fence_token=next(self._tokens)
        )
        request = isolation_pb2.ReleaseRequest(context=context, order_id=order.order_id if order else "")
        with self.agent() as agent:
            reply: isolation_pb2.Released = agent.Release(request, timeout=_CALL_S)
            return reply

    def status(self) -> isolation_pb2.IsolationStatus:
        """What the agent reads from the kernel."""
        with self.agent() as agent:
            reply: isolation_pb2.IsolationStatus = agent.Status(isolation_pb2.IsolationStatusRequest(), timeout=_CALL_S)
            return reply

    @contextmanager
    def agent(self) -> Iterator[Any]:  # the stubs know the asynchronous form only
        """The agent's service on a connection of its own."""
        options = (
            ("grpc.ssl_target_name_override", agent_dns(self.host.name, 1)),
            ("grpc.use_local_subchannel_pool", 1),  # else a second channel would go over the first one's connection
        )
        where = f"{self.host.address}:{AGENT_PORT}"
        made: Any = grpc.secure_channel(where, channel_credentials(self.authority.controller), options)
        with made as channel:
            yield isolation_pb2_grpc.IsolationStub(channel)

    def _context(self, order: "Order") -> common_pb2.CommandContext:
        return common_pb2.CommandContext(
            request_id=uuid.uuid4().hex,
            operation_id="drill",
            operator="tester",
            reason="drill",
            fence_token=order.order.fence_token,
        )


@dataclass(frozen=True)
class Order:
    """An order, and as it travels."""

    order: IsolationOrder
    wire: isolation_pb2.SignedOrder

    @property
    def order_id(self) -> str:
        """What every later call names."""
        return self.order.order_id
