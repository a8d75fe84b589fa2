"""The part of the Control service that is about choosing a runbook."""

from fireline_controller.control.answering import Context, answering
from fireline_controller.engine import Engine
from fireline_controller.runbooks.suggesting import Alert
from fireline_wire.v1 import control_pb2


class RunbookCalls:
    """Which runbook fits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answering
    async def SuggestRunbooks(
        self, request: control_pb2.SuggestRunbooksRequest, context: Context
    ) -> control_pb2.SuggestRunbooksReply:
        """What fits an incident."""
        found = await self._engine.suggestions.of(
            request.incident_id, [Alert(a.name, dict(a.labels)) for a in request.alerts]
        )
        return control_pb2.SuggestRunbooksReply(
            severity=str(found.incident.severity),
            title=found.incident.title,
            affected=found.affected.values(),
            suggestions=[
                control_pb2.RunbookSuggestion(
                    name=s.runbook.name, summary=s.runbook.summary, points=s.points, reasons=s.reasons
                )
                for s in found.suggestions
            ],
            problems=found.problems,
        )
