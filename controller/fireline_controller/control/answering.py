"""What the methods of the Control service share: who calls, and how an error ends a call."""

import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc

from fireline_controller.model import FirelineError
from fireline_wire import status
from fireline_wire.guard import peer_of

log = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Service = TypeVar("_Service")


async def _refuse(context: Context, error: Exception) -> None:
    """End the call with the error's reason; an error that is not ours is logged and only its id is told."""
    if isinstance(error, FirelineError):
        await status.abort(context, status.Refusal(status.known(error.reason), str(error)))
    incident = secrets.token_hex(4)
    log.error("control call failed", extra={"error_id": incident}, exc_info=error)
    await status.abort(context, status.Refusal("internal", f"the controller failed; its log explains it: {incident}"))


def answering(
    method: Callable[[_Service, _Request, Context], Awaitable[_Reply]],
) -> Callable[[_Service, _Request, Context], Awaitable[_Reply]]:
    """A method with one answer, whose errors become refusals."""

    @functools.wraps(method)
    async def answer(self: _Service, request: _Request, context: Context) -> _Reply:
        try:
            return await method(self, request, context)
        except Exception as error:
            await _refuse(context, error)
            raise

    return answer


def streaming(
    method: Callable[[_Service, _Request, Context], AsyncIterator[_Reply]],
) -> Callable[[_Service, _Request, Context], AsyncIterator[_Reply]]:
    """A method with a stream of answers, whose errors become refusals."""

    @functools.wraps(method)
    async def stream(self: _Service, request: _Request, context: Context) -> AsyncIterator[_Reply]:
        try:
            async for reply in method(self, request, context):
                yield reply
        except Exception as error:  # noqa: BLE001 - the process edge: nothing may leak to the wire
            await _refuse(context, error)

    return stream


def operator_of(context: Context) -> str:
    """In whose name a call is done: what the caller's certificate says."""
    return peer_of(context).identity.name
