"""Who gets in, with real handshakes: a guarded server on loopback, the right peer, and everybody who is not."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fireline_controller import pki
from fireline_controller.pki import signing
from fireline_wire import chain, guard, tls, transfer
from fireline_wire.identity import Identity, Role, agent_dns
from fireline_wire.status import from_error
from fireline_wire.tls import Credentials
from tests.fakes.fleet_keys import certified_agent, new_authority

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
PING, WAIT, WATCH, UPLOAD, FLOOD = (f"/test.Probe/{name}" for name in ("Ping", "Wait", "Watch", "Upload", "Flood"))
METHODS = [PING, WATCH, UPLOAD, FLOOD, transfer.METHOD, "/grpc.health.v1.Health/Check", "/no/such"]
NOBODY = Credentials(b"", b"", b"")


@dataclass
class Agent:
    """A guarded server as an agent runs one, with a handler of each form; `seen` is who got through to one."""

    authority: pki.Authority
    credentials: Credentials
    deny: guard.DenyList = field(default_factory=guard.DenyList)
    seen: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self.port}"

    def handlers(self) -> grpc.GenericRpcHandler:
        """One handler of each form, on raw bytes."""
        return grpc.method_handlers_generic_handler(
            "test.Probe",
            {
                "Ping": grpc.unary_unary_rpc_method_handler(self._ping),
                "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
                "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
                "Flood": grpc.stream_stream_rpc_method_handler(self._flood),
            },
        )

    async def _ping(self, request: bytes, context: Context) -> bytes:
        self._note(context)
        return request

    async def _wait(self, _: bytes, context: Context) -> bytes:
        self._note(context)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("wait")
        return b""

    async def _watch(self, _: bytes, context: Context) -> AsyncIterator[bytes]:
        self._note(context)
        try:
            yield b"watching"
            await asyncio.Event().wait()
        finally:
            self.ended.append("watch")

    async def _upload(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        self._note(context)
        return b"".join([request async for request in requests])

    async def _flood(self, _: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        self._note(context)
        try:
            while True:
                yield b"x" * transfer.CHUNK_BYTES
        finally:
            self.ended.append("flood")

    def _note(self, context: Any) -> None:
        self.seen.append(str(guard.peer_of(context).identity))


class RawTransfer(grpc.GenericRpcHandler):
    """A raw handler as evidence is served by: one method, no service."""

    def __init__(self, agent: Agent) -> None:
        self._handler: Any = grpc.unary_stream_rpc_method_handler(agent._watch)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the one method."""
        return self._handler if handler_call_details.method == transfer.METHOD else None


@asynccontextmanager
async def serving(
    agent: Agent,
    *,
    roles: frozenset[Role] = frozenset({Role.CONTROLLER}),
    source: Callable[[], Credentials] | None = None,
) -> AsyncIterator[Agent]:
    """The agent's server, running."""
    server = grpc.aio.server(interceptors=[guard.RoleGuard({Role.CONTROLLER}, agent.deny)])
    server.add_generic_rpc_handlers((agent.handlers(), RawTransfer(agent)))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    agent.port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(source or (lambda: agent.credentials)))
    await server.start()
    try:
        yield agent
    finally:
        await server.stop(0)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """A fresh authority."""
    return new_authority(tmp_path / "authority")


@pytest.fixture
async def agent(authority: pki.Authority) -> AsyncIterator[Agent]:
    """A running agent, web-1."""
    async with serving(Agent(authority, certified_agent(authority)[0])) as running:
        yield running


