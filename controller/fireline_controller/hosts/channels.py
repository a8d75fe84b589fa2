"""Connections to hosts: long-lived, limited while they are made, never while they are used.

A line is one gRPC channel to one host for one purpose, commands or evidence, made again when it has failed or when our
certificate was renewed. Leaves to others: what is said over it (client), and why it failed (diagnosis).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc

from fireline_controller.config import Fanout
from fireline_wire import tls, transfer
from fireline_wire.identity import agent_dns

# Quoted: they are generic in the stubs only.
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
Session: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

# A dial that has taken this long waits for the network and not for our processor: its place goes to the next, so dead
# hosts do not hold up the living.
_SLOT_HELD_S: Final = 0.5
# Handshakes begun at once: ten thousand of them starve each other into their time-outs. Never a limit of warm calls.
_DIALS: Final = 128
_EVIDENCE_DIALS: Final = 32
# An evidence channel without a transfer for this long closes its connection.
_BULK_IDLE_S: Final = 30.0

# Sessions that a line keeps open while nobody asks anything: more than one only after several asked at once.
_SESSIONS_KEPT: Final = 4

_READY: Final = grpc.ChannelConnectivity.READY
_FAILED: Final = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


@dataclass(frozen=True)
class Destination:
    """Where one enrolment of a host is."""

    host: str
    address: str
    generation: int

    @property
    def dns(self) -> str:
        """The name that the host's certificate must carry."""
        return agent_dns(self.host, self.generation)


class DialSlots:
    """So many dials at once, each for at most half a second."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a place while the block lasts, but not for longer than a dial needs the processor."""
        await self._free.acquire()
        held = [True]

        def release() -> None:
            if held:
                held.clear()
                self._free.release()

        timer = asyncio.get_running_loop().call_later(_SLOT_HELD_S, release)
        try:
            yield
        finally:
            timer.cancel()
            release()


@dataclass(frozen=True)
class Purpose:
    """What a line is for: its channel arguments and the places for dialling it."""

    arguments: Sequence[tuple[str, int]]
    slots: DialSlots


class Line:
    """One channel to one host. Belongs to one event loop."""

    def __init__(
        self,
        destination: Destination,
        purpose: Purpose,
        credentials: Callable[[], tls.Credentials],
        channel_credentials: Callable[[tls.Credentials], grpc.ChannelCredentials],
    ) -> None:
        self.destination = destination
        self._purpose = purpose
        self._credentials = credentials
        self._channel_credentials = channel_credentials
        self._made_with: tls.Credentials | None = None
        self._channel: grpc.aio.Channel | None = None
        self._unary: dict[str, Unary] = {}
        self._streams: dict[str, Stream] = {}
        self._idle: list[Session] = []
        self._dialling = asyncio.Lock()

    def is_ready(self) -> bool:
        """Whether an authenticated connection stands."""
        return self._channel is not None and self._channel.get_state() is _READY

    async def connect(self, *, within_s: float, dial_s: float) -> None:
        """Dial, unless a connection stands: at once, whatever pause gRPC would make after an earlier failure.

        Returns when the attempt has succeeded or failed; a call then tells how. The dial's own time begins when it has
        its place: a thousand that wait for one must not be taken for hosts that don't answer.

        Raises:
            TimeoutError: neither, in `within_s` with the wait for a place, or in `dial_s` without it.
        """
        async with asyncio.timeout(within_s), self._dialling:
            if self.is_ready():
                return
            async with self._purpose.slots.slot(), asyncio.timeout(dial_s):
                await self._settle(await self._fresh())

    def unary(self, method: str) -> Unary:
        """The call of a method, bytes to bytes, on a line that was connected."""
        return self._unary.get(method) or self._unary.setdefault(method, self._open().unary_unary(method))

    def stream(self, method: str) -> Stream:
        """The call of a method that answers with a stream, bytes to bytes, on a line that was connected."""
        return self._streams.get(method) or self._streams.setdefault(method, self._open().unary_stream(method))

    def session(self, method: str) -> Session:
        """Open a stream of requests and answers, bytes to bytes, on a line that was connected."""
        return self._open().stream_stream(method)()

    def idle_session(self) -> "Session | None":
        """A session that was kept and still stands; it is the caller's alone until he keeps it again."""
        while self._idle:
            session = self._idle.pop()
            if not session.done():
                return session
        return None

    def keep(self, session: Session) -> None:
        """Keep a session whose last request is answered for whoever asks next."""
        if len(self._idle) < _SESSIONS_KEPT:
            self._idle.append(session)
        else:
            session.cancel()

    async def close(self) -> None:
        """Cut the connection and every call on it."""
        channel, self._channel = self._channel, None
        self._idle.clear()
        self._unary.clear()
        self._streams.clear()
        if channel is not None:
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError(f"{self.destination.host} was called before its line was connected")
        return self._channel

    async def _fresh(self) -> grpc.aio.Channel:
        """The channel to dial on: a new one where the old one failed, or was made with another certificate."""
        credentials = self._credentials()
        if self._channel is not None and (credentials is not self._made_with or self._channel.get_state() in _FAILED):
            await self.close()
        if self._channel is None:
            self._made_with = credentials
            self._channel = grpc.aio.secure_channel(
                self.destination.address,
                self._channel_credentials(credentials),
                options=[*self._purpose.arguments, ("grpc.ssl_target_name_override", self.destination.dns)],
            )
        return self._channel

    @staticmethod
    async def _settle(channel: grpc.aio.Channel) -> None:
        state = channel.get_state(try_to_connect=True)
        while state is not _READY and state not in _FAILED:
            await channel.wait_for_state_change(state)
            state = channel.get_state(try_to_connect=True)


def control(settings: Fanout) -> Purpose:
    """Lines for commands: warm for as long as the host lives.

    A dead, frozen or cut-off host is noticed within `keepalive_s + keepalive_timeout_s`.
    """
    return Purpose(_arguments(settings), DialSlots(_DIALS))


def evidence(settings: Fanout) -> Purpose:
    """Lines for evidence: connections of their own, wide, and closed when they idle (I9)."""
    own = (("grpc.client_idle_timeout_ms", round(_BULK_IDLE_S * 1000)), *transfer.CHANNEL_ARGUMENTS)
    return Purpose(
        (*(a for a in _arguments(settings) if a[0] not in dict(own)), *own),
        DialSlots(_EVIDENCE_DIALS),
    )


def _arguments(settings: Fanout) -> tuple[tuple[str, int], ...]:
    dial_ms = round(settings.dial_s * 1000)
    keepalive_ms, timeout_ms = round(settings.keepalive_s * 1000), round(settings.keepalive_timeout_s * 1000)
    return (
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),  # without it a stopped process is noticed after a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),  # a quarter of a warm call's cost
        ("grpc.enable_retries", 0),  # retries are ours: they carry the request id
        ("grpc.enable_http_proxy", 0),  # http_proxy in the environment would take IP addresses along
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_channelz", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, without the old one's back-off
        ("grpc.min_reconnect_backoff_ms", dial_ms),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", max(dial_ms, 500)),
    )
