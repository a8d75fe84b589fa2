"""The part of the Control service that is about runs of runbooks."""

from collections.abc import AsyncIterator

from fireline_controller.control import wire_runs
from fireline_controller.control.answering import Context, answering, operator_of, streaming
from fireline_controller.engine import Engine
from fireline_controller.engine.runs import SAID
from fireline_controller.model import PolicyError
from fireline_controller.runbooks.record import Run, RunWish
from fireline_wire.v1 import control_pb2, runs_pb2


class RunCalls:
    """Plan, start, follow, stop and take back runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answering
    async def PlanRun(self, request: control_pb2.StartRunRequest, context: Context) -> runs_pb2.PlanRunReply:
        """What a run would do."""
        return wire_runs.plan(await self._engine.runs.plan(wire_runs.order(request, operator_of(context))))

    @answering
    async def StartRun(self, request: control_pb2.StartRunRequest, context: Context) -> runs_pb2.RunRecord:
        """Begin a run."""
        return self._record(await self._engine.runs.start(wire_runs.order(request, operator_of(context))))

    @streaming
    async def FollowRun(self, request: runs_pb2.FollowRunRequest, context: Context) -> AsyncIterator[runs_pb2.RunEvent]:
        """Watch a run."""
        async for news in self._engine.runs.follow(request.id):
            yield wire_runs.event(news, self._engine.runs.now())

    @answering
    async def ResumeRun(self, request: runs_pb2.ResumeRunRequest, context: Context) -> runs_pb2.RunRecord:
        """Go on with a run."""
        return self._record(await self._engine.runs.resume(request.id, operator_of(context)))

    @answering
    async def WishRun(self, request: runs_pb2.WishRunRequest, context: Context) -> runs_pb2.RunRecord:
        """Cancel a run, or take it back."""
        if request.wish not in (RunWish.CANCEL, RunWish.ROLL_BACK):
            raise PolicyError(f"wish {request.wish[:20]!r}: wanted cancel or rollback", reason="invalid_request")
        wish, operator = RunWish(request.wish), operator_of(context)
        return self._record(await self._engine.runs.wish(request.id, wish, operator=operator, reason=request.reason))

    @answering
    async def SayStep(self, request: runs_pb2.SayStepRequest, context: Context) -> runs_pb2.RunRecord:
        """Say what came of a step that is done by hand."""
        if request.word not in SAID:
            raise PolicyError(f"word {request.word[:20]!r}: wanted {', '.join(SAID)}", reason="invalid_request")
        operator = operator_of(context)
        said = self._engine.runs.say(request.id, request.step, request.word, operator=operator, note=request.note)
        return self._record(await said)

    @answering
    async def ListRuns(self, request: runs_pb2.ListRunsRequest, context: Context) -> runs_pb2.ListRunsReply:
        """The newest runs."""
        found = await self._engine.runs.newest(min(request.limit or 50, 1000))
        return runs_pb2.ListRunsReply(runs=[self._record(run) for run in found])

    @answering
    async def ShowRun(self, request: runs_pb2.ShowRunRequest, context: Context) -> runs_pb2.ShowRunReply:
        """One run with its moves."""
        shown = await self._engine.runs.show(request.id)
        moves = [wire_runs.ended(move) for move in shown.moves]
        return runs_pb2.ShowRunReply(
            run=self._record(shown.run), note=shown.note, moves=moves, approval_id=shown.request_id
        )

    def _record(self, run: Run) -> runs_pb2.RunRecord:
        return wire_runs.record(run, self._engine.runs.now())