def dial(agent: Agent, credentials: Credentials, *, name: str = agent_dns("web-1", 1)) -> Any:
    """A channel of its own, that waits for the agent of this name."""
    pair = (credentials.key_pem, credentials.chain_pem) if credentials.key_pem else (None, None)
    return grpc.aio.secure_channel(
        agent.address,
        grpc.ssl_channel_credentials(credentials.ca_pem or agent.authority.ca_pem, *pair),
        options=(("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)),
    )


async def refused(channel: Any, method: str) -> grpc.aio.AioRpcError:
    """The error that a call of this method ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in channel.unary_stream(method)(b"", timeout=10):
            pass
    return caught.value


async def test_the_controller_gets_in_by_every_form(agent: Agent) -> None:
    """Unary, both streams, the raw handler and health; handlers know who called."""
    async with dial(agent, agent.authority.controller) as channel:
        assert await channel.unary_unary(PING)(b"hello") == b"hello"
        assert await channel.stream_unary(UPLOAD)(iter([b"a", b"b"])) == b"ab"
        for method in (WATCH, transfer.METHOD):
            call = channel.unary_stream(method)(b"")
            assert await call.read() == b"watching"
            call.cancel()
        checked = await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        checked = health_pb2.HealthCheckResponse.FromString(checked)

    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    assert set(agent.seen) == {"spiffe://fireline/controller/controller"}


async def test_strangers_fail_in_the_handshake(agent: Agent, tmp_path: Path) -> None:
    """Another authority's controller, no certificate, an expired one, an agent's: no handler runs, no word is said."""
    other = replace(new_authority(tmp_path / "other").controller, ca_pem=agent.authority.ca_pem)
    past = datetime.now(UTC) - timedelta(days=30)
    expired = misissued(agent.authority, Identity(Role.CONTROLLER, "controller"), now=past)
    fellow, _ = certified_agent(agent.authority, "web-2")

    for stranger in (other, NOBODY, expired, fellow):
        async with dial(agent, stranger) as channel:
            error = await refused(channel, PING)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert from_error(error) is None
    assert agent.seen == []


async def test_a_stranger_can_tell_refusal_from_death(agent: Agent, tmp_path: Path) -> None:
    """TLS with the agent comes about, then it hangs up before a byte of HTTP/2, which the right peer gets at once."""
    past = datetime.now(UTC) - timedelta(days=30)
    expired = misissued(agent.authority, Identity(Role.CONTROLLER, "controller"), now=past)
    other = new_authority(tmp_path / "other").controller

    assert len(await first_bytes(agent, agent.authority.controller, tmp_path)) > 0
    for stranger in (None, expired, other):
        assert await first_bytes(agent, stranger, tmp_path) == b""


async def first_bytes(agent: Agent, credentials: Credentials | None, tmp_path: Path) -> bytes:
    """What the agent says first, over TLS 1.3, to a client with this certificate."""
    context = client_context(agent, credentials, tmp_path)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", agent.port, ssl=context, server_hostname=agent_dns("web-1", 1)
    )
    try:
        return await asyncio.wait_for(reader.read(9), 5)
    finally:
        writer.transport.abort()


def client_context(agent: Agent, credentials: Credentials | None, tmp_path: Path) -> ssl.SSLContext:
    """A plain TLS client's context with this certificate."""
    context = ssl.create_default_context(cadata=agent.authority.ca_pem.decode())
    context.set_alpn_protocols(["h2"])
    if credentials is not None:
        pair = tmp_path / "pair.pem"
        pair.write_bytes(credentials.key_pem + credentials.chain_pem)
        context.load_cert_chain(pair)
    return context


def misissued(authority: pki.Authority, identity: Identity, *, now: datetime | None = None) -> Credentials:
    """A week's certificate that may be a TLS client and server, whatever the role: what no authority would issue."""
    key = signing.new_key()
    grant = signing.Grant(identity, (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))
    leaf = signing.sign(
        key.public_key(),
        grant,
        now=now or datetime.now(UTC),
        lifetime=timedelta(days=7),
        ca=chain.certificates(authority.ca_pem)[0],
        ca_key=authority._ca_key,
    )
    return Credentials(signing.key_pem(key), signing.pem_of(leaf) + authority.ca_pem, authority.ca_pem)


@pytest.mark.parametrize(
    "method", [PING, WATCH, UPLOAD, FLOOD, transfer.METHOD, "/grpc.health.v1.Health/Check", "/no/such"]
)
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AGENT])
async def test_another_role_is_refused_by_every_method(agent: Agent, method: str, role: Role) -> None:
    """Even with a certificate that TLS takes; also by health, by the raw handler and by what does not exist."""
    async with dial(agent, misissued(agent.authority, Identity(role, "mallory"))) as channel:
        refusal = from_error(await refused(channel, method))

    assert refusal is not None
    assert refusal.reason == "role_refused"
    assert refusal.message == f"spiffe://fireline/{role}/mallory called what only the role controller may call"
    assert agent.seen == []


