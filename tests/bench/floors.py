"""The floors: the same exchange without the product, in uvloop and in C."""

import asyncio
import gc
import json
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.bench.grounds import GENERATION, Grounds, compiled

ECHO_BYTES = 64
_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Times:
    """One cold round over new connections and several warm ones over the same, seconds; CPU of this process."""

    cold_s: float
    warm_s: list[float]
    cpu_cold_s: float = 0.0
    cpu_warm_s: float = 0.0
    not_ok: int = 0


class Echo(asyncio.Protocol):
    """One connection; each echo is awaited by itself under its own deadline, since a host has an outcome."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    async def ask(self) -> None:
        """Send the bytes and wait until they are back."""
        self._missing, self._answered = ECHO_BYTES, self._loop.create_future()
        self.transport.write(b"x" * ECHO_BYTES)
        async with asyncio.timeout(_DEADLINE_S):
            await self._answered

    def data_received(self, data: bytes) -> None:
        """Count what comes back."""
        self._missing -= len(data)
        if not self._missing:
            self._answered.set_result(None)


def tls_context(grounds: Grounds) -> ssl.SSLContext:
    """A client's TLS 1.3 context with the controller's certificate."""
    context = ssl.create_default_context(cafile=str(grounds.folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(grounds.folder / "controller.pem"), str(grounds.folder / "controller.key"))
    return context


class StreamEcho:
    """The same with asyncio's streams, as most clients are written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.transport = writer.transport

    async def ask(self) -> None:
        """Send the bytes and wait until they are back."""
        async with asyncio.timeout(_DEADLINE_S):
            self._writer.write(b"x" * ECHO_BYTES)
            await self._writer.drain()
            await self._reader.readexactly(ECHO_BYTES)


Connected = Callable[[str, int, ssl.SSLContext, str], Awaitable[Echo | StreamEcho]]


async def connected(place: str, port: int, context: ssl.SSLContext, dns: str) -> Echo:
    """A connection with the least between it and the loop."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(Echo, place, port, ssl=context, server_hostname=dns)
    return protocol


async def connected_stream(place: str, port: int, context: ssl.SSLContext, dns: str) -> StreamEcho:
    """A connection with a reader and a writer."""
    return StreamEcho(*await asyncio.open_connection(place, port, ssl=context, server_hostname=dns))


async def echo(grounds: Grounds, rounds: int, connected: Connected = connected) -> Times:
    """Connect to every address at once and echo, then echo again and again; names are verified as the product does."""
    context = tls_context(grounds)
    began, cpu = time.perf_counter(), time.process_time()

    async def dial(name: str, address: str) -> Echo | StreamEcho:
        place, _, port = address.partition(":")
        peer = await connected(place, int(port), context, f"{name}.g{GENERATION}.agent.fireline")
        await peer.ask()
        return peer

    peers = await asyncio.gather(*(dial(host.name, host.address) for host in grounds.hosts))
    cold_s, cpu_cold_s = time.perf_counter() - began, time.process_time() - cpu
    gc.freeze()
    warm, cpu = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        await asyncio.gather(*(peer.ask() for peer in peers))
        warm.append(time.perf_counter() - began)
    cpu_warm_s = (time.process_time() - cpu) / max(rounds, 1)
    for peer in peers:
        peer.transport.abort()
    return Times(cold_s, warm, cpu_cold_s, cpu_warm_s)


def c_echo(grounds: Grounds, rounds: int) -> Times:
    """The same in C: OpenSSL and epoll, one thread."""
    program = compiled(grounds.folder, "tls_floor")
    names = ("controller.key", "controller.pem", "ca.pem", "addresses")
    argv = [str(program), *(str(grounds.folder / name) for name in names), str(rounds)]
    said = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return Times(said["cold_s"], said["warm_s"], said["cpu_cold_s"])


def resident_peak_of(pid: int) -> int:
    """The most memory that a process has held so far, bytes (VmHWM of proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
