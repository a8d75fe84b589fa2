"""An agent with knobs: the real wire, mutual TLS and guard, and answers that a test chooses, honest or not."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from fireline_wire import status, tls, transfer
from fireline_wire.guard import DenyList, RoleGuard
from fireline_wire.identity import Role
from fireline_wire.v1 import capture_pb2, host_pb2
from tests.fakes.isolating import FakeIsolation

Context = Any  # grpc.aio.ServicerContext is generic in the stubs only


@dataclass
class FakeAgent:
    """What the agent answers. The knobs may be turned while it serves; what it was asked is kept in `asked`."""

    credentials: tls.Credentials
    name: str = "web-1"
    delay_s: float = 0
    refusal: status.Refusal | None = None
    garbage: bytes | None = None
    clock_ahead_ns: int = 0
    collectors: tuple[str, ...] = ("clocks", "processes")
    sessions: int = 0
    """How many were opened."""
    answers_without_end: bool = False
    unasked: int = 0
    """How many answers left that nobody asked for."""
    pause_s: float = 0
    """Between two events of a capture, and two chunks."""
    events_without_end: bool = False
    without_seal: bool = False
    manifest: bytes = b"manifest " * 300_000
    chunks_without_end: bool = False
    chunks_missing: int = 0
    chunk_bytes: int = transfer.CHUNK_BYTES
    signing_request: bytes = b"csr"
    install_refusal: status.Refusal | None = None
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Message] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)
    """By the request's type, the address and port that it came from."""
    called: asyncio.Event = field(default_factory=asyncio.Event)
    deny: DenyList = field(default_factory=DenyList)
    isolation: FakeIsolation | None = None
    events: asyncio.Queue[host_pb2.HostEvent] = field(default_factory=asyncio.Queue)
    """What a watch tells after its first word."""
    address: str = ""

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0") -> AsyncIterator["FakeAgent"]:
        """Serve while the block lasts."""
        guard = RoleGuard({Role.CONTROLLER}, self.deny)
        server = grpc.aio.server(interceptors=[guard], options=_ARGUMENTS)
        server.add_generic_rpc_handlers(self._handlers())
        if self.isolation is not None:
            server.add_generic_rpc_handlers(self.isolation.handlers())
        port = server.add_secure_port(address, tls.server_credentials(lambda: self.credentials))
        self.address = f"{address.rpartition(':')[0]}:{port}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        def unary(request: type[Message], answer: Callable[[Any], Message]) -> Any:
            return grpc.unary_unary_rpc_method_handler(self._answering(answer), request.FromString, None)

        host = {
            "Session": grpc.stream_stream_rpc_method_handler(self._session, host_pb2.Ask.FromString, None),
            "Describe": unary(host_pb2.DescribeRequest, self._describe),
            "PrepareRenewal": unary(
                host_pb2.PrepareRenewalRequest,
                lambda _: host_pb2.PrepareRenewalReply(signing_request_pem=self.signing_request),
            ),
            "InstallCertificate": unary(
                host_pb2.InstallCertificateRequest,
                lambda _: host_pb2.InstallCertificateReply(serial_hex="ab", not_after=_stamp(10**18)),
            ),
            "SetDenyList": unary(host_pb2.SetDenyListRequest, lambda r: host_pb2.SetDenyListReply(calls_cut=2)),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, None, None),
        }
        capture = {
            "Run": grpc.unary_stream_rpc_method_handler(self._run, capture_pb2.CaptureRequest.FromString, None),
            "Cancel": unary(
                capture_pb2.CancelCaptureRequest,
                lambda _: capture_pb2.CancelCaptureReply(stopped=True, unkillable_pids=[42]),
            ),
            "Forget": unary(capture_pb2.ForgetCaptureRequest, lambda _: capture_pb2.ForgetCaptureReply()),
        }
        fetch: Any = grpc.unary_stream_rpc_method_handler(self._fetch, capture_pb2.FetchRequest.FromString, None)
        return (
            grpc.method_handlers_generic_handler("fireline_wire.v1.Host", host),
            grpc.method_handlers_generic_handler("fireline_wire.v1.Capture", capture),
            grpc.method_handlers_generic_handler(transfer.SERVICE, {"Fetch": fetch}),
        )

    def _answering(self, answer: Callable[[Any], Message]) -> Any:
        async def answering(request: Message, context: Context) -> bytes:
            await self._before(request, context)
            return self.garbage if self.garbage is not None else answer(request).SerializeToString()

        return answering

    async def _before(self, request: Message, context: Context) -> None:
        self.asked.append(request)
        self.peers[type(request).__name__] = context.peer()
        self.called.set()
        await asyncio.sleep(self.delay_s)
        refusal = self.install_refusal if isinstance(request, host_pb2.InstallCertificateRequest) else self.refusal
        if refusal is not None:
            await status.abort(context, refusal)

    async def _session(self, asks: AsyncIterator[host_pb2.Ask], context: Context) -> AsyncIterator[bytes]:
        self.sessions += 1
        async for ask in asks:
            await self._before(ask.ping, context)
            reply = host_pb2.PingReply(received_at=self._now(), sent_at=self._now())
            answer = host_pb2.Answer(number=ask.number, ping=reply).SerializeToString()
            yield self.garbage if self.garbage is not None else answer
            while self.answers_without_end:
                yield answer
                self.unasked += 1

    def _describe(self, _: host_pb2.DescribeRequest) -> Message:
        return host_pb2.HostDescription(
            name=self.name,
            agent_version="0.1",
            received_at=self._now(),
            sent_at=self._now(),
            certificate_not_after=_stamp(10**18),
            collectors=self.collectors,
            lacks=["cgroup: no io controller\x1b[31m"],
            cgroup="v2",
        )

    async def _watch(self, _: bytes, context: Context) -> AsyncIterator[bytes]:
        event = host_pb2.HostEvent(at=self._now(), kind=host_pb2.HostEvent.KIND_WATCHING)
        yield event.SerializeToString()
        self.watched.set()
        while True:
            yield (await self.events.get()).SerializeToString()

    async def _run(self, request: capture_pb2.CaptureRequest, context: Context) -> AsyncIterator[bytes]:
        await self._before(request, context)
        if self.garbage is not None:
            yield self.garbage
            return
        for event in self._events(request):
            yield event.SerializeToString()
            await asyncio.sleep(self.pause_s)
        while self.events_without_end:
            yield capture_pb2.CaptureEvent(started=capture_pb2.CollectorStarted(name="x")).SerializeToString()

    def _events(self, request: capture_pb2.CaptureRequest) -> list[capture_pb2.CaptureEvent]:
        count = len(request.collectors)
        events = [capture_pb2.CaptureEvent(accepted=capture_pb2.CaptureAccepted(request_id="op-1"))]
        for index, order in enumerate(request.collectors):
            started = capture_pb2.CollectorStarted(name=order.name, index=index, count=count)
            ended = capture_pb2.CollectorEnded(name=order.name, status=capture_pb2.COLLECTOR_STATUS_OK, artifacts=1)
            events += [capture_pb2.CaptureEvent(started=started), capture_pb2.CaptureEvent(ended=ended)]
        sealed = capture_pb2.CaptureSealed(
            manifest_sha256=hashlib.sha256(self.manifest).digest(), manifest_bytes=len(self.manifest)
        )
        if not (self.without_seal or self.events_without_end):
            events.append(capture_pb2.CaptureEvent(sealed=sealed))
        return events

    async def _fetch(self, request: capture_pb2.FetchRequest, context: Context) -> AsyncIterator[bytes]:
        await self._before(request, context)
        if request.manifest:
            manifest = self.manifest_of(request.capture_request_id)
            for at in range(request.manifest_offset, len(manifest), self.chunk_bytes):
                yield manifest[at : at + self.chunk_bytes]
            return
        wanted = [(c.artifact, index) for c in request.chunks for index in range(c.first, c.first + c.count)]
        for artifact, index in wanted[: len(wanted) - self.chunks_missing]:
            yield self.chunk(artifact, index)
            await asyncio.sleep(self.pause_s)
        while self.chunks_without_end:
            yield self.chunk("x", 0)

    def manifest_of(self, request_id: str) -> bytes:
        """The manifest's envelope of a capture."""
        return self.manifest

    def chunk(self, artifact: str, index: int) -> bytes:
        """The chunk that this agent has under a name and an index."""
        return (f"{artifact}:{index} ".encode() * (self.chunk_bytes // 4 + 1))[: self.chunk_bytes]

    def _now(self) -> Timestamp:
        return _stamp(time.time_ns() + self.clock_ahead_ns)


def _stamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


_ARGUMENTS = [
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    *transfer.CHANNEL_ARGUMENTS,
]
