"""Joining for real: a controller's Enrollment server on loopback, an agent that joins, and everybody turned away."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from fireline_agent import enroll, keys
from fireline_agent.enroll import JoinError
from fireline_agent.keys import KeyFolder
from fireline_controller import enrollment, pki
from fireline_controller.config import Listen
from fireline_controller.control import Tokens
from fireline_controller.model import Line, PolicyError, Token
from fireline_controller.store import Store
from fireline_wire import tls
from fireline_wire.identity import CONTROLLER_DNS
from fireline_wire.status import from_error
from fireline_wire.token import JoinToken
from fireline_wire.v1 import enrollment_pb2, enrollment_pb2_grpc
from tests.fakes.fleet_keys import certified_agent, new_authority

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Office:
    """A controller's enrolment: its authority, its store, its clock and its port."""

    authority: pki.Authority
    store: Store
    now: datetime = NOW
    port: int = 0

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self.port}"

    async def token(self, host: str = "web-1", *, secret: str = "s" * 43, ttl: timedelta = timedelta(hours=1)) -> str:
        """A token that the store knows."""
        text, token = enrollment.make_token(
            host=host,
            labels={"role": "web"},
            created_by="alice",
            address=self.address,
            ca_sha256=self.authority.ca_sha256,
            secret=secret,
            now=self.now,
            ttl=ttl,
        )
        await self.store.run(lambda tx: tx.put_token(token))
        return text

    async def lines(self) -> list[Line]:
        """The journal."""
        return list(await self.store.read(lambda tx: tx.lines(1)))

    async def last_refusal(self) -> Line:
        """The journal's last line, which has to be a refusal."""
        line = (await self.lines())[-1]
        assert line.entry.kind == "enrollment.refused"
        return line


@asynccontextmanager
async def serving(office: Office, *, served: tls.Credentials | None = None) -> AsyncIterator[Office]:
    """The office with its server running."""
    service = enrollment.EnrollmentService(
        office.store,
        office.authority,
        clock=lambda: office.now,
        lifetime=timedelta(days=7),
        refusals=enrollment.RefusalBudget(per_minute=5),
    )
    shown = served or office.authority.controller
    server, office.port = enrollment.build_server(service, "127.0.0.1:0", lambda: shown)
    await server.start()
    try:
        yield office
    finally:
        await server.stop(0)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """A running office."""
    authority = new_authority(tmp_path / "authority", now=NOW)
    store = Store.open(f"sqlite:///{tmp_path}/store.sqlite", journal_key=authority.journal_key, anchor_path=None)
    try:
        async with serving(Office(authority, store)) as running:
            yield running
    finally:
        store.close()


async def join(text: str, tmp_path: Path, *, name: str = "agent", listen: str = "0.0.0.0:7700") -> enroll.Joined:
    """What `fireline-agent join` does."""
    return await enroll.join(
        text, folder=tmp_path / name / "keys", listen_address=listen, agent_version="0.1.0", machine_id="m1"
    )


async def test_a_host_joins_and_is_known(office: Office, tmp_path: Path) -> None:
    """The host's key folder opens; the controller knows its address, labels and certificate; it is journaled."""
    joined = await join(await office.token(), tmp_path)

    held = KeyFolder.open(joined.folder).held
    assert (joined.host, held.dns, joined.not_after) == ("web-1", "web-1.g1.agent.fireline", NOW + timedelta(days=7))
    host = await office.store.read(lambda tx: tx.host("web-1"))
    assert (host.address, host.labels, host.generation) == ("127.0.0.1:7700", {"role": "web"}, 1)
    assert host.certificate_serial == held.serial_hex
    certificate = await office.store.read(lambda tx: tx.certificate(held.serial_hex))
    assert certificate.identity == "spiffe://fireline/agent/web-1"
    line = (await office.lines())[-1]
    assert (line.entry.kind, line.entry.host) == ("enrollment.joined", "web-1")
    assert line.entry.data["machine_id"] == "m1"


async def test_a_joined_host_gets_the_deny_list(office: Office, tmp_path: Path) -> None:
    """Serials revoked before it joined are refused from its first start."""
    first = await join(await office.token(), tmp_path)
    serial = KeyFolder.open(first.folder).held.serial_hex
    await office.store.run(lambda tx: tx.revoke(serial, NOW))
    second = await join(await office.token("web-2", secret="t" * 43), tmp_path, name="second")

    version, denied = KeyFolder.open(second.folder).denied()
    assert version >= 1
    assert denied == {serial}


async def test_a_used_token_is_refused_and_journaled(office: Office, tmp_path: Path) -> None:
    """Also on another host."""
    text = await office.token()
    await join(text, tmp_path)

    with pytest.raises(JoinError, match="enrolment token for web-1 was used at") as caught:
        await join(text, tmp_path, name="other")
    assert caught.value.reason == "token_used"
    assert not (tmp_path / "other" / "keys").exists()
    assert (await office.last_refusal()).entry.data["reason"] == "token_used"


