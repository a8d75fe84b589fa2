"""Lab hosts with agents of one authority, signed orders, and a controller's calls to them over mutual TLS."""

import base64
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fireline_agent.keys import KeyFolder
from fireline_controller import pki
from fireline_wire import envelope, transfer
from fireline_wire.identity import agent_dns
from fireline_wire.isolation import PAYLOAD_TYPE, IsolationOrder, Scope, code_sha256
from fireline_wire.manifest import Manifest
from fireline_wire.tls import channel_credentials
from fireline_wire.v1 import capture_pb2, capture_pb2_grpc, host_pb2_grpc, isolation_pb2, isolation_pb2_grpc
from tests.fakes.fleet_keys import certified_agent, new_authority
from tests.fleet import AGENT_CONFIG, BIN
from tests.integration.agent.agents import context
from tests.lab import Host, Lab, eventually

STATE = "/var/lib/fireline-agent"
PORT = 7700
CODE = "correct-horse"
CONTROLLER = "the controller"
_numbers = itertools.count(1)


@dataclass
class Ground:
    """A lab whose hosts' agents trust one authority. `authority` signs the orders."""

    lab: Lab
    authority: pki.Authority
    envelopes: dict[IsolationOrder, isolation_pb2.SignedOrder] = field(default_factory=dict)
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def order(self, host: Host, /, **changes: Any) -> IsolationOrder:
        """An order for a host, of the whole host unless told otherwise."""
        return IsolationOrder(
            **{
                "order_id": f"iso-{next(_numbers)}",
                "host": host.name,
                "scope": Scope("host"),
                "controllers": (self.lab.controller_address,),
                "lease_s": 30,
                "fence_token": next(self.tokens),
                "issued_at": datetime.now(UTC).isoformat(),
                "code_sha256": code_sha256(CODE),
                "operator": "alice",
                "incident_id": "INC",
                "reason": "a test",
                **changes,
            }
        )

    def signed(self, order: IsolationOrder) -> isolation_pb2.SignedOrder:
        """The order in its envelope, the same each time as with a real controller."""
        if order not in self.envelopes:
            held = self.authority.controller
            key: Any = load_pem_private_key(held.key_pem, password=None)
            sealed = envelope.seal(order.to_bytes(), PAYLOAD_TYPE, key)
            self.envelopes[order] = isolation_pb2.SignedOrder(envelope=sealed, chain_pem=held.chain_pem)
        return self.envelopes[order]

    @asynccontextmanager
    async def connected(self, host: Host) -> AsyncIterator["Controller"]:
        """A connection of its own to a host's agent."""
        options = (
            ("grpc.ssl_target_name_override", agent_dns(host.name, 1)),
            ("grpc.use_local_subchannel_pool", 1),  # else channels share a connection
        )
        made = channel_credentials(self.authority.controller)
        async with grpc.aio.secure_channel(f"{host.address}:{PORT}", made, options) as channel:
            yield Controller(self, channel)

    def start(self, host: Host) -> None:
        """Start a host's agent and wait until it serves."""
        before = host.agent_log().count('"message": "serving"')
        host.start_agent()
        self.await_serving(host, before + 1)

    def await_serving(self, host: Host, times: int) -> None:
        """Wait until the agent has said so many times that it serves."""

        def has_served() -> bool:
            assert host.agent is not None, host.agent_log()[-2000:]
            return host.agent_log().count('"message": "serving"') >= times

        eventually(has_served, within_s=30, what=f"the agent of {host.name} to serve")


