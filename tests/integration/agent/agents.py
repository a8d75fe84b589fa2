"""Real agent processes on loopback, and a controller's calls to them over mutual TLS."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from fireline_agent.keys import KeyFolder
from fireline_controller import pki
from fireline_wire import envelope, transfer
from fireline_wire.identity import agent_dns
from fireline_wire.manifest import PAYLOAD_TYPE, Manifest
from fireline_wire.status import Refusal, from_error
from fireline_wire.tls import Credentials, channel_credentials
from fireline_wire.v1 import capture_pb2, capture_pb2_grpc, common_pb2, host_pb2, host_pb2_grpc
from tests.fakes.fleet_keys import certified_agent

HOST = "web-1"
_READY_S = 20.0
ROOT = Path(__file__).parents[3]


@dataclass
class Agent:
    """A state folder and the process that serves it. `settings` are written to agent.toml at each start."""

    folder: Path
    authority: pki.Authority
    settings: dict[str, Any] = field(default_factory=dict)
    policy: str = ""
    process: asyncio.subprocess.Process | None = None
    address: str = ""
    log: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def enrolled(cls, folder: Path) -> "Agent":
        """A host that joined a controller of its own."""
        authority = pki.create(folder / "authority", operator="alice", now=datetime.now(UTC))
        held, _ = certified_agent(authority, HOST)
        (folder / "state").mkdir(mode=0o700)
        KeyFolder.create(folder / "state/keys", key_pem=held.key_pem, chain_pem=held.chain_pem, ca_pem=held.ca_pem)
        return cls(folder, authority)

    async def start(self) -> None:
        """Start it and wait until it serves."""
        self._write_settings()
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.agent.launcher", "run", "--config", self.folder / "agent.toml"),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(_READY_S):
            serving = await self.logged("serving")
        self.address = serving["address"]

    async def logged(self, message: str) -> Mapping[str, Any]:
        """The next line of the log with this message."""
        assert self.process is not None
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(json.loads(line) if line.startswith(b"{") else {"message": line.decode()})
            if self.log[-1]["message"] == message:
                return self.log[-1]
        raise AssertionError(f"the agent ended without {message!r}: {self.log}")

    async def kill(self) -> None:
        """As a crash does."""
        await self.stop(signal.SIGKILL)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            # Not `send_signal`: that looks first whether the process has ended, and takes its status from asyncio.
            os.kill(self.process.pid, number)
        return await self.end()

    async def end(self) -> int:
        """Wait until the agent has ended by itself; returns the exit status."""
        assert self.process is not None
        _, rest = await self.process.communicate()
        self.log += [json.loads(line) for line in rest.splitlines() if line.startswith(b"{")]
        return await self.process.wait()

    @asynccontextmanager
    async def controller(self, credentials: Credentials | None = None) -> AsyncIterator["Controller"]:
        """A channel with the controller's certificate, or another's."""
        options = (("grpc.ssl_target_name_override", agent_dns(HOST, 1)),)
        made = channel_credentials(credentials or self.authority.controller)
        async with grpc.aio.secure_channel(self.address, made, options) as channel:
            yield Controller(channel, self)

    def _write_settings(self) -> None:
        settings = {
            "listen": "127.0.0.1:0",
            "state": str(self.folder / "state"),
            "policy": str(self.folder / "policy.toml"),
            "spool_reserve_bytes": 0,
            "spool_aside_bytes": 0,
            **self.settings,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        (self.folder / "agent.toml").write_text("\n".join(lines))
        (self.folder / "policy.toml").write_text(self.policy)


@asynccontextmanager
async def agent(folder: Path, *, policy: str = "", **settings: Any) -> AsyncIterator[Agent]:
    """An enrolled agent that serves while the block lasts."""
    made = Agent.enrolled(folder)
    made.policy, made.settings = policy, settings
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        for line in made.log:
            print(line)


@dataclass
class Controller:
    """Calls of a controller."""

    channel: grpc.aio.Channel
    agent: Agent

    @property
    def host(self) -> Any:  # the stubs know the synchronous form only
        """The Host service."""
        return host_pb2_grpc.HostStub(self.channel)

    @property
    def captures(self) -> Any:
        """The Capture service."""
        return capture_pb2_grpc.CaptureStub(self.channel)

    async def ping(self, request_id: str, *, fence_token: int = 0) -> host_pb2.PingReply:
        """A ping on a session of its own."""
        session = self.host.Session(timeout=10)
        request = host_pb2.PingRequest(context=context(request_id, fence_token=fence_token))
        await session.write(host_pb2.Ask(number=1, ping=request))
        answer: host_pb2.Answer = await session.read()
        session.cancel()
        return answer.ping

    async def run(
        self, request: capture_pb2.CaptureRequest, *, timeout_s: float = 30
    ) -> list[capture_pb2.CaptureEvent]:
        """A capture to its end."""
        return [event async for event in self.captures.Run(request, timeout=timeout_s)]

    async def fetch(self, capture: str, *, chunks: Sequence[tuple[str, int, int]] = (), offset: int = 0) -> list[bytes]:
        """The manifest, or ranges of chunks, message by message."""
        request = capture_pb2.FetchRequest(
            context=context("fetch"),
            capture_request_id=capture,
            manifest=not chunks,
            manifest_offset=offset,
            chunks=[capture_pb2.ChunkRange(artifact=a, first=f, count=c) for a, f, c in chunks],
        )
        call: Any = self.channel.unary_stream(
            transfer.METHOD, request_serializer=capture_pb2.FetchRequest.SerializeToString
        )
        return [message async for message in call(request, timeout=30)]

    async def manifest(self, capture: str) -> Manifest:
        """The fetched manifest, its signature verified."""
        key = KeyFolder.open(self.agent.folder / "state/keys").held.key.public_key()
        return Manifest.parse(envelope.unseal(b"".join(await self.fetch(capture)), PAYLOAD_TYPE, key))


def context(request_id: str, /, **changes: Any) -> common_pb2.CommandContext:
    """The context of a command."""
    return common_pb2.CommandContext(
        **{
            "request_id": request_id,
            "operation_id": "op",
            "incident_id": "INC",
            "operator": "alice",
            "reason": "a test",
            "fence_token": 1,
            **changes,
        }
    )


def request(request_id: str, /, *collectors: str, deadline_s: int = 20, **changes: Any) -> capture_pb2.CaptureRequest:
    """A capture of collectors, each `name` or `name {params}`."""
    split = [c.partition(" ") for c in collectors]
    return capture_pb2.CaptureRequest(
        context=context(request_id, **changes),
        profile="test",
        collectors=[
            capture_pb2.CollectorOrder(
                name=name,
                params_json=params,
                limits=capture_pb2.CollectorLimits(deadline=Duration(seconds=deadline_s)),
            )
            for name, _, params in split
        ],
    )


async def refusal(call: Any) -> Refusal:
    """The refusal that a call ends with."""
    try:
        await call if not hasattr(call, "__aiter__") else [one async for one in call]
    except grpc.aio.AioRpcError as error:
        found = from_error(error)
        assert found is not None, error.details()
        return found
    raise AssertionError("the call was not refused")


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def is_gone(pid: int) -> bool:
    """Whether the process ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