async def test_of_two_hosts_with_one_token_one_joins(office: Office, tmp_path: Path) -> None:
    """At the same time."""
    text = await office.token()
    results = await asyncio.gather(*(join(text, tmp_path, name=f"agent-{n}") for n in range(4)), return_exceptions=True)

    assert sum(isinstance(result, enroll.Joined) for result in results) == 1
    assert {r.reason for r in results if isinstance(r, JoinError)} == {"token_used"}


async def test_an_expired_token_is_refused_and_journaled(office: Office, tmp_path: Path) -> None:
    """By the controller's clock."""
    text = await office.token()
    office.now = NOW + timedelta(hours=2)

    with pytest.raises(JoinError, match="enrolment token for web-1 expired at") as caught:
        await join(text, tmp_path)
    assert caught.value.reason == "token_expired"
    assert (await office.last_refusal()).entry.data["reason"] == "token_expired"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secret": "x" * 43}, "was not made by this controller, or was altered"),
        ({"host": "db-1"}, "the token was made for web-1 and altered to say db-1"),
    ],
)
async def test_a_forged_token_is_refused_and_journaled(
    office: Office, tmp_path: Path, change: dict[str, str], why: str
) -> None:
    """Another secret, or another host's name with a good secret; and that does not spend the token."""
    text = await office.token()
    forged = replace(JoinToken.parse(text), **change).text

    with pytest.raises(JoinError, match=why) as caught:
        await join(forged, tmp_path)
    assert caught.value.reason == "token_forged"
    assert (await office.last_refusal()).entry.data["reason"] == "token_forged"
    await join(text, tmp_path)


async def test_a_token_that_is_none_is_refused_on_the_host(office: Office, tmp_path: Path) -> None:
    """Cut while it was copied, or something else altogether: nothing is dialled."""
    text = await office.token()
    for broken in ("hello", text[:-20], "fl1.", "fl1." + "!" * 20):
        with pytest.raises(JoinError, match=r"no enrolment token|cut or altered") as caught:
            await join(broken, tmp_path)
        assert caught.value.reason == "token_forged"
    assert not (tmp_path / "agent").exists(), "no folder is made for it"


async def test_a_name_that_is_taken_is_refused_until_it_is_removed(office: Office, tmp_path: Path) -> None:
    """Refused and journaled; once the former host is removed, the name is free and its generation grows."""
    await join(await office.token(), tmp_path)
    again = await office.token(secret="u" * 43)
    taken = (
        r"the name web-1 is taken by a host that enrolled on .*; to replace it: fireline host remove web-1 --reason …"
    )
    with pytest.raises(JoinError, match=taken) as caught:
        await join(again, tmp_path, name="again")
    assert caught.value.reason == "name_taken"
    assert (await office.last_refusal()).entry.data["reason"] == "name_taken"

    host = await office.store.read(lambda tx: tx.host("web-1"))
    await office.store.run(lambda tx: tx.put_host(replace(host, removed=True)))
    joined = await join(again, tmp_path, name="again")

    assert KeyFolder.open(joined.folder).held.dns == "web-1.g2.agent.fireline"


async def test_no_token_is_made_for_a_name_that_is_taken(office: Office, tmp_path: Path) -> None:
    """Said at once, not on the host: the same words, and a line in the journal under the operator's name."""
    await join(await office.token(), tmp_path)
    tokens = Tokens(office.store, office.authority, Listen(), lambda: office.now)

    async def made(name: str) -> Token:
        return (await tokens.create(name, ttl=timedelta(hours=1), labels={}, controller_address="", operator="bob"))[1]

    with pytest.raises(
        PolicyError, match=r"the name web-1 is taken .* fireline host remove web-1 --reason …"
    ) as caught:
        await made("web-1")

    assert caught.value.reason == "name_taken"
    entry = (await office.last_refusal()).entry
    assert (entry.actor, entry.host, entry.data) == ("bob", "web-1", {"reason": "name_taken", "told_by": "controller"})
    assert entry.summary.startswith("no token for web-1: the name web-1 is taken by a host that enrolled on ")
    host = await office.store.read(lambda tx: tx.host("web-1"))
    await office.store.run(lambda tx: tx.put_host(replace(host, removed=True)))
    assert (await made("web-1")).host == "web-1"


async def test_a_host_joins_once(office: Office, tmp_path: Path) -> None:
    """A second join says as whom, until when, and what to do; the token is not spent."""
    await join(await office.token(), tmp_path)
    other = await office.token("web-2", secret="v" * 43)

    with pytest.raises(JoinError, match=r"this host joined already, as web-1, with a certificate until .* remove /"):
        await join(other, tmp_path)
    await join(other, tmp_path, name="second")