@dataclass
class Controller:
    """Calls over one connection."""

    ground: Ground
    channel: grpc.aio.Channel

    @property
    def isolation(self) -> Any:  # the stubs know the synchronous form only
        """The Isolation service."""
        return isolation_pb2_grpc.IsolationStub(self.channel)

    @property
    def witness(self) -> Any:
        """The Witness service."""
        return isolation_pb2_grpc.WitnessStub(self.channel)

    @property
    def host(self) -> Any:
        """The Host service."""
        return host_pb2_grpc.HostStub(self.channel)

    async def capture(self, ordered: capture_pb2.CaptureRequest) -> dict[str, bytes]:
        """Run a capture; its artifacts by name."""
        calls: Any = capture_pb2_grpc.CaptureStub(self.channel)
        async for _ in calls.Run(ordered, timeout=30):
            pass
        sealed = json.loads(await self._fetched(ordered, manifest=True))
        manifest = Manifest.parse(base64.b64decode(sealed["payload"]))
        return {
            artifact.name: await self._fetched(
                ordered, chunks=[capture_pb2.ChunkRange(artifact=artifact.name, first=0, count=len(artifact.chunks))]
            )
            for artifact in manifest.artifacts
            if artifact.chunks
        }

    async def _fetched(self, ordered: capture_pb2.CaptureRequest, **wanted: Any) -> bytes:
        capture = ordered.context.request_id
        request = capture_pb2.FetchRequest(context=context("fetch"), capture_request_id=capture, **wanted)
        call: Any = self.channel.unary_stream(
            transfer.METHOD, request_serializer=capture_pb2.FetchRequest.SerializeToString
        )
        return b"".join([message async for message in call(request, timeout=30)])

    async def plan(self, order: IsolationOrder) -> isolation_pb2.IsolationPlan:
        """What an order would do."""
        request = isolation_pb2.PlanIsolationRequest(order=self.ground.signed(order))
        plan: isolation_pb2.IsolationPlan = await self.isolation.Plan(request, timeout=20)
        return plan

    async def arm(self, order: IsolationOrder, *, request_id: str = "") -> isolation_pb2.Armed:
        """Put an order in force under its lease."""
        request = isolation_pb2.ArmRequest(
            context=context(request_id or f"arm-{next(_numbers)}"), order=self.ground.signed(order)
        )
        armed: isolation_pb2.Armed = await self.isolation.Arm(request, timeout=20)
        return armed

    async def confirm(self, order: IsolationOrder, nonce: bytes) -> isolation_pb2.IsolationState:
        """Answer the nonce on this connection."""
        made = context(f"confirm-{next(_numbers)}")
        request = isolation_pb2.ConfirmRequest(context=made, order_id=order.order_id, nonce=nonce)
        state: isolation_pb2.IsolationState = await self.isolation.Confirm(request, timeout=20)
        return state

    async def commit(self, order: IsolationOrder) -> isolation_pb2.IsolationState:
        """End the lease."""
        made = context(f"commit-{next(_numbers)}")
        request = isolation_pb2.CommitRequest(context=made, order_id=order.order_id)
        state: isolation_pb2.IsolationState = await self.isolation.Commit(request, timeout=20)
        return state

    async def release(
        self, order_id: str = "", *, token: int | None = None, request_id: str = ""
    ) -> isolation_pb2.Released:
        """Let the host back."""
        made = context(
            request_id or f"release-{next(_numbers)}",
            fence_token=next(self.ground.tokens) if token is None else token,
        )
        request = isolation_pb2.ReleaseRequest(context=made, order_id=order_id)
        released: isolation_pb2.Released = await self.isolation.Release(request, timeout=20)
        return released

    async def amend(self, order: IsolationOrder) -> isolation_pb2.IsolationState:
        """Leave other addresses open."""
        made = context(f"amend-{next(_numbers)}")
        request = isolation_pb2.AmendRequest(context=made, order=self.ground.signed(order))
        state: isolation_pb2.IsolationState = await self.isolation.Amend(request, timeout=20)
        return state

    async def status(self) -> isolation_pb2.IsolationStatus:
        """What is in force."""
        status: isolation_pb2.IsolationStatus = await self.isolation.Status(
            isolation_pb2.IsolationStatusRequest(), timeout=20
        )
        return status

    async def isolate(self, order: IsolationOrder, host: Host) -> isolation_pb2.IsolationState:
        """All of it: arm, confirm on a connection of its own, commit."""
        armed = await self.arm(order)
        async with self.ground.connected(host) as again:
            await again.confirm(order, armed.nonce)
        return await self.commit(order)


@contextmanager
def ground(
    folder: Path, names: Sequence[str] = ("web-1",), *, engine: bool = False, **settings: Any
) -> Iterator[Ground]:
    """A lab with enrolled agents that serve; `settings` go into every agent.toml."""
    authority = new_authority(folder / "authority")
    with Lab(names, agent=_command, engine=engine) as lab:
        made = Ground(lab, authority)
        for host in lab:
            enrol(made, host, **settings)
            made.start(host)
        try:
            yield made
        finally:
            for host in lab:
                if host.is_up():
                    print(host.name, host.agent_log()[-4000:])


def enrol(made: Ground, host: Host, **settings: Any) -> None:
    """Give a host its keys and settings."""
    held, _ = certified_agent(made.authority, host.name)
    host.path(STATE).mkdir(mode=0o700, parents=True, exist_ok=True)
    KeyFolder.create(host.path(f"{STATE}/keys"), key_pem=held.key_pem, chain_pem=held.chain_pem, ca_pem=held.ca_pem)
    values = {"listen": f"0.0.0.0:{PORT}", "state": STATE, "spool_reserve_bytes": 0, "spool_aside_bytes": 0, **settings}
    host.write(AGENT_CONFIG, "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()).encode())


def ruleset(host: Host) -> str:
    """The host's rules without counters."""
    return host.run(["nft", "-s", "list", "ruleset"])


def changed(order: IsolationOrder, **changes: Any) -> IsolationOrder:
    """The order with other values."""
    return dataclasses.replace(order, **changes)


def _command(host: Host) -> Sequence[str]:
    return [str(BIN / "fireline-agent"), "run", "--config", host.place(AGENT_CONFIG)]
