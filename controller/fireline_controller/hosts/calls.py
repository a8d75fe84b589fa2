"""Calls on a line, bytes to bytes: dial if need be, send, and make every failure a HostError with its reason."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final, TypeVar

import grpc

from fireline_controller.config import Fanout
from fireline_controller.deadlines import Deadlines
from fireline_controller.hosts import descriptors, failures
from fireline_controller.hosts.channels import Line, Session
from fireline_controller.hosts.diagnosis import Prober, sanitised
from fireline_controller.model import HostError

_Answer = TypeVar("_Answer")

# Of the time for a call, what the dial may take: the rest is for finding out why nothing answered.
_DIAL_SHARE: Final = 0.75
# A second look at a host that did not answer.
_LOOK_S: Final = 1.5
_LEAST_LOOK_S: Final = 0.05


class Caller:
    """Calls one host. `deadlines` cancels sessions whose answer is overdue."""

    def __init__(self, host: str, settings: Fanout, prober: Prober, deadlines: Deadlines) -> None:
        self._host = host
        self._settings = settings
        self._prober = prober
        self._deadlines = deadlines

    async def unary(self, line: Line, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """Call and answer, dial included, in this time.

        Raises:
            HostError, ControllerExhausted: as HostClient says.
        """
        is_connected = line.is_ready()
        if not is_connected:
            timeout_s -= await self._connect(line, timeout_s)
            is_connected = line.is_ready()
        try:
            return await line.unary(method)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise await self._failure(line, error, is_connected=is_connected) from None
        except asyncio.CancelledError:
            self._raise_if_cut()
            raise

    async def ask(
        self, line: Line, method: str, request: bytes, read: Callable[[bytes], _Answer], *, timeout_s: float
    ) -> _Answer:
        """Send a request on a session of the method, and read the answer; dial included, in this time.

        A session carries one request at a time. When its answer did not come, or `read` took it for none, the session
        is cancelled, so no late or unasked answer meets the next request; unread ones are held by flow control.

        Raises:
            HostError, ControllerExhausted: as HostClient says; and what `read` raises.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        session = line.idle_session()
        is_connected, is_answered = True, False
        try:
            if session is None:
                is_connected = line.is_ready() or await self._dialled(line, timeout_s)
                session = line.session(method)
                await self._opened(session, deadline)
            answer = read(await self._exchange(session, request, deadline))
            is_answered = True
        except grpc.aio.AioRpcError as error:
            raise await self._failure(line, error, is_connected=is_connected) from None
        finally:
            if session is not None and not is_answered:
                session.cancel()
        line.keep(session)
        return answer

    async def _dialled(self, line: Line, timeout_s: float) -> bool:
        await self._connect(line, timeout_s)
        return line.is_ready()

    async def _opened(self, session: Session, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        # gRPC does not wake who waits for a stream to open when its connection dies just then: its end is watched too.
        ended = loop.create_future()
        session.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        opening = asyncio.ensure_future(session.wait_for_connection())
        try:
            await asyncio.wait({opening, ended}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                await opening
            if session.done():
                await session.read()  # raises why
                raise failures.broken(self._host, "its agent is stopping")
            if not opening.done():
                raise failures.slow(self._host)
        except asyncio.CancelledError:
            self._raise_if_cut()
            raise
        finally:
            opening.cancel()

    async def _exchange(self, session: Session, request: bytes, deadline: float) -> bytes:
        # Cancelling the session ends what waits for it. Only an open session's: one that is being opened would not
        # wake up.
        self._deadlines.set(session, deadline, _cancel)
        try:
            await self._write(session, request)
            answer = await session.read()
        except asyncio.CancelledError:
            if not _is_cancelled() and asyncio.get_running_loop().time() >= deadline:
                raise failures.slow(self._host) from None
            self._raise_if_cut()
            raise
        finally:
            self._deadlines.stop(session, deadline)
        if not isinstance(answer, bytes):
            raise failures.broken(self._host, "its agent is stopping")
        return answer

    async def _write(self, session: Session, request: bytes) -> None:
        try:
            await session.write(request)
        except grpc.aio.AioRpcError as error:
            # What gRPC says of a request that met the dying connection itself, before it knows why that dies.
            if error.code() is grpc.StatusCode.INTERNAL and failures.refusal(self._host, error) is None:
                raise failures.broken(self._host, "while it was asked") from None
            raise

    async def stream(
        self, line: Line, method: str, request: bytes, *, idle_s: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Call and yield each message; `idle_s` is the longest silence, None for any. Closing it ends the call.

        Raises:
            HostError, ControllerExhausted: as HostClient says.
        """
        if not line.is_ready():
            await self._connect(line, self._settings.dial_s / _DIAL_SHARE)
        is_connected = line.is_ready()
        call = line.stream(method)(request)
        try:
            while (message := await self._read(call, idle_s)) is not None:
                yield message
        except grpc.aio.AioRpcError as error:
            raise await self._failure(line, error, is_connected=is_connected) from None
        finally:
            call.cancel()

    async def _read(self, call: "grpc.aio.UnaryStreamCall[bytes, bytes]", idle_s: float | None) -> bytes | None:
        try:
            async with asyncio.timeout(idle_s):
                message = await call.read()
        except TimeoutError:
            raise failures.silent(self._host, idle_s or 0) from None
        except asyncio.CancelledError:
            self._raise_if_cut()
            raise
        return message if isinstance(message, bytes) else None

    async def _connect(self, line: Line, timeout_s: float) -> float:
        """Dial; how long it took. A dial that failed is left to the call to tell."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await line.connect(within_s=timeout_s * _DIAL_SHARE, dial_s=self._settings.dial_s)
        except TimeoutError:
            waited_s = loop.time() - began
            raise await self._unconnected(line, "in time", left_s=timeout_s - waited_s) from None
        return loop.time() - began

    async def _failure(self, line: Line, error: grpc.aio.AioRpcError, *, is_connected: bool) -> HostError:
        if refusal := failures.refusal(self._host, error):
            return refusal
        if is_connected or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return failures.connected(self._host, error)
        details = error.details() or ""
        if descriptors.tells_exhaustion(details):
            raise descriptors.exhausted()
        return await self._unconnected(line, f"({sanitised(details)})", left_s=_LOOK_S)

    async def _unconnected(self, line: Line, how: str, *, left_s: float) -> HostError:
        found = await self._prober.look(line.destination, within_s=min(_LOOK_S, max(left_s, _LEAST_LOOK_S)))
        return found or failures.flickering(self._host, how)

    def _raise_if_cut(self) -> None:
        """gRPC says CancelledError also when the channel was closed under the call; then nobody cancelled this task."""
        if not _is_cancelled():
            raise failures.broken(self._host, "cut off by the controller") from None


def _cancel(session: Session) -> None:
    session.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