async def test_the_operators_own_certificate_is_refused_by_an_agent(agent: Agent) -> None:
    """Operators go through the controller."""
    async with dial(agent, agent.authority.operator) as channel:
        refusal = from_error(await refused(channel, PING))

    assert refusal is not None
    assert refusal.reason == "role_refused"


async def test_an_agents_certificate_can_not_act_as_a_controller(authority: pki.Authority) -> None:
    """Neither as the server that operators and controllers trust, nor as a client of a server for controllers."""
    stolen, _ = certified_agent(authority, "web-2")
    async with serving(Agent(authority, stolen)) as impostor:
        async with dial(impostor, authority.operator, name="controller.fireline") as channel:
            error = await refused(channel, PING)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    async with serving(Agent(authority, authority.controller)) as control:
        async with dial(control, stolen, name="controller.fireline") as channel:
            error = await refused(channel, PING)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert control.seen == []


async def test_a_method_that_does_not_exist_says_so_to_the_right_role_only(agent: Agent) -> None:
    """UNIMPLEMENTED for the controller."""
    async with dial(agent, agent.authority.controller) as channel:
        error = await refused(channel, "/no/such")

    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "no such method")


@pytest.mark.parametrize(
    ("host", "generation", "age"),
    [("web-2", 1, 0), ("web-1", 2, 0), ("web-1", 1, 30)],
    ids=["name", "former", "expired"],
)
async def test_the_wrong_host_is_not_talked_to(authority: pki.Authority, host: str, generation: int, age: int) -> None:
    """Another name, another enrolment of the same name, or an expired certificate behind the right address."""
    issued_at = datetime.now(UTC) - timedelta(days=age)
    credentials, _ = certified_agent(authority, host, generation=generation, now=issued_at)
    async with serving(Agent(authority, credentials)) as wrong, dial(wrong, authority.controller) as channel:
        error = await refused(channel, PING)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert wrong.seen == []


async def test_tls_1_2_is_refused(agent: Agent, tmp_path: Path) -> None:
    """The controller's own certificate over TLS 1.2: the handshake ends, every call is refused with the version."""
    context = client_context(agent, agent.authority.controller, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", agent.port, ssl=context, server_hostname=agent_dns("web-1", 1)
    )
    try:
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.write(http2_request(PING, agent_dns("web-1", 1)))
        answer = b""
        async with asyncio.timeout(10):
            while b"wanted TLSv1.3" not in answer:
                answer += await reader.readexactly(1)
    finally:
        writer.transport.abort()

    assert b"the connection is TLSv1.2, wanted TLSv1.3" in answer
    assert agent.seen == []


def http2_request(method: str, authority_name: str) -> bytes:
    """A unary gRPC call on a new connection, by hand: preface, settings, headers, an empty message (RFC 9113)."""
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": method,
        ":authority": authority_name,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # RFC 7541, 6.2.2: literal without indexing, a new name, no Huffman.
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    frames = _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, b"\0" * 5)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


async def test_a_deny_list_cuts_live_calls_and_refuses_new_ones(agent: Agent) -> None:
    """A waiting call, an idle stream, a busy stream and one whose reader takes nothing: all end at once, as revoked."""
    revoked = misissued(agent.authority, Identity(Role.CONTROLLER, "old"))
    async with dial(agent, revoked) as cut, dial(agent, agent.authority.controller) as kept:
        waiting = cut.unary_unary(WAIT)(b"")
        idle, mute = cut.unary_stream(WATCH)(b""), cut.stream_stream(FLOOD)(iter([b""]))
        other = kept.unary_stream(WATCH)(b"")
        assert (await idle.read(), await other.read(), len(await mute.read())) == (b"watching", b"watching", 1 << 20)
        await eventually(lambda: len(agent.seen) == 4)

        assert agent.deny.replace(1, {serial_of(revoked)}) == 3

        await eventually(lambda: sorted(agent.ended) == ["flood", "wait", "watch"])
        for call in (waiting, idle, mute, cut.unary_unary(PING)(b"")):
            assert await asyncio.wait_for(reason(call), 5) == "certificate_revoked"
        assert await kept.unary_unary(PING)(b"still in") == b"still in"
        assert not other.done()
        other.cancel()


