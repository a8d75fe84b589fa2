"""The way that every command takes once its caller was let in: its context is checked, its request id remembered."""

import asyncio
import errno
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final, Protocol, TypeVar

from google.protobuf.message import Message

from fireline_agent.errors import RefusedError
from fireline_agent.ledger import Command, Ledger
from fireline_wire.v1 import common_pb2

T = TypeVar("T")

# As in the manifest, which these words go into.
_MAX_NAME: Final = 200
_MAX_REASON: Final = 4096
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Request(Protocol):
    """A request that carries a context."""

    @property
    def context(self) -> common_pb2.CommandContext:
        """Who asks for what."""


class Commands:
    """The ledger as an event loop sees it. `threads` wait for its disk."""

    def __init__(self, ledger: Ledger, threads: Executor) -> None:
        self._ledger = ledger
        self._threads = threads
        self._changing = asyncio.Lock()

    @property
    def fence_token(self) -> int:
        """The highest fence token seen."""
        return self._ledger.fence_token

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do blocking work on the threads that are kept for commands."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def settle(self, command: Command, reply: bytes) -> bytes:
        """Remember an observing command with its answer; returns the first one where the id was known.

        On a full disk it is answered all the same: done twice, it does no harm.
        """
        try:
            return await self.call(self._ledger.settle, command, reply)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            return reply

    async def find(self, command: Command) -> bool:
        """Whether the request id is known.

        Raises:
            RefusedError: request_mismatch.
        """
        return await self.call(self._ledger.find, command) is not None

    async def begin(self, command: Command) -> bytes | None:
        """Note a command before it acts; returns the first answer where there is one.

        Raises:
            RefusedError: request_mismatch or fenced.
        """
        known = await self.call(self._ledger.begin, command)
        return known.result if known is not None else None

    async def finish(self, request_id: str, reply: bytes) -> None:
        """Note the answer."""
        await self.call(self._ledger.finish, request_id, reply)

    async def once(self, command: Command, act: Callable[[], Awaitable[bytes]]) -> bytes:
        """Do a changing command at most once, one after another, and answer a repeat with the first answer.

        One that a crash cut short is done again: all that go this way end in the same state when done twice. They may
        use what is set aside for a full disk, which must not keep anybody from letting a host back.

        Raises:
            RefusedError: request_mismatch, fenced or disk_full.
        """
        async with self._changing:
            first = await self.begin_with_room(command)
            if first is None:
                first = await act()
                await self.finish_with_room(command.request_id, first)
            return first

    async def begin_with_room(self, command: Command) -> bytes | None:
        """As `begin`; what is set aside is used where the disk is full.

        Raises:
            RefusedError: as `begin`, or disk_full.
        """
        return await self._with_room(self.begin, command)

    async def finish_with_room(self, request_id: str, reply: bytes) -> None:
        """As `finish`; what is set aside is used where the disk is full.

        Raises:
            RefusedError: disk_full.
        """
        await self._with_room(self.finish, request_id, reply)

    async def _with_room(self, note: Callable[..., Awaitable[T]], *arguments: object) -> T:
        try:
            return await note(*arguments)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
        await self.call(self._ledger.make_room)
        try:
            return await note(*arguments)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise RefusedError("disk_full", f"the request can't be remembered: {error.strerror}") from None


def checked(kind: str, request: Request, *, is_fenced: bool = False, unmeasured: Message | None = None) -> Command:
    """The command of a request whose context is in order.

    Args:
        kind: the method's name.
        request: as it came.
        is_fenced: it changes the host, so one with an older fence token is refused.
        unmeasured: the request without what differs from try to try, where there is more of that than the context.

    Raises:
        RefusedError: invalid_request, naming the field.
    """
    context = request.context
    for name in ("operation_id", "incident_id", "operator"):
        require_short(f"context.{name}", getattr(context, name), _MAX_NAME)
    require_short("context.reason", context.reason, _MAX_REASON)
    return Command(context.request_id, _digest(kind, unmeasured or request), context.fence_token if is_fenced else None)


def require_short(field: str, text: str, limit: int) -> None:
    """Let a text of at most so many characters pass.

    Raises:
        RefusedError: invalid_request.
    """
    if len(text) > limit:
        raise RefusedError("invalid_request", f"{field}: wanted at most {limit} characters, found {len(text)}")


def refuse_dry_run(request: Request) -> None:
    """Refuse to try what can't be tried.

    Raises:
        RefusedError: invalid_request.
    """
    if request.context.dry_run:
        raise RefusedError("invalid_request", "context.dry_run: this command has no dry run")


def _digest(kind: str, request: Message | Request) -> bytes:
    if not isinstance(request, Message):
        raise TypeError("a request is a message")
    # A copy without the context: a repeat comes with a later deadline.
    bare = type(request).FromString(request.SerializeToString())
    bare.ClearField("context")
    return hashlib.sha256(kind.encode() + b"\0" + bare.SerializeToString(deterministic=True)).digest()
