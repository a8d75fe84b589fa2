"""An agent's isolation in memory: what it is asked it does, or it lies, leaks, forgets or is lost, as a test says.

All of a test's agents share one `FakeNetwork`, so that a witness sees of another what that one's rules let through.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from fireline_wire import status
from fireline_wire.isolation import IsolationOrder
from fireline_wire.v1 import common_pb2, isolation_pb2

Context = Any
State = isolation_pb2.IsolationState


@dataclass
class FakeNetwork:
    """Who is at which address."""

    hosts: dict[str, "FakeIsolation"] = field(default_factory=dict)

    def seen(self, address: str, port: int) -> "isolation_pb2.Seen.How.ValueType":
        """What anybody but a controller sees there."""
        host = self.hosts.get(address)
        if host is None or host.is_down or (host.is_dark() and port not in host.leaks):
            return isolation_pb2.Seen.HOW_SILENT
        return isolation_pb2.Seen.HOW_CONNECTED if port in host.ports else host.closed


@dataclass
class FakeIsolation:
    """The rules of one host. `lost_at`: the call after which it answers no call any more, once that one was done."""

    network: FakeNetwork
    address: str
    name: str
    ports: tuple[int, ...] = (22, 80)
    closed: "isolation_pb2.Seen.How.ValueType" = isolation_pb2.Seen.HOW_REFUSED
    """What is seen of a port where nothing listens."""
    leaks: tuple[int, ...] = ()
    is_down: bool = False
    refusals: dict[str, status.Refusal] = field(default_factory=dict)
    """By the call's name, what it is refused with."""
    answers: dict[str, Message] = field(default_factory=dict)
    """By the call's name, what it answers whatever it was asked."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What the plan says instead."""
    lost_at: str = ""
    lacks: tuple[str, ...] = ()
    keeps_rules: bool = False
    difference: str = ""
    sees: "isolation_pb2.Seen.How.ValueType | None" = None
    """As a witness: what it says of everything."""
    looks_left: int = 1000
    """As a witness: how often it answers."""
    breaks: list[str] = field(default_factory=list)
    """Calls that are done and not answered, once each."""
    ended: list[isolation_pb2.EndedIsolation] = field(default_factory=list)
    asked: list[tuple[str, Message]] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)
    """By the call's name, the address and port that it came from last."""
    orders: dict[str, State] = field(default_factory=dict)
    on_call: Callable[[str], Any] = lambda name: None
    """Is told each call before it is done; what it returns is awaited."""
    _fence: int = 0
    _lease: dict[str, float] = field(default_factory=dict)
    _nonce: bytes = b""
    _is_lost: bool = False

    def is_dark(self) -> bool:
        """Whether rules are in force, by the kernel that this is."""
        now = time.monotonic()
        for order_id in [o for o, until in self._lease.items() if until < now]:
            del self.orders[order_id], self._lease[order_id]
        return bool(self.orders)

    def calls(self) -> list[str]:
        """The names of the calls so far."""
        return [name for name, _ in self.asked]

    def come_back(self) -> None:
        """Answer again."""
        self._is_lost, self.lost_at = False, ""

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The services."""
        pb = isolation_pb2
        isolation = {
            "Plan": self._unary("Plan", pb.PlanIsolationRequest, self._plan),
            "Arm": self._unary("Arm", pb.ArmRequest, self._arm),
            "Confirm": self._unary("Confirm", pb.ConfirmRequest, self._confirm),
            "Commit": self._unary("Commit", pb.CommitRequest, self._commit),
            "Release": self._unary("Release", pb.ReleaseRequest, self._release),
            "Status": self._unary("Status", pb.IsolationStatusRequest, self._status),
            "Amend": self._unary("Amend", pb.AmendRequest, self._amend),
        }
        return (
            grpc.method_handlers_generic_handler("fireline_wire.v1.Isolation", isolation),
            grpc.method_handlers_generic_handler(
                "fireline_wire.v1.Witness", {"Look": self._unary("Look", pb.LookRequest, self._look)}
            ),
        )

    def _unary(self, name: str, request: Any, answer: Callable[[Any], Message | status.Refusal]) -> Any:
        async def answering(asked: Message, context: Context) -> bytes:
            if self._is_lost:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            self.asked.append((name, asked))
            self.peers[name] = context.peer()
            if (waiting := self.on_call(name)) is not None:
                await waiting
            found = self.refusals.get(name) or self.answers.get(name) or answer(asked)
            if isinstance(found, status.Refusal):
                await status.abort(context, found)
            if name == self.lost_at or name in self.breaks:
                self._is_lost = name == self.lost_at
                self.breaks = [one for one in self.breaks if one != name]
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return found.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answering, request.FromString, None)

    def _plan(self, request: isolation_pb2.PlanIsolationRequest) -> Message:
        said = {
            "transaction": "table inet fireline {\n}\n",
            "capability": "full",
            "addresses": [self.address],
            "ports": [*self.ports, 7700],
            "agent_port": 7700,
            "machine_id": f"machine-{self.name}",
            "effects": ["everything"],
            "ruleset_sha256": "00" * 32,
        }
        return isolation_pb2.IsolationPlan(**{**said, **self.plan})

    def _fenced(self, context: common_pb2.CommandContext) -> status.Refusal | None:
        if context.fence_token < self._fence:
            return status.Refusal("fenced", f"{context.fence_token} is older than {self._fence}")
        self._fence = context.fence_token
        return None

    def _arm(self, request: isolation_pb2.ArmRequest) -> Message | status.Refusal:
        if refusal := self._fenced(request.context):
            return refusal
        order = order_of(request.order)
        self._lease[order.order_id] = time.monotonic() + order.lease_s
        self._nonce = self._nonce or secrets.token_bytes(16)
        state = State(order_id=order.order_id, scope=str(order.scope), phase=State.PHASE_ARMED, operator=order.operator)
        state.controllers.extend(order.controllers)
        self.orders[order.order_id] = state
        return isolation_pb2.Armed(nonce=self._nonce, applied_us=900, sockets_killed=3, lacks=self.lacks, state=state)

    def _known(self, order_id: str) -> State | status.Refusal:
        self.is_dark()
        return self.orders.get(order_id) or status.Refusal("not_found", f"nothing of {order_id} is in force")

    def _confirm(self, request: isolation_pb2.ConfirmRequest) -> Message | status.Refusal:
        state = self._known(request.order_id)
        if isinstance(state, State):
            if request.nonce != self._nonce:
                return status.Refusal("not_proved", "another nonce")
            state.phase = State.PHASE_CONFIRMED
        return state

    def _commit(self, request: isolation_pb2.CommitRequest) -> Message | status.Refusal:
        state = self._known(request.order_id)
        if isinstance(state, State):
            state.phase = State.PHASE_COMMITTED
            self._lease.pop(request.order_id, None)
        return state

    def _release(self, request: isolation_pb2.ReleaseRequest) -> Message | status.Refusal:
        if refusal := self._fenced(request.context):
            return refusal
        self.is_dark()
        ids = [request.order_id] if request.order_id else list(self.orders)
        released = [order_id for order_id in ids if order_id in self.orders]
        for order_id in released:
            if not self.keeps_rules:
                del self.orders[order_id]
            self._lease.pop(order_id, None)
        return isolation_pb2.Released(
            order_ids=released, restored=not self.difference, difference=self.difference, applied_us=500
        )

    def _status(self, request: isolation_pb2.IsolationStatusRequest) -> Message:
        self.is_dark()
        return isolation_pb2.IsolationStatus(isolations=self.orders.values(), capability="full", ended=self.ended)

    def _amend(self, request: isolation_pb2.AmendRequest) -> Message | status.Refusal:
        if refusal := self._fenced(request.context):
            return refusal
        order = order_of(request.order)
        state = self._known(order.order_id)
        if isinstance(state, State):
            del state.controllers[:]
            state.controllers.extend(order.controllers)
        return state

    def _look(self, request: isolation_pb2.LookRequest) -> Message | status.Refusal:
        self.looks_left -= 1
        if self.looks_left < 0:
            return status.Refusal("internal", "the witness is gone")
        seen = [
            isolation_pb2.Seen(address=a, port=p, how=self.sees if self.sees is not None else self.network.seen(a, p))
            for a in request.addresses
            for p in request.ports
        ]
        return isolation_pb2.LookReply(seen=seen)


def order_of(signed: isolation_pb2.SignedOrder) -> IsolationOrder:
    """What is in an envelope; the signature is the real agent's to check."""
    import base64
    import json

    return IsolationOrder.parse(base64.b64decode(json.loads(signed.envelope)["payload"]))
