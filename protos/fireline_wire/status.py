"""Refusals on the wire: a google.rpc.Status with one ErrorInfo whose reason is an ErrorReason."""

from dataclasses import dataclass
from typing import Final, NoReturn, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN: Final = "fireline"

_CODES: Final = {
    "invalid_request": code_pb2.INVALID_ARGUMENT,
    "empty_target": code_pb2.INVALID_ARGUMENT,
    "unconfirmed_target": code_pb2.FAILED_PRECONDITION,
    "role_refused": code_pb2.PERMISSION_DENIED,
    "tls_version_refused": code_pb2.PERMISSION_DENIED,
    "certificate_revoked": code_pb2.PERMISSION_DENIED,
    "policy_denied": code_pb2.PERMISSION_DENIED,
    "token_used": code_pb2.PERMISSION_DENIED,
    "token_expired": code_pb2.PERMISSION_DENIED,
    "token_forged": code_pb2.PERMISSION_DENIED,
    "ca_mismatch": code_pb2.PERMISSION_DENIED,
    "name_taken": code_pb2.ALREADY_EXISTS,
    "fenced": code_pb2.FAILED_PRECONDITION,
    "request_mismatch": code_pb2.ALREADY_EXISTS,
    "draining": code_pb2.UNAVAILABLE,
    "busy": code_pb2.RESOURCE_EXHAUSTED,
    "disk_full": code_pb2.RESOURCE_EXHAUSTED,
    "file_descriptors": code_pb2.RESOURCE_EXHAUSTED,
    "not_found": code_pb2.NOT_FOUND,
    "tampered": code_pb2.DATA_LOSS,
    "store_failed": code_pb2.INTERNAL,
    "unsupported": code_pb2.FAILED_PRECONDITION,
    "lockout": code_pb2.FAILED_PRECONDITION,
    "not_proved": code_pb2.ABORTED,
    "approval_required": code_pb2.FAILED_PRECONDITION,
    "superseded": code_pb2.ABORTED,
    "plan_changed": code_pb2.ABORTED,
    "no_evidence": code_pb2.FAILED_PRECONDITION,
    "host_locked": code_pb2.ABORTED,
    "action_refused": code_pb2.FAILED_PRECONDITION,
    "internal": code_pb2.INTERNAL,
}


@dataclass(frozen=True)
class Refusal:
    """Why a call failed: a reason (an ErrorReason's name, lower case, without prefix) and a text for a person."""

    reason: str
    message: str

    def __post_init__(self) -> None:
        if self.reason not in _CODES:
            raise ValueError(f"unknown reason {self.reason!r}")


def known(reason: str) -> str:
    """The reason itself where the wire has it, `internal` otherwise."""
    return reason if reason in _CODES else "internal"


def to_status(refusal: Refusal) -> grpc.Status:
    """The status to abort a call with."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=refusal.reason.upper(), domain=DOMAIN))
    status = status_pb2.Status(code=_CODES[refusal.reason], message=refusal.message, details=[detail])
    return rpc_status.to_status(status)


async def abort(context: "grpc.aio.ServicerContext[object, object]", refusal: Refusal) -> NoReturn:
    """End the call with the refusal."""
    status = to_status(refusal)
    await context.abort(status.code, status.details, status.trailing_metadata)


def from_error(error: grpc.aio.AioRpcError) -> Refusal | None:
    """The refusal that a failed call carries, or None where the failure is not one of ours (a dead connection)."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))  # the same methods
    except ValueError:
        return None
    if status is None:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason.lower() in _CODES:
            return Refusal(info.reason.lower(), status.message[:1000])
    return None