async def test_a_revoked_certificate_is_refused_on_a_new_connection(agent: Agent) -> None:
    """With the serial number in the message."""
    agent.deny.replace(1, {serial_of(agent.authority.controller)})
    async with dial(agent, agent.authority.controller) as channel:
        refusal = from_error(await refused(channel, PING))

    assert refusal is not None
    assert refusal.message.startswith(f"the certificate {serial_of(agent.authority.controller)} of spiffe://fireline")


async def test_an_older_deny_list_changes_nothing(agent: Agent) -> None:
    """Nor does it cut; the same version replaces."""
    serial = serial_of(agent.authority.controller)
    agent.deny.replace(5, {"ab"})
    async with dial(agent, agent.authority.controller) as channel:
        idle = channel.unary_stream(WATCH)(b"")
        await idle.read()
        assert agent.deny.replace(4, {serial}) == 0
        assert (agent.deny.version, agent.deny.serials) == (5, frozenset({"ab"}))
        assert agent.deny.replace(5, {serial}) == 1
        assert await reason(idle) == "certificate_revoked"


async def test_a_cut_right_after_the_first_response_says_why(agent: Agent) -> None:
    """Also while gRPC still notes that the response left: the call must not hang until its deadline."""
    serial = serial_of(agent.authority.controller)
    for round_ in range(60):
        agent.deny.replace(2 * round_ + 1, set())
        async with dial(agent, agent.authority.controller) as channel:
            idle = channel.unary_stream(WATCH)(b"", timeout=10)
            await idle.read()
            assert agent.deny.replace(2 * round_ + 2, {serial}) == 1
            assert await reason(idle) == "certificate_revoked"


async def test_a_caller_that_goes_away_is_no_cut(agent: Agent) -> None:
    """The handler ends, nothing of the call is kept, and the next call is served."""
    async with dial(agent, agent.authority.controller) as channel:
        idle = channel.unary_stream(WATCH)(b"")
        await idle.read()
        idle.cancel()
        await eventually(lambda: agent.ended == ["watch"])
        await channel.unary_unary(PING)(b"")

    assert agent.deny.replace(1, {serial_of(agent.authority.controller)}) == 0


async def test_a_renewed_certificate_is_served_to_new_connections(authority: pki.Authority) -> None:
    """Live ones go on; new ones see the new serial number; nothing is restarted."""
    in_use = [certified_agent(authority)[0]]
    served = Agent(authority, in_use[0])
    async with serving(served, source=lambda: in_use[0]) as agent, dial(agent, authority.controller) as old:
        await old.unary_unary(PING)(b"")
        before = await served_serial(agent)
        in_use[0], renewed = certified_agent(authority)
        assert await served_serial(agent) == renewed.serial != before
        assert await old.unary_unary(PING)(b"goes on") == b"goes on"


async def served_serial(agent: Agent) -> str:
    """The serial number of the certificate that a new connection is shown."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", agent.port))
    return chain.serial_hex(chain.certificates(pem.encode())[0])


def serial_of(credentials: Credentials) -> str:
    """The serial number of the leaf."""
    return chain.serial_hex(chain.certificates(credentials.chain_pem)[0])


async def reason(call: Any) -> str:
    """The reason that a call of any form ends with, its messages read and dropped."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            while await call.read() is not grpc.aio.EOF:
                pass
    refusal = from_error(caught.value)
    return refusal.reason if refusal else f"{caught.value.code()}"


async def eventually(fact: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait for a fact."""
    async with asyncio.timeout(within_s):
        while not fact():  # noqa: ASYNC110 - the fact comes about in code that knows no event
            await asyncio.sleep(0.01)
