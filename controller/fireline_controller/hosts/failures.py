"""What a failed call means: the host's own refusal, a lost connection, a slow host, or bytes that fit no contract."""

from typing import Final

import grpc

from fireline_controller.hosts import descriptors, values
from fireline_controller.hosts.diagnosis import sanitised
from fireline_controller.model import Denied, HostError, HostFailed, TimedOut, Unreachable
from fireline_wire import status

_DENIED: Final = frozenset({"role_refused", "tls_version_refused", "certificate_revoked", "policy_denied", "fenced"})
_PASSING: Final = frozenset({"busy", "draining", "file_descriptors"})


def refusal(host: str, error: grpc.aio.AioRpcError) -> HostError | None:
    """The host's own refusal, with its reason; None where it did not say one."""
    said = status.from_error(error)
    if said is None:
        return None
    kind = Denied if said.reason in _DENIED else HostFailed
    return kind(f"{host}: {sanitised(said.message)}", reason=said.reason, retry_helps=said.reason in _PASSING)


def connected(host: str, error: grpc.aio.AioRpcError) -> HostError:
    """What a failure without a refusal means on a connection that stood when the call began.

    Raises:
        ControllerExhausted: it was our own lack of file descriptors.
    """
    code, details = error.code(), sanitised(error.details() or "")
    if descriptors.tells_exhaustion(details):
        raise descriptors.exhausted()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return broken(host, details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return slow(host)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return HostFailed(f"{host}: its agent does not know this call: it is older", reason="unimplemented")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return HostFailed(f"{host}: it sent a message over the limit ({details})", reason=values.BAD_DATA)
    return HostFailed(f"{host}: the call ended with {code.name}: {details}", reason="internal")


def broken(host: str, details: str) -> Unreachable:
    """The connection was lost in the middle of a call."""
    return Unreachable(
        f"{host}: the connection was lost ({details or 'without a word'})", reason=values.BROKEN, retry_helps=True
    )


def flickering(host: str, how: str) -> Unreachable:
    """A dial failed, and a second look finds nothing wrong."""
    return Unreachable(
        f"{host}: no connection came about {how}, though a second look finds its agent there",
        reason=values.BROKEN,
        retry_helps=True,
    )


def slow(host: str) -> TimedOut:
    """A call on a standing connection was not answered in time."""
    return TimedOut(f"{host}: it is connected and gave no answer in time", reason=values.SLOW, retry_helps=True)


def silent(host: str, idle_s: float) -> TimedOut:
    """A stream on a standing connection had no message for too long."""
    return TimedOut(f"{host}: it is connected and sent nothing for {idle_s:g} s", reason=values.SLOW, retry_helps=True)


def bad_data(host: str, what: str) -> HostFailed:
    """What the host sent fits no contract."""
    return HostFailed(f"{host}: {what}", reason=values.BAD_DATA)
