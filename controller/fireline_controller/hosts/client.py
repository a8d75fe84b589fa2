"""One host as the controller calls it: the promise (HostClient) and its gRPC form.

Every failure is a HostError that says which kind it is and names the host; only our own lack of file descriptors is
not (ControllerExhausted). Leaves to others: retries (engine) and what is believed of the bytes that come (vault).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from fireline_controller.hosts import failures, wire
from fireline_controller.hosts.calls import Caller
from fireline_controller.hosts.channels import Line
from fireline_controller.hosts.client_isolation import GrpcIsolation, IsolationCalls
from fireline_controller.hosts.client_remediation import GrpcRemediation, RemediationCalls
from fireline_controller.hosts.values import (
    CancelAnswer,
    CaptureNews,
    CaptureOrder,
    CaptureSealed,
    Command,
    HostDescription,
    HostEvent,
    InstalledCertificate,
    PingAnswer,
    Range,
)
from fireline_controller.model import HostError
from fireline_wire import transfer
from fireline_wire.manifest import MAX_MANIFEST_BYTES
from fireline_wire.v1 import capture_pb2, host_pb2

# The envelope carries the manifest in base64.
MAX_ENVELOPE_BYTES: Final = MAX_MANIFEST_BYTES // 3 * 4 + 65536
# A capture tells of each collector twice, and once more when a stream attaches again: more is a host that lies.
_EVENTS_PER_COLLECTOR: Final = 4
_EVENTS_BESIDE: Final = 16

_HOST: Final = "/fireline_wire.v1.Host/"
_CAPTURE: Final = "/fireline_wire.v1.Capture/"
_SESSION: Final = _HOST + "Session"


class HostClient(IsolationCalls, RemediationCalls, Protocol):
    """What can be asked of one host.

    All raise HostError (see `values` for the reasons that no agent sends), and ControllerExhausted. `timeout_s` is for
    dial and answer together; `idle_s` is the longest silence within a stream, and starts again with each message.
    """

    async def ping(self, command: Command, *, timeout_s: float) -> PingAnswer:
        """A command that does nothing, by the way of every command."""

    async def describe(self, *, timeout_s: float) -> HostDescription:
        """What the host is, with its clock's offset."""

    def capture(self, order: CaptureOrder, *, idle_s: float) -> AsyncIterator[CaptureNews]:
        """Order a capture and follow it; the last news is CaptureSealed. A repeat attaches to the running one."""

    async def cancel_capture(self, command: Command, capture_request_id: str, *, timeout_s: float) -> CancelAnswer:
        """Stop a capture; what was gathered is sealed. One that the host does not know, or no more, is no error."""

    async def forget_capture(self, command: Command, capture_request_id: str, *, timeout_s: float) -> None:
        """Let the host delete its copy."""

    def fetch_manifest(
        self, command: Command, capture_request_id: str, *, offset: int, idle_s: float
    ) -> AsyncIterator[bytes]:
        """The manifest's envelope from an offset on, in pieces of at most a chunk."""

    def fetch_chunks(
        self, command: Command, capture_request_id: str, ranges: Sequence[Range], *, idle_s: float
    ) -> AsyncIterator[bytes]:
        """The chunks of these ranges, in order: exactly as many as asked for, none longer than a chunk may be."""

    async def prepare_renewal(self, command: Command, *, timeout_s: float) -> bytes:
        """A signing request, PEM, for a new key made on the host."""

    async def install_certificate(
        self, command: Command, chain_pem: bytes, *, timeout_s: float
    ) -> InstalledCertificate:
        """Hand over the certificate for the key of the last renewal."""

    async def set_deny_list(self, command: Command, version: int, serials: Sequence[str], *, timeout_s: float) -> int:
        """Tell the host whom to refuse; how many calls that cut."""

    def watch(self) -> AsyncIterator[HostEvent]:
        """Events while the connection lives; ends with Unreachable when the host is dead, frozen or cut off."""


@dataclass(frozen=True)
class AskedPing:
    """A ping as it goes on the wire, and the number that its answer must carry."""

    command: Command
    number: int
    request: bytes


class PingEncoder:
    """Serialises the ping of a fan-out once, not once for each host."""

    def __init__(self) -> None:
        self._last: AskedPing | None = None

    def __call__(self, command: Command) -> AskedPing:
        """The request; the same object for the same command object."""
        if self._last is None or self._last.command is not command:
            number = self._last.number + 1 if self._last is not None else 1
            ask = host_pb2.Ask(number=number, ping=host_pb2.PingRequest(context=wire.context(command)))
            self._last = AskedPing(command, number, ask.SerializeToString())
        return self._last


