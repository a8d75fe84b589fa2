"""The one edge between what a handler raises and what a caller sees: refusals as statuses, faults as an id.

No exception text leaks: it may hold names and paths of this host.
"""

import errno
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import grpc

from fireline_agent.errors import RefusedError
from fireline_wire.status import Refusal, abort

log = logging.getLogger(__name__)

# Quoted: it is generic in the stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
S = TypeVar("S")
Q = TypeVar("Q")
R = TypeVar("R")


def unary(behaviour: Callable[[S, Q, Context], Awaitable[R]]) -> Callable[[S, Q, Context], Awaitable[R]]:
    """Answer what the method raises with a status."""

    @wraps(behaviour)
    async def answer(self: S, request: Q, context: Context) -> R:
        try:
            return await behaviour(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            return await abort(context, _refusal(error))

    return answer


def streaming(
    behaviour: Callable[[S, Q, Context], AsyncGenerator[R, None]],
) -> Callable[[S, Q, Context], AsyncIterator[R]]:
    """The same for a method that yields its answers."""

    @wraps(behaviour)
    async def answer(self: S, request: Q, context: Context) -> AsyncIterator[R]:
        try:
            async with aclosing(behaviour(self, request, context)) as answers:
                async for one in answers:
                    yield one
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            await abort(context, _refusal(error))

    return answer


class Places:
    """How many calls of one kind may be in work; one more is refused, never queued."""

    def __init__(self, kind: str, count: int) -> None:
        self._kind = kind
        self._count = count
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place while the block lasts.

        Raises:
            RefusedError: busy.
        """
        if self._taken >= self._count:
            raise RefusedError("busy", f"this host has {self._count} places for {self._kind} and all are taken")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, RefusedError):
        return Refusal(error.reason, error.message)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refusal("disk_full", "no space on this host's disk to note the command; nothing was done; free some")
    error_id = secrets.token_hex(4)
    log.error("call failed", exc_info=error, extra={"error_id": error_id})
    return Refusal("internal", f"a fault in the agent; its log explains it under error_id {error_id}")
