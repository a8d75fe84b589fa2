"""The part of the Control service that is about actions."""

from collections.abc import AsyncIterator

from fireline_controller.control import wire, wire_remediation
from fireline_controller.control.answering import Context, answering, operator_of, streaming
from fireline_controller.engine import Engine
from fireline_wire.v1 import control_pb2


class RemediationCalls:
    """Plan, apply, take back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @streaming
    async def PlanActions(
        self, request: control_pb2.PlanActionsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """What an action would do."""
        wish = wire.wish(request.options, operator_of(context))
        async for news in self._engine.remediations.plan(wish, wire_remediation.call(request)):
            yield wire.event(news)

    @answering
    async def ForeseeApply(
        self, request: control_pb2.ForeseeApplyRequest, context: Context
    ) -> control_pb2.ForeseeApplyReply:
        """What applying would still need."""
        found = await self._engine.remediations.outlook(request.plan_operation_id, operator_of(context))
        return wire_remediation.outlook(found)

    @streaming
    async def CaptureForPlan(
        self, request: control_pb2.CaptureForPlanRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Seal what applying would destroy."""
        wish = wire.wish(request.options, operator_of(context))
        async for news in self._engine.remediations.capture(wish, request.plan_operation_id):
            yield wire.event(news)

    @streaming
    async def ApplyPlan(
        self, request: control_pb2.ApplyPlanRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Do what was planned."""
        wish = wire.wish(request.options, operator_of(context))
        run = self._engine.remediations.apply(
            wish, request.plan_operation_id, without_evidence=request.without_evidence, run_id=request.run_id
        )
        async for news in run:
            yield wire.event(news)

    @streaming
    async def UndoActions(
        self, request: control_pb2.UndoActionsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Take back."""
        wish = wire.wish(request.options, operator_of(context))
        async for news in self._engine.remediations.undo(wish, request.operation_id, run_id=request.run_id):
            yield wire.event(news)