class GrpcHost(GrpcIsolation, GrpcRemediation):
    """A host over two lines: one for commands, one for evidence, so that no transfer stands before a command (I9)."""

    def __init__(
        self, control: Line, evidence: Line, caller: Caller, encoder: PingEncoder, fresh: Callable[[], Line]
    ) -> None:
        super().__init__(control, caller, fresh)
        self.destination = control.destination
        self._evidence = evidence
        self._encoder = encoder

    async def close(self) -> None:
        """Cut both connections and every call on them."""
        await self._control.close()
        await self._evidence.close()

    async def ping(self, command: Command, *, timeout_s: float) -> PingAnswer:
        """See HostClient."""
        asked = self._encoder(command)
        clock = wire.Stopwatch()

        def read(data: bytes) -> PingAnswer:
            answer = self._parsed(host_pb2.Answer, data)
            if answer.number != asked.number or not answer.HasField("ping"):
                raise failures.bad_data(self._name, "it sent an answer that nobody asked for")
            return wire.ping_answer(answer.ping, host=self._name, clock=clock)

        return await self._caller.ask(self._control, _SESSION, asked.request, read, timeout_s=timeout_s)

    async def describe(self, *, timeout_s: float) -> HostDescription:
        """See HostClient."""
        clock = wire.Stopwatch()
        said = await self._ask(_HOST + "Describe", host_pb2.DescribeRequest(), host_pb2.HostDescription, timeout_s)
        return wire.description(said, host=self._name, clock=clock)

    async def capture(self, order: CaptureOrder, *, idle_s: float) -> AsyncGenerator[CaptureNews, None]:
        """See HostClient."""
        request = wire.capture_request(order).SerializeToString()
        left = _EVENTS_PER_COLLECTOR * len(order.profile.collectors) + _EVENTS_BESIDE
        async with aclosing(self._caller.stream(self._control, _CAPTURE + "Run", request, idle_s=idle_s)) as events:
            async for data in events:
                news = wire.capture_news(self._parsed(capture_pb2.CaptureEvent, data), host=self._name)
                left -= 1
                if left < 0:
                    raise failures.bad_data(self._name, "its capture sends events without end")
                if isinstance(news, CaptureSealed):
                    break
                yield news
            else:
                raise failures.bad_data(self._name, "its capture ended without a seal")
        yield news

    async def cancel_capture(self, command: Command, capture_request_id: str, *, timeout_s: float) -> CancelAnswer:
        """See HostClient."""
        request = capture_pb2.CancelCaptureRequest(context=wire.context(command), capture_request_id=capture_request_id)
        try:
            reply = await self._ask(_CAPTURE + "Cancel", request, capture_pb2.CancelCaptureReply, timeout_s)
        except HostError as error:
            if error.reason == "not_found":
                return CancelAnswer(stopped=False, unkillable_pids=())
            raise
        return wire.cancel_answer(reply)

    async def forget_capture(self, command: Command, capture_request_id: str, *, timeout_s: float) -> None:
        """See HostClient."""
        request = capture_pb2.ForgetCaptureRequest(context=wire.context(command), capture_request_id=capture_request_id)
        await self._ask(_CAPTURE + "Forget", request, capture_pb2.ForgetCaptureReply, timeout_s)

    async def fetch_manifest(
        self, command: Command, capture_request_id: str, *, offset: int, idle_s: float
    ) -> AsyncGenerator[bytes, None]:
        """See HostClient."""
        left = MAX_ENVELOPE_BYTES - offset
        request = wire.manifest_request(command, capture_request_id, offset)
        async with aclosing(self._fetch(request, idle_s)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise failures.bad_data(self._name, f"its manifest is longer than {MAX_ENVELOPE_BYTES} bytes")
                yield piece

    async def fetch_chunks(
        self, command: Command, capture_request_id: str, ranges: Sequence[Range], *, idle_s: float
    ) -> AsyncGenerator[bytes, None]:
        """See HostClient."""
        asked = sum(r.count for r in ranges)
        got = 0
        async with aclosing(self._fetch(wire.chunks_request(command, capture_request_id, ranges), idle_s)) as chunks:
            async for chunk in chunks:
                got += 1
                if got > asked:
                    raise failures.bad_data(self._name, f"it sends more than the {asked} chunks asked for")
                yield chunk
        if got < asked:
            raise failures.bad_data(self._name, f"it sent {got} of the {asked} chunks asked for")

    async def prepare_renewal(self, command: Command, *, timeout_s: float) -> bytes:
        """See HostClient."""
        request = host_pb2.PrepareRenewalRequest(context=wire.context(command))
        reply = await self._ask(_HOST + "PrepareRenewal", request, host_pb2.PrepareRenewalReply, timeout_s)
        return reply.signing_request_pem

    async def install_certificate(
        self, command: Command, chain_pem: bytes, *, timeout_s: float
    ) -> InstalledCertificate:
        """See HostClient."""
        request = host_pb2.InstallCertificateRequest(context=wire.context(command), chain_pem=chain_pem)
        reply = await self._ask(_HOST + "InstallCertificate", request, host_pb2.InstallCertificateReply, timeout_s)
        return wire.installed(reply, host=self._name)

    async def set_deny_list(self, command: Command, version: int, serials: Sequence[str], *, timeout_s: float) -> int:
        """See HostClient."""
        request = host_pb2.SetDenyListRequest(context=wire.context(command), version=version, serials_hex=serials)
        reply = await self._ask(_HOST + "SetDenyList", request, host_pb2.SetDenyListReply, timeout_s)
        return reply.calls_cut

    async def watch(self) -> AsyncGenerator[HostEvent, None]:
        """See HostClient."""
        request = host_pb2.WatchRequest().SerializeToString()
        async with aclosing(self._caller.stream(self._control, _HOST + "Watch", request, idle_s=None)) as events:
            async for data in events:
                yield wire.host_event(self._parsed(host_pb2.HostEvent, data), host=self._name)

    async def _fetch(self, request: bytes, idle_s: float) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._caller.stream(self._evidence, transfer.METHOD, request, idle_s=idle_s)) as messages:
            async for message in messages:
                if not 0 < len(message) <= transfer.CHUNK_BYTES:
                    raise failures.bad_data(
                        self._name, f"it sent a chunk of {len(message)} bytes, wanted 1 to {transfer.CHUNK_BYTES}"
                    )
                yield message
