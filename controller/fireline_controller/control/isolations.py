"""The part of the Control service that is about isolation."""

from collections.abc import AsyncIterator

from fireline_controller.control import wire, wire_isolation
from fireline_controller.control.answering import Context, answering, operator_of, streaming
from fireline_controller.engine import Engine, TargetSpec, Wish
from fireline_wire.v1 import control_pb2


class IsolationCalls:
    """Isolate, release, and what is to know of both."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @streaming
    async def IsolateHosts(
        self, request: control_pb2.IsolateHostsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Cut hosts off."""
        wish = wire.wish(request.options, operator_of(context))
        async for news in self._engine.isolations.isolate(wish, wire_isolation.wish(request.wish)):
            yield wire.event(news)

    @streaming
    async def ReleaseHosts(
        self, request: control_pb2.ReleaseHostsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Let hosts back."""
        async for news in self._engine.isolations.release(wire.wish(request.options, operator_of(context))):
            yield wire.event(news)

    @answering
    async def PlanIsolations(
        self, request: control_pb2.PlanIsolationsRequest, context: Context
    ) -> control_pb2.PlanIsolationsReply:
        """What isolating would do."""
        how = wire_isolation.wish(request.wish)
        spec = wire.target_spec(request.target)
        plan = await self._engine.isolations.plan(spec, how, operator=operator_of(context))
        hosts = [wire_isolation.planned(one, how) for one in plan.hosts]
        return control_pb2.PlanIsolationsReply(hosts=hosts, hurts=plan.hurts, approval=plan.approval)

    @answering
    async def ShowIsolations(
        self, request: control_pb2.ShowIsolationsRequest, context: Context
    ) -> control_pb2.ShowIsolationsReply:
        """What is in force."""
        found = await self._engine.isolations.status(wire.target_spec(request.target))
        return control_pb2.ShowIsolationsReply(hosts=[wire_isolation.host_isolation(one) for one in found])

    @answering
    async def ShowIsolationCode(
        self, request: control_pb2.ShowIsolationCodeRequest, context: Context
    ) -> control_pb2.ShowIsolationCodeReply:
        """The codes for a host's console."""
        wish = Wish(operator_of(context), TargetSpec(), request.reason, break_glass=request.break_glass)
        found, warning = await self._engine.isolations.codes(request.host, wish)
        return control_pb2.ShowIsolationCodeReply(codes=[wire_isolation.code(one) for one in found], warning=warning)