async def test_a_wrong_authority_gets_no_token_and_journals_that(office: Office, tmp_path: Path) -> None:
    """The token pins another controller's authority: the host refuses, and the controller that it found is told."""
    other = new_authority(tmp_path / "other", now=NOW)
    text = replace(JoinToken.parse(await office.token()), ca_sha256=other.ca_sha256).text

    with pytest.raises(JoinError, match="is not the controller that made this token: the token pins") as caught:
        await join(text, tmp_path)
    assert caught.value.reason == "ca_mismatch"
    assert f"found {office.authority.ca_sha256[:16]}. The token was not sent and that controller was told" in str(
        caught.value
    )
    entry = (await office.last_refusal()).entry
    assert (entry.host, entry.data["reason"], entry.data["told_by"]) == ("web-1", "ca_mismatch", "host")
    assert (entry.data["pinned_ca_sha256"], entry.data["found_ca_sha256"]) == (
        other.ca_sha256,
        office.authority.ca_sha256,
    )
    await join(await office.token("web-1"), tmp_path)


async def test_the_controller_too_refuses_a_token_for_another_authority(office: Office, tmp_path: Path) -> None:
    """A caller that did not check: the controller names both authorities."""
    other = new_authority(tmp_path / "other", now=NOW)
    text = replace(JoinToken.parse(await office.token()), ca_sha256=other.ca_sha256).text

    refusal = await _call_join(office, enrollment_pb2.JoinRequest(token=text))
    assert refusal[0] == "ca_mismatch"
    assert refusal[1].endswith("it was made by another controller")
    assert (await office.last_refusal()).entry.data == {
        "reason": "ca_mismatch",
        "told_by": "controller",
        "peer": (await office.last_refusal()).entry.data["peer"],
        "left_out_before": 0,
    }


async def _call_join(office: Office, request: enrollment_pb2.JoinRequest) -> tuple[str, str]:
    async with grpc.aio.secure_channel(
        office.address,
        tls.joining_channel_credentials(office.authority.ca_pem),
        options=(("grpc.ssl_target_name_override", CONTROLLER_DNS),),
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await enrollment_pb2_grpc.EnrollmentStub(channel).Join(request)
    refusal = from_error(caught.value)
    assert refusal is not None
    return refusal.reason, refusal.message


@pytest.mark.parametrize(
    ("csr", "listen", "why"),
    [
        (b"nonsense", "0.0.0.0:7700", "the signing request is refused"),
        (None, "0.0.0.0:seven", "listen address '0.0.0.0:seven': wanted ADDRESS:PORT"),
        (None, "a b:7700", "listen address 'a b:7700': wanted ADDRESS:PORT"),
    ],
)
async def test_a_bad_request_is_refused_and_spends_nothing(
    office: Office, tmp_path: Path, csr: bytes | None, listen: str, why: str
) -> None:
    """Each with its reason, journaled; the token is still good."""
    text = await office.token()
    request = enrollment_pb2.JoinRequest(
        token=text, signing_request_pem=csr or keys.signing_request(keys.new_key()), listen_address=listen
    )

    reason, message = await _call_join(office, request)
    assert reason == "invalid_request"
    assert message.startswith(why)
    assert (await office.last_refusal()).entry.data["reason"] == "invalid_request"
    await join(text, tmp_path)


async def test_an_impostor_with_the_true_authoritys_certificate_gets_no_token(office: Office, tmp_path: Path) -> None:
    """An agent's key behind the controller's address, with the right authority in its chain: TLS turns it away."""
    stolen, _ = certified_agent(office.authority, "evil")
    async with serving(Office(office.authority, office.store), served=stolen) as impostor:
        with pytest.raises(JoinError, match="showed the right authority, but the call failed") as caught:
            await join(await impostor.token(), tmp_path)
    assert caught.value.reason == "tls"
    await join(await office.token(), tmp_path)


async def test_strangers_can_not_fill_the_journal(office: Office, tmp_path: Path) -> None:
    """Beyond the budget of a minute refusals are answered but left out, and the next line says how many."""
    forged = replace(JoinToken.parse(await office.token()), secret="x" * 43).text
    for _ in range(9):
        assert (await _call_join(office, enrollment_pb2.JoinRequest(token=forged)))[0] == "token_forged"
    assert len(await office.lines()) == 5

    office.now = NOW + timedelta(minutes=2)
    await _call_join(office, enrollment_pb2.JoinRequest(token=forged))
    assert (await office.last_refusal()).entry.data["left_out_before"] == 4


async def test_what_does_not_answer_is_told_apart(office: Office, tmp_path: Path) -> None:
    """A refused port, an unknown name and a server without TLS 1.3: each has its own reason."""
    token = JoinToken.parse(await office.token())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = f"127.0.0.1:{closed.getsockname()[1]}"
        assert await _reason(replace(token, address=refused), tmp_path) == "refused"
    assert await _reason(replace(token, address="no-such-host.invalid:7701"), tmp_path) == "name_unknown"
    plain = await asyncio.start_server(_say_hello, "127.0.0.1", 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        assert await _reason(replace(token, address=f"127.0.0.1:{port}"), tmp_path) == "tls"


async def _say_hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n")
    writer.close()


async def _reason(token: JoinToken, tmp_path: Path) -> str:
    with pytest.raises(JoinError) as caught:
        await join(token.text, tmp_path)
    return caught.value.reason
