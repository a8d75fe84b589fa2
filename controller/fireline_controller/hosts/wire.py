"""Values to wire and back. Everything that comes in was said by an agent: sizes, times and texts are checked (I8)."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from fireline_controller.hosts.values import (
    BAD_DATA,
    CancelAnswer,
    CaptureAccepted,
    CaptureNews,
    CaptureOrder,
    CaptureSealed,
    CollectorEnded,
    CollectorStarted,
    Command,
    HostDescription,
    HostEvent,
    InstalledCertificate,
    PingAnswer,
    Range,
)
from fireline_controller.model import HostFailed
from fireline_controller.profiles import CollectorOrder
from fireline_wire.v1 import capture_pb2, common_pb2, host_pb2

MAX_TEXT: Final = 1000  # characters of one text from an agent
MAX_ITEMS: Final = 1000  # of one list from an agent
# Seconds since 1970 that an agent's clock may show: up to the year 2200, so that nanoseconds fit 64 bits.
_LATEST_S: Final = 7_258_118_400


class Stopwatch:
    """When a request left and when its answer arrived, in nanoseconds since 1970, whatever our clock does between."""

    __slots__ = ("_began_ns", "_sent_ns")

    def __init__(self) -> None:
        self._sent_ns = time.time_ns()
        self._began_ns = time.monotonic_ns()

    def stop(self) -> tuple[int, int]:
        """Sent and arrived."""
        return self._sent_ns, self._sent_ns + time.monotonic_ns() - self._began_ns


def context(command: Command) -> common_pb2.CommandContext:
    """The context of a request."""
    return common_pb2.CommandContext(
        request_id=command.request_id,
        operation_id=command.operation_id,
        incident_id=command.incident_id,
        operator=command.operator,
        reason=command.reason,
        deadline=_timestamp(command.deadline),
        fence_token=command.fence_token,
        dry_run=command.dry_run,
    )


def capture_request(order: CaptureOrder) -> capture_pb2.CaptureRequest:
    """The request that orders a capture."""
    return capture_pb2.CaptureRequest(
        context=context(order.command),
        profile=order.profile.name,
        collectors=[_collector(c) for c in order.profile.collectors],
        clock_offset_ns=order.clock_offset_ns,
        clock_round_trip_ns=order.clock_round_trip_ns,
        journal_seq=order.journal_seq,
        journal_hash=order.journal_hash,
    )


def manifest_request(command: Command, capture_request_id: str, offset: int) -> bytes:
    """The request for the manifest's envelope, from an offset on."""
    return capture_pb2.FetchRequest(
        context=context(command), capture_request_id=capture_request_id, manifest=True, manifest_offset=offset
    ).SerializeToString()


def chunks_request(command: Command, capture_request_id: str, ranges: Iterable[Range]) -> bytes:
    """The request for ranges of chunks."""
    return capture_pb2.FetchRequest(
        context=context(command),
        capture_request_id=capture_request_id,
        chunks=[capture_pb2.ChunkRange(artifact=r.artifact, first=r.first, count=r.count) for r in ranges],
    ).SerializeToString()


def ping_answer(reply: host_pb2.PingReply, *, host: str, clock: Stopwatch) -> PingAnswer:
    """The answer with its clock measurement.

    Raises:
        HostFailed: the host's times are no times.
    """
    offset_ns, round_trip_ns = _offset(reply.received_at, reply.sent_at, host, clock)
    return PingAnswer(offset_ns, round_trip_ns, reply.replayed)


def description(said: host_pb2.HostDescription, *, host: str, clock: Stopwatch) -> HostDescription:
    """What the host says of itself.

    Raises:
        HostFailed: it says another name, or its times are no times.
    """
    if said.name != host:
        raise _bad(host, f"it says that its name is {text(said.name)!r}")
    offset_ns, round_trip_ns = _offset(said.received_at, said.sent_at, host, clock)
    return HostDescription(
        name=said.name,
        agent_version=text(said.agent_version),
        boot_id=text(said.boot_id),
        machine_id=text(said.machine_id),
        kernel=text(said.kernel),
        operating_system=text(said.operating_system),
        clock_offset_ns=offset_ns,
        clock_round_trip_ns=round_trip_ns,
        certificate_not_after=moment(said.certificate_not_after, host),
        collectors=tuple(text(name) for name in said.collectors[:MAX_ITEMS]),
        lacks=tuple(text(sentence) for sentence in said.lacks[:MAX_ITEMS]),
        cgroup=text(said.cgroup),
        deny_list_version=said.deny_list_version,
        fence_token=said.fence_token,
        spool_free_bytes=said.spool_free_bytes,
        isolation=text(said.isolation),
        actions=tuple(text(name) for name in said.actions[:MAX_ITEMS]),
    )


