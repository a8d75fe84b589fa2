"""A host's isolation as the controller asks for it, and a host as a witness of another: the promise and its gRPC form.

The part of HostClient that is about isolation; what holds for the others' failures and time-outs holds here.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from fireline_controller.hosts import wire, wire_isolation
from fireline_controller.hosts.asking import Asker
from fireline_controller.hosts.values import Command
from fireline_controller.hosts.values_isolation import (
    Armed,
    IsolationPlan,
    IsolationState,
    IsolationStatus,
    Released,
    SignedOrder,
)
from fireline_controller.isolation import Sight
from fireline_wire.v1 import isolation_pb2

_ISOLATION: Final = "/fireline_wire.v1.Isolation/"
_WITNESS: Final = "/fireline_wire.v1.Witness/"


class IsolationCalls(Protocol):
    """What a host can be asked about isolation."""

    async def plan_isolation(self, order: SignedOrder, *, timeout_s: float) -> IsolationPlan:
        """What an order would do. Changes nothing."""

    async def arm(self, command: Command, order: SignedOrder, *, timeout_s: float) -> Armed:
        """Put an order in force under its lease."""

    async def confirm(self, command: Command, order_id: str, nonce: bytes, *, timeout_s: float) -> IsolationState:
        """Prove on a new connection, which is closed after, that this controller still reaches the host."""

    async def commit(self, command: Command, order_id: str, *, timeout_s: float) -> IsolationState:
        """End the lease: the isolation stands until it is released."""

    async def release(self, command: Command, order_id: str, *, timeout_s: float) -> Released:
        """Let the host back: one order's isolation, or with no order id everything."""

    async def isolation_status(self, *, timeout_s: float) -> IsolationStatus:
        """What is in force, from the host's kernel."""

    async def amend(self, command: Command, order: SignedOrder, *, timeout_s: float) -> IsolationState:
        """Replace the addresses that an isolation leaves open."""

    async def look(
        self, addresses: Sequence[str], ports: Sequence[int], *, within_s: float, timeout_s: float
    ) -> tuple[Sight, ...]:
        """Look at another host from this one: exactly one sight for each address and port."""


class GrpcIsolation(Asker):
    """The calls on a host's control line, so that they never stand behind a capture (I9)."""

    async def plan_isolation(self, order: SignedOrder, *, timeout_s: float) -> IsolationPlan:
        """See IsolationCalls."""
        request = isolation_pb2.PlanIsolationRequest(order=wire_isolation.signed(order))
        said = await self._ask(_ISOLATION + "Plan", request, isolation_pb2.IsolationPlan, timeout_s)
        return wire_isolation.plan(said, host=self._name)

    async def arm(self, command: Command, order: SignedOrder, *, timeout_s: float) -> Armed:
        """See IsolationCalls."""
        request = isolation_pb2.ArmRequest(context=wire.context(command), order=wire_isolation.signed(order))
        said = await self._ask(_ISOLATION + "Arm", request, isolation_pb2.Armed, timeout_s)
        return wire_isolation.armed(said, host=self._name)

    async def confirm(self, command: Command, order_id: str, nonce: bytes, *, timeout_s: float) -> IsolationState:
        """See IsolationCalls."""
        request = isolation_pb2.ConfirmRequest(context=wire.context(command), order_id=order_id, nonce=nonce)
        line = self._fresh()
        try:
            said = await self._ask(_ISOLATION + "Confirm", request, isolation_pb2.IsolationState, timeout_s, line)
        finally:
            await line.close()
        return wire_isolation.state(said, host=self._name)

    async def commit(self, command: Command, order_id: str, *, timeout_s: float) -> IsolationState:
        """See IsolationCalls."""
        request = isolation_pb2.CommitRequest(context=wire.context(command), order_id=order_id)
        said = await self._ask(_ISOLATION + "Commit", request, isolation_pb2.IsolationState, timeout_s)
        return wire_isolation.state(said, host=self._name)

    async def release(self, command: Command, order_id: str, *, timeout_s: float) -> Released:
        """See IsolationCalls."""
        request = isolation_pb2.ReleaseRequest(context=wire.context(command), order_id=order_id)
        said = await self._ask(_ISOLATION + "Release", request, isolation_pb2.Released, timeout_s)
        return wire_isolation.released(said)

    async def isolation_status(self, *, timeout_s: float) -> IsolationStatus:
        """See IsolationCalls."""
        request = isolation_pb2.IsolationStatusRequest()
        said = await self._ask(_ISOLATION + "Status", request, isolation_pb2.IsolationStatus, timeout_s)
        return wire_isolation.status(said, host=self._name)

    async def amend(self, command: Command, order: SignedOrder, *, timeout_s: float) -> IsolationState:
        """See IsolationCalls."""
        request = isolation_pb2.AmendRequest(context=wire.context(command), order=wire_isolation.signed(order))
        said = await self._ask(_ISOLATION + "Amend", request, isolation_pb2.IsolationState, timeout_s)
        return wire_isolation.state(said, host=self._name)

    async def look(
        self, addresses: Sequence[str], ports: Sequence[int], *, within_s: float, timeout_s: float
    ) -> tuple[Sight, ...]:
        """See IsolationCalls."""
        request = isolation_pb2.LookRequest(addresses=addresses, ports=ports, within_ms=round(within_s * 1000))
        said = await self._ask(_WITNESS + "Look", request, isolation_pb2.LookReply, timeout_s)
        return wire_isolation.sights(said, addresses, ports, host=self._name)
