"""The clients of all hosts: long-lived, one for each enrolment of a host."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import grpc

from fireline_controller.config import Fanout
from fireline_controller.deadlines import Deadlines
from fireline_controller.hosts import channels
from fireline_controller.hosts.calls import Caller
from fireline_controller.hosts.channels import Destination, Line
from fireline_controller.hosts.client import GrpcHost, HostClient, PingEncoder
from fireline_controller.hosts.diagnosis import Prober
from fireline_controller.model import Host
from fireline_wire import tls

# Objects alive that were made since the collector last looked, until it looks again. A call under way is about forty,
# and reference counting frees them all by itself: looked at in the middle of a fan-out, which at the default of 700
# happens without end, they cost a tenth of its time to find nothing. Twenty megabytes wait for it at the most.
_COLLECTOR_THRESHOLD: Final = 200_000


def tune_collector() -> None:
    """Set this process's garbage collector for thousands of calls at once. Call it once, when all is imported.

    It goes on collecting. What is there now is left alone from here on, and not looked through first: that would cost
    a short command a twentieth of a second, to find next to nothing.
    """
    gc.freeze()
    gc.set_threshold(_COLLECTOR_THRESHOLD)


class Fleet:
    """Makes and keeps clients. Belongs to one event loop, and is made inside it.

    `credentials` gives our certificate as it is now; while nothing changed it must return the same object. A renewed
    one is used by new connections; standing ones go on.
    """

    def __init__(self, credentials: Callable[[], tls.Credentials], *, settings: Fanout) -> None:
        self._credentials = credentials
        self._settings = settings
        self._control = channels.control(settings)
        self._evidence = channels.evidence(settings)
        self._prober = Prober(credentials, lambda: datetime.now(UTC))
        self._encoder = PingEncoder()
        self._deadlines = Deadlines()
        self._clients: dict[str, GrpcHost] = {}
        self._made: tuple[tls.Credentials, grpc.ChannelCredentials] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def client(self, host: Host) -> HostClient:
        """The client of a host; the same one until the host moves, is enrolled again, or is dropped."""
        known = self._clients.get(host.name)
        if known is not None:
            place = known.destination
            if place.generation == host.generation and place.address == host.address:
                return known
            self._in_background(known.close())
        client = self._clients[host.name] = self._new(Destination(host.name, host.address, host.generation))
        return client

    async def drop(self, name: str) -> None:
        """Cut every connection to a host, with the calls on them."""
        known = self._clients.pop(name, None)
        if known is not None:
            await known.close()

    async def close(self) -> None:
        """Cut every connection to every host."""
        for name in list(self._clients):
            await self.drop(name)
        await asyncio.gather(*self._closing)

    def _new(self, destination: Destination) -> GrpcHost:
        def line(purpose: channels.Purpose) -> Line:
            return Line(destination, purpose, self._credentials, self._channel_credentials)

        caller = Caller(destination.host, self._settings, self._prober, self._deadlines)
        fresh = partial(line, self._control)
        return GrpcHost(line(self._control), line(self._evidence), caller, self._encoder, fresh)

    def _channel_credentials(self, credentials: tls.Credentials) -> grpc.ChannelCredentials:
        """One object for all channels: gRPC parses certificate and key once."""
        if self._made is None or self._made[0] is not credentials:
            self._made = (credentials, tls.channel_credentials(credentials))
        return self._made[1]

    def _in_background(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
