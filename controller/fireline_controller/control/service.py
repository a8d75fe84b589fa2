"""The Control service. Every call is by an operator (the guard saw to that), in whose name it is journaled."""

from collections.abc import AsyncIterator
from datetime import timedelta

from fireline_controller.control import wire
from fireline_controller.control.answering import Context, answering, operator_of, streaming
from fireline_controller.control.isolations import IsolationCalls
from fireline_controller.control.people import PeopleCalls
from fireline_controller.control.remediations import RemediationCalls
from fireline_controller.control.runbooks import RunbookCalls
from fireline_controller.control.runs import RunCalls
from fireline_controller.control.tokens import Tokens
from fireline_controller.engine import Engine, News
from fireline_controller.model import HostError
from fireline_wire.v1 import common_pb2, control_pb2, control_pb2_grpc


class ControlService(
    PeopleCalls, IsolationCalls, RemediationCalls, RunbookCalls, RunCalls, control_pb2_grpc.ControlServicer
):
    """What operators ask, answered by the engine."""

    def __init__(self, engine: Engine, tokens: Tokens) -> None:
        super().__init__(engine)
        self._tokens = tokens

    @answering
    async def CreateToken(
        self, request: control_pb2.CreateTokenRequest, context: Context
    ) -> control_pb2.CreateTokenReply:
        """A one-time token for one host."""
        text, token = await self._tokens.create(
            request.host,
            ttl=timedelta(seconds=request.ttl.ToSeconds()),
            labels=dict(request.labels),
            controller_address=request.controller_address,
            operator=operator_of(context),
        )
        return control_pb2.CreateTokenReply(token=text, expires_at=wire.stamp(token.expires_at))

    @answering
    async def ListHosts(self, request: control_pb2.ListHostsRequest, context: Context) -> control_pb2.ListHostsReply:
        """The fleet, or a part of it."""
        if request.target.terms:
            _, hosts = await self._engine.operations.resolve(wire.target_spec(request.target))
        else:
            hosts = tuple(await self._engine.hosts.all())
        return control_pb2.ListHostsReply(hosts=[wire.host(h) for h in hosts])

    @answering
    async def DescribeHost(
        self, request: control_pb2.DescribeHostRequest, context: Context
    ) -> control_pb2.DescribeHostReply:
        """One host, with what its live agent says."""
        host = await self._engine.hosts.get(request.name)
        reply = control_pb2.DescribeHostReply(record=wire.host(host))
        try:
            found = await self._engine.hosts.describe(host, timeout_s=_remaining(context))
        except HostError as error:
            reply.outcome = common_pb2.Outcome.Value(f"OUTCOME_{error.outcome.upper()}")
            reply.detail = str(error)
            return reply
        reply.outcome = common_pb2.OUTCOME_OK
        for name in (
            "agent_version",
            "boot_id",
            "kernel",
            "operating_system",
            "cgroup",
            "spool_free_bytes",
            "isolation",
        ):
            setattr(reply, name, getattr(found, name))
        reply.clock_offset_ns = found.clock_offset_ns
        reply.clock_round_trip_ns = found.clock_round_trip_ns
        reply.collectors.extend(found.collectors)
        reply.lacks.extend(found.lacks)
        reply.actions.extend(found.actions)
        return reply

    @answering
    async def LabelHosts(self, request: control_pb2.LabelHostsRequest, context: Context) -> control_pb2.ListHostsReply:
        """Set and remove labels."""
        _, hosts = await self._engine.operations.resolve(wire.target_spec(request.target))
        changed = await self._engine.hosts.label(
            hosts, put=dict(request.set), drop=tuple(request.remove), operator=operator_of(context),
            reason=request.reason,
        )  # fmt: skip
        return control_pb2.ListHostsReply(hosts=[wire.host(h) for h in changed])

    @answering
    async def RemoveHost(self, request: control_pb2.RemoveHostRequest, context: Context) -> control_pb2.HostRecord:
        """Take a host out of the fleet."""
        host = await self._engine.hosts.remove(request.name, operator=operator_of(context), reason=request.reason)
        return wire.host(host)

    @answering
    async def ResolveTarget(self, request: control_pb2.TargetSpec, context: Context) -> control_pb2.ResolvedTarget:
        """Which hosts a target means now."""
        return wire.resolved(*await self._engine.resolve(wire.target_spec(request)))

    @streaming
    async def PingHosts(
        self, request: control_pb2.PingHostsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Reach every host."""
        async for event in _events(self._engine.ping(wire.wish(request.options, operator_of(context)))):
            yield event

    @streaming
    async def CaptureHosts(
        self, request: control_pb2.CaptureHostsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Collect evidence."""
        wish = wire.wish(request.options, operator_of(context))
        params = wire.capture_params(request.params)
        async for event in _events(self._engine.capture(wish, request.profile, params)):
            yield event

    @streaming
    async def RenewHosts(
        self, request: control_pb2.RenewHostsRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Renew certificates now."""
        async for event in _events(self._engine.renew(wire.wish(request.options, operator_of(context)))):
            yield event

    @streaming
    async def OpenIncident(
        self, request: control_pb2.OpenIncidentRequest, context: Context
    ) -> AsyncIterator[control_pb2.OperationEvent]:
        """Open an incident and capture its hosts."""
        wish = wire.wish(request.options, operator_of(context))
        news = self._engine.open_incident(request.severity, request.title, wish, request.profile)
        async for event in _events(news):
            yield event

    @answering
    async def CancelOperation(
        self, request: control_pb2.CancelOperationRequest, context: Context
    ) -> control_pb2.CancelOperationReply:
        """Stop an operation on its hosts."""
        return control_pb2.CancelOperationReply(found=await self._engine.operations.cancel(request.operation_id))

    @answering
    async def ListIncidents(
        self, request: control_pb2.ListIncidentsRequest, context: Context
    ) -> control_pb2.ListIncidentsReply:
        """The newest incidents."""
        views = await self._engine.incidents.newest(min(request.limit or 50, 1000))
        return control_pb2.ListIncidentsReply(incidents=[wire.incident(v) for v in views])

    @answering
    async def ShowIncident(self, request: control_pb2.ShowIncidentRequest, context: Context) -> control_pb2.Incident:
        """One incident."""
        return wire.incident(await self._engine.incidents.view(request.id))

    @answering
    async def AddNote(self, request: control_pb2.AddNoteRequest, context: Context) -> control_pb2.JournalLine:
        """A remark for the record."""
        note = self._engine.incidents.note(request.incident_id, request.text, operator=operator_of(context))
        return wire.line(await note)

    @answering
    async def ListEvidence(
        self, request: control_pb2.ListEvidenceRequest, context: Context
    ) -> control_pb2.ListEvidenceReply:
        """Sealed captures."""
        found = await self._engine.records.list(incident_id=request.incident_id, host=request.host)
        return control_pb2.ListEvidenceReply(evidence=[wire.evidence(e) for e in found])

    @answering
    async def ShowEvidence(
        self, request: control_pb2.ShowEvidenceRequest, context: Context
    ) -> control_pb2.ShowEvidenceReply:
        """What the host signed, and the controller's receipt."""
        shown = await self._engine.records.show(request.id, operator=operator_of(context), reason=request.reason)
        return control_pb2.ShowEvidenceReply(
            record=wire.evidence(shown.evidence),
            statement_json=shown.statement.decode(),
            receipt_json=shown.receipt.decode(),
        )

    @answering
    async def VerifyEvidence(
        self, request: control_pb2.VerifyEvidenceRequest, context: Context
    ) -> control_pb2.VerifyEvidenceReply:
        """Check evidence in the vault."""
        report = await self._engine.records.verify(request.id, operator=operator_of(context))
        return control_pb2.VerifyEvidenceReply(
            problems=report.problems, artifacts=report.artifacts, total_bytes=report.total_bytes
        )

    @streaming
    async def ExportEvidence(
        self, request: control_pb2.ExportEvidenceRequest, context: Context
    ) -> AsyncIterator[control_pb2.FilePart]:
        """The container file."""
        parts = self._engine.records.export(request.id, operator=operator_of(context), reason=request.reason)
        async for part in parts:
            yield control_pb2.FilePart(data=part)

    @answering
    async def ImportEvidence(
        self, request: AsyncIterator[control_pb2.FilePart], context: Context
    ) -> control_pb2.ListEvidenceReply:
        """Keep the evidence of a container file: the authority's certificate first, then the file."""
        parts = (part.data async for part in request)
        kept = await self._engine.records.take_in(parts, operator=operator_of(context))
        return control_pb2.ListEvidenceReply(evidence=[wire.evidence(e) for e in kept])

    @streaming
    async def ReadJournal(
        self, request: control_pb2.ReadJournalRequest, context: Context
    ) -> AsyncIterator[control_pb2.JournalLine]:
        """Lines in order."""
        async for line in self._engine.records.lines(request.incident_id, max(request.from_seq, 1)):
            yield wire.line(line)

    @answering
    async def VerifyJournal(
        self, request: control_pb2.VerifyJournalRequest, context: Context
    ) -> control_pb2.VerifyJournalReply:
        """Prove the journal."""
        report = await self._engine.records.verify_journal()
        return control_pb2.VerifyJournalReply(
            problems=report.problems, lines=report.lines, checkpoints=report.checkpoints, head_hash=report.head[1]
        )


def _remaining(context: Context) -> float:
    return context.time_remaining() or 10.0


async def _events(news: AsyncIterator[News]) -> AsyncIterator[control_pb2.OperationEvent]:
    async for item in news:
        yield wire.event(item)