def capture_news(event: capture_pb2.CaptureEvent, *, host: str) -> CaptureNews:
    """One event of a capture's stream.

    Raises:
        HostFailed: an event of no known kind, or a hash that is none.
    """
    kind = event.WhichOneof("event")
    if kind == "accepted":
        return CaptureAccepted(event.accepted.replayed)
    if kind == "started":
        return CollectorStarted(text(event.started.name), event.started.index, event.started.count)
    if kind == "ended":
        return _ended(event.ended)
    if kind == "sealed":
        return _sealed(event.sealed, host)
    raise _bad(host, "it sent a capture event of an unknown kind")


def cancel_answer(reply: capture_pb2.CancelCaptureReply) -> CancelAnswer:
    """How a cancellation went."""
    return CancelAnswer(reply.stopped, tuple(reply.unkillable_pids[:MAX_ITEMS]))


def installed(reply: host_pb2.InstallCertificateReply, *, host: str) -> InstalledCertificate:
    """The certificate that the host says it now serves.

    Raises:
        HostFailed: its time is no time.
    """
    return InstalledCertificate(text(reply.serial_hex), moment(reply.not_after, host))


def host_event(event: host_pb2.HostEvent, *, host: str) -> HostEvent:
    """One event of a watched host.

    Raises:
        HostFailed: its time is no time.
    """
    known = event.kind in host_pb2.HostEvent.Kind.values()
    kind = host_pb2.HostEvent.Kind.Name(event.kind).removeprefix("KIND_").lower() if known else "unspecified"
    return HostEvent(moment(event.at, host), kind, text(event.detail))


def text(said: str) -> str:
    """A text from outside, made fit for a terminal and a journal: one line, printable, of bounded length."""
    kept = said[:MAX_TEXT]
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in kept)


def _collector(order: CollectorOrder) -> capture_pb2.CollectorOrder:
    limits = order.limits
    deadline = Duration()
    deadline.FromNanoseconds(round(limits.deadline_s * 1e9))
    return capture_pb2.CollectorOrder(
        name=order.name,
        params_json=json.dumps(dict(order.params)),
        limits=capture_pb2.CollectorLimits(
            cpu_percent=limits.cpu_percent,
            memory_bytes=limits.memory_bytes,
            io_weight=limits.io_weight,
            output_bytes=limits.output_bytes,
            deadline=deadline,
        ),
    )


def _ended(event: capture_pb2.CollectorEnded) -> CollectorEnded:
    known = event.status in capture_pb2.CollectorStatus.values()
    status = capture_pb2.CollectorStatus.Name(event.status) if known else "COLLECTOR_STATUS_UNSPECIFIED"
    return CollectorEnded(
        name=text(event.name),
        status=status.removeprefix("COLLECTOR_STATUS_").lower(),
        detail=text(event.detail),
        artifacts=event.artifacts,
        total_bytes=event.total_bytes,
        wall_ms=event.wall_ms,
        cpu_ms=event.cpu_ms,
    )


def _sealed(event: capture_pb2.CaptureSealed, host: str) -> CaptureSealed:
    if len(event.manifest_sha256) != 32:
        raise _bad(host, f"its manifest's SHA-256 has {len(event.manifest_sha256)} bytes, wanted 32")
    return CaptureSealed(
        manifest_sha256=event.manifest_sha256.hex(),
        manifest_bytes=event.manifest_bytes,
        artifacts=event.artifacts,
        total_bytes=event.total_bytes,
        partial=event.partial,
        partial_reason=text(event.partial_reason),
    )


def _offset(received: Timestamp, replied: Timestamp, host: str, clock: Stopwatch) -> tuple[int, int]:
    """Offset and round trip of RFC 5905, section 8: T1 sent, T2 received, T3 replied, T4 arrived."""
    sent_ns, arrived_ns = clock.stop()
    received_ns, replied_ns = _nanoseconds(received, host), _nanoseconds(replied, host)
    offset_ns = ((received_ns - sent_ns) + (replied_ns - arrived_ns)) // 2
    round_trip_ns = (arrived_ns - sent_ns) - (replied_ns - received_ns)
    return offset_ns, min(max(round_trip_ns, 0), arrived_ns - sent_ns)


def _nanoseconds(stamp: Timestamp, host: str) -> int:
    if not (0 <= stamp.seconds < _LATEST_S and 0 <= stamp.nanos < 10**9):
        raise _bad(host, f"it sent {stamp.seconds} s and {stamp.nanos} ns since 1970 as a time")
    return stamp.seconds * 10**9 + stamp.nanos


def moment(stamp: Timestamp, host: str) -> datetime:
    """A time that a host told.

    Raises:
        HostFailed: it is none.
    """
    return datetime.fromtimestamp(_nanoseconds(stamp, host) // 1000 / 1e6, UTC)


def _timestamp(when: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp


def _bad(host: str, what: str) -> HostFailed:
    return HostFailed(f"{host}: {what}", reason=BAD_DATA)
