"""A spool and a runner with real worker and sealer processes, and orders for the test collectors."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fireline_agent.capture.order import CollectorOrder, Folder, Limits, Order
from fireline_agent.capture.runner import News, Runner, Running
from fireline_agent.capture.spool import Spool, chunk_pieces, read_piece
from fireline_wire import envelope
from fireline_wire.manifest import PAYLOAD_TYPE, CollectorRun, Manifest

LIMITS = Limits(cpu_percent=100, memory_bytes=256 << 20, io_weight=100, output_bytes=32 << 20, deadline_s=10.0, pids=32)
KEY = ec.generate_private_key(ec.SECP256R1())


def collector(name: str, /, *, deadline_s: float = 10.0, beside: bool = False, **params: Any) -> CollectorOrder:
    """An order for one of the test collectors."""
    module = f"tests.integration.agent.collectors.{name}"
    return CollectorOrder(name, module, params, replace(LIMITS, deadline_s=deadline_s), is_beside=beside)


def order(*collectors: CollectorOrder, request_id: str = "r1", **changes: Any) -> Order:
    """An order for a capture."""
    base = Order(
        request_id=request_id,
        operation_id="op",
        incident_id="INC",
        operator="ops",
        reason="a test",
        profile="test",
        host="web-1",
        agent_version="0",
        fence_token=1,
        started_at="2026-01-01T00:00:00.000000Z",
        clock_offset_ns=5,
        clock_round_trip_ns=7,
        journal_seq=3,
        journal_hash="ab",
        collectors=collectors,
        budget_bytes=256 << 20,
        agent_pid=os.getpid(),
        docker_socket="/nowhere/docker.sock",
        state="/nowhere/state",
    )
    return replace(base, **changes)


@dataclass
class Host:
    """What a capture needs of an agent."""

    spool: Spool
    runner: Runner

    def start(self, ordered: Order, *, deadline_s: float = 30.0) -> Running:
        """Start a capture."""
        return self.runner.start(ordered, self.spool.create(ordered), deadline_s=deadline_s)

    async def capture(self, *collectors: CollectorOrder, **changes: Any) -> "Evidence":
        """Run a capture to its end."""
        return await evidence(self.start(order(*collectors, **changes)))


@dataclass(frozen=True)
class Evidence:
    """A sealed capture, its signature verified."""

    manifest: Manifest
    folder: Folder
    news: tuple[News, ...]

    def run(self, name: str) -> CollectorRun:
        """How a collector ended."""
        (found,) = [c for c in self.manifest.collectors if c.name == name]
        return found

    def data(self, name: str) -> bytes:
        """The bytes of an artifact, as a fetch reads them."""
        (found,) = [a for a in self.manifest.artifacts if a.name == name]
        pieces = chunk_pieces(self.folder, [(name, 0, len(found.chunks))]) if found.chunks else []
        return b"".join(data for piece in pieces for data in read_piece(piece))


async def evidence(running: Running) -> Evidence:
    """Wait for the sealed capture and open it."""
    news = [n async for n in running.follow()]
    return opened(running.folder, tuple(news))


def opened(folder: Folder, news: tuple[News, ...] = ()) -> Evidence:
    """A sealed capture in a folder."""
    statement = envelope.unseal(folder.manifest.read_bytes(), PAYLOAD_TYPE, KEY.public_key())
    return Evidence(Manifest.parse(statement), folder, news)


@asynccontextmanager
async def host(state: Path) -> AsyncIterator[Host]:
    """A spool and a runner below a folder."""
    key = state / "host.key"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    spool = Spool(state / "spool", limit_bytes=1 << 30, reserve_bytes=0, aside_bytes=0)
    with ThreadPoolExecutor(2) as threads:
        async with asyncio.TaskGroup() as tasks:
            yield Host(spool, Runner(spool, key_path=key, threads=threads, tasks=tasks))


def progress(folder: Folder) -> list[Mapping[str, Any]]:
    """The worker's lines."""
    return [json.loads(line) for line in folder.progress.read_bytes().splitlines()]
