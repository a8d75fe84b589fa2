"""The part of the Control service that is about people: who is an operator, and what they approve of each other."""

from fireline_controller.control import wire
from fireline_controller.control.answering import Context, answering, operator_of
from fireline_controller.engine import Engine, TargetSpec, Wish
from fireline_wire.v1 import control_pb2

_LISTED_AT_MOST = 1000


class PeopleCalls:
    """Operators and approvals."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answering
    async def ListOperators(
        self, request: control_pb2.ListOperatorsRequest, context: Context
    ) -> control_pb2.ListOperatorsReply:
        """Who may ask this controller."""
        found = await self._engine.operators.all()
        return control_pb2.ListOperatorsReply(operators=[wire.operator(o) for o in found])

    @answering
    async def AddOperator(
        self, request: control_pb2.AddOperatorRequest, context: Context
    ) -> control_pb2.AddOperatorReply:
        """Certify a new operator's key."""
        wish = Wish(operator_of(context), TargetSpec(), request.reason, break_glass=request.break_glass)
        added = await self._engine.operators.add(request.name, request.signing_request_pem, wish)
        return control_pb2.AddOperatorReply(chain_pem=added.chain_pem, ca_pem=added.ca_pem, warning=added.warning)

    @answering
    async def RemoveOperator(
        self, request: control_pb2.RemoveOperatorRequest, context: Context
    ) -> control_pb2.RemoveOperatorReply:
        """Take an operator's rights away, at once."""
        wish = Wish(operator_of(context), TargetSpec(), request.reason, break_glass=request.break_glass)
        removed = await self._engine.operators.remove(request.name, wish)
        return control_pb2.RemoveOperatorReply(revoked_serials_hex=removed.serials, warning=removed.warning)

    @answering
    async def ListApprovals(
        self, request: control_pb2.ListApprovalsRequest, context: Context
    ) -> control_pb2.ListApprovalsReply:
        """The newest requests."""
        approvals = self._engine.approvals
        found = await approvals.newest(min(request.limit or 50, _LISTED_AT_MOST))
        return control_pb2.ListApprovalsReply(approvals=[wire.approval(a, approvals.standing(a)) for a in found])

    @answering
    async def ShowApproval(self, request: control_pb2.ShowApprovalRequest, context: Context) -> control_pb2.Approval:
        """One request."""
        found = await self._engine.approvals.show(request.id)
        return wire.approval(found, self._engine.approvals.standing(found))

    @answering
    async def DecideApproval(
        self, request: control_pb2.DecideApprovalRequest, context: Context
    ) -> control_pb2.Approval:
        """The caller's word on a request."""
        found = await self._engine.approvals.decide(
            request.id, operator=operator_of(context), approves=request.approves, reason=request.reason
        )
        return wire.approval(found, self._engine.approvals.standing(found))
