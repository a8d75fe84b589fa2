"""Let hosts in: one-time tokens, the Enrollment service that spends them, and the journal of those turned away.

The only service that takes a peer without a certificate, so nothing that a caller says is trusted but the secret of
its token. Leaves to others: signing (pki) and who may make a token (control).
"""

import hashlib
import ipaddress
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc

from fireline_controller.model import Certificate, Entry, Host, NotFound, PolicyError, StoreError, Token
from fireline_controller.pki import Authority
from fireline_controller.store import Store
from fireline_controller.store.transaction import Transaction
from fireline_wire import tls
from fireline_wire.identity import Identity, Role, is_name
from fireline_wire.status import Refusal, abort
from fireline_wire.token import JoinToken
from fireline_wire.v1 import enrollment_pb2, enrollment_pb2_grpc

log = logging.getLogger(__name__)

# A stranger's request: more than any real one, too little to hurt.
_REQUEST_LIMIT_BYTES: Final = 64 << 10
_STREAMS_PER_CONNECTION: Final = 4
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def make_token(
    *,
    host: str,
    labels: Mapping[str, str],
    created_by: str,
    address: str,
    ca_sha256: str,
    secret: str,
    now: datetime,
    ttl: timedelta,
) -> tuple[str, Token]:
    """A token's text, to be shown once, and what the store keeps of it.

    `address` is where the host finds the Enrollment service; `secret` is fresh and random, 32 bytes or more.

    Raises:
        PolicyError: the host's name is not one, or the time to live is none.
    """
    if ttl <= timedelta(0):
        raise PolicyError(f"a token has to live for a while, not {ttl}", reason="invalid_request")
    try:
        text = JoinToken(host, address, ca_sha256, secret).text
    except ValueError as error:
        raise PolicyError(f"no token can be made: {error}", reason="invalid_request") from None
    return text, Token(_digest(secret), host, dict(labels), created_by, now + ttl)


@dataclass
class RefusalBudget:
    """How many refusals a minute become journal lines: strangers must not be able to fill the journal."""

    per_minute: int = 60
    _minute: int = field(default=-1, init=False)
    _spent: int = field(default=0, init=False)
    _left_out: int = field(default=0, init=False)

    def admit(self, now: datetime) -> int | None:
        """How many were left out before this one, which is to be journaled; None: leave this one out too."""
        minute = int(now.timestamp() // 60)
        if minute != self._minute:
            self._minute, self._spent = minute, 0
        if self._spent >= self.per_minute:
            self._left_out += 1
            return None
        self._spent += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


@dataclass(frozen=True)
class _Joined:
    """A host that was let in."""

    host: Host
    certificate: Certificate
    deny_version: int
    denied: frozenset[str]


class EnrollmentService(enrollment_pb2_grpc.EnrollmentServicer):
    """Spends tokens. Every call ends in a journal line, beyond the refusal budget in a log line.

    `on_join` is told of each host that was let in, once it is on record.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        *,
        clock: Callable[[], datetime],
        lifetime: timedelta,
        refusals: RefusalBudget | None = None,
        on_join: Callable[[Host], None] = lambda host: None,
    ) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._lifetime = lifetime
        self._refusals = refusals or RefusalBudget()
        self._on_join = on_join

    async def Join(  # noqa: N802 - the .proto's name
        self, request: enrollment_pb2.JoinRequest, context: _Context
    ) -> enrollment_pb2.JoinReply:
        """Let a host in, or say and journal why not."""
        now = self._clock()
        try:
            claimed = self._claimed(request.token)
        except PolicyError as error:
            return await self._refuse(context, error, now, host="")
        try:
            joined = await self._store.run(lambda tx: self._join(tx, claimed, request, context.peer(), now))
        except PolicyError as error:
            return await self._refuse(context, error, now, host=claimed.host)
        except Exception:
            fault = uuid.uuid4().hex[:12]
            log.exception("enrolment failed", extra={"fault": fault, "host": claimed.host})
        else:
            self._on_join(joined.host)
            return _reply(joined, self._authority)
        return await abort(context, Refusal("internal", f"the controller failed; its log says why at {fault}"))

    async def ReportRefusal(  # noqa: N802 - the .proto's name
        self, request: enrollment_pb2.RefusalReport, context: _Context
    ) -> enrollment_pb2.RefusalReceipt:
        """Journal that a host found another authority than its token pins. Nothing in it is trusted."""
        host = request.host if is_name(request.host) else ""
        data = {
            "reason": "ca_mismatch",
            "told_by": "host",
            "pinned_ca_sha256": _hash_or_nothing(request.pinned_ca_sha256),
            "found_ca_sha256": _hash_or_nothing(request.found_ca_sha256),
        }
        summary = f"host {host or 'unknown'} turned away: its token pins another authority than it found here"
        await self._journal(summary, self._clock(), host, context.peer(), data)
        return enrollment_pb2.RefusalReceipt()

    def _claimed(self, text: str) -> JoinToken:
        try:
            claimed = JoinToken.parse(text)
        except ValueError as error:
            raise PolicyError(str(error), reason="token_forged") from None
        if claimed.ca_sha256 != self._authority.ca_sha256:
            raise PolicyError(
                f"the token pins the authority {claimed.ca_sha256[:16]}, this controller's is"
                f" {self._authority.ca_sha256[:16]}: it was made by another controller",
                reason="ca_mismatch",
            )
        return claimed

    def _join(
        self, tx: Transaction, claimed: JoinToken, request: enrollment_pb2.JoinRequest, peer: str, now: datetime
    ) -> _Joined:
        token = tx.spend_token(_digest(claimed.secret), now)
        if token.host != claimed.host:
            raise PolicyError(
                f"the token was made for {token.host} and altered to say {claimed.host}", reason="token_forged"
            )
        certificate = self._authority.issue_agent(
            request.signing_request_pem,
            host=token.host,
            generation=next_generation(tx, token.host),
            now=now,
            lifetime=self._lifetime,
        )
        host = Host(
            name=token.host,
            address=reachable_address(request.listen_address, peer),
            labels=token.labels,
            generation=certificate.generation,
            enrolled_at=now,
            certificate_serial=certificate.serial,
            certificate_not_after=certificate.not_after,
        )
        tx.put_certificate(certificate)
        tx.put_host(host)
        tx.append(_joined_entry(host, token, request, peer))
        return _Joined(host, certificate, *tx.denied())

    async def _refuse(
        self, context: _Context, error: PolicyError, now: datetime, *, host: str
    ) -> enrollment_pb2.JoinReply:
        summary = f"host {host or 'unknown'} turned away: {error}"
        await self._journal(summary, now, host, context.peer(), {"reason": error.reason, "told_by": "controller"})
        return await abort(context, Refusal(error.reason, str(error)))

    async def _journal(self, summary: str, now: datetime, host: str, peer: str, data: Mapping[str, Any]) -> None:
        log.warning("enrolment refused", extra={"peer": peer, "cause": summary})
        left_out = self._refusals.admit(now)
        if left_out is None:
            return
        details = {**data, "peer": unquote(peer), "left_out_before": left_out}
        entry = Entry("enrollment.refused", "controller", now, summary, host=host, data=details)
        try:
            await self._store.run(lambda tx: tx.append(entry))
        except StoreError:
            log.exception("refusal could not be journaled")  # the host is turned away all the same


def build_server(
    service: EnrollmentService, address: str, credentials: Callable[[], tls.Credentials]
) -> tuple[grpc.aio.Server, int]:
    """A server, not started, for this service alone, and the port that it took.

    It asks for no client certificate, and follows the source of credentials as other servers do.

    Raises:
        RuntimeError: the address can't be bound.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _REQUEST_LIMIT_BYTES),
            ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
        )
    )
    enrollment_pb2_grpc.add_EnrollmentServicer_to_server(service, server)
    return server, server.add_secure_port(address, tls.enrollment_server_credentials(credentials))


def reachable_address(listen: str, peer: str) -> str:
    """Where the controller reaches an agent that listens there; the caller's own address for "any address".

    Raises:
        PolicyError: it is not ADDRESS:PORT.
    """
    address, colon, port = listen.rpartition(":")
    bare = address.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise PolicyError(f"listen address {listen[:80]!r}: wanted ADDRESS:PORT", reason="invalid_request")
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        if bare and not is_name(bare):
            raise PolicyError(
                f"listen address {listen[:80]!r}: wanted ADDRESS:PORT", reason="invalid_request"
            ) from None
        return f"{bare or _address_of(peer)}:{port}"
    if ip.is_unspecified:
        return f"{_address_of(peer)}:{port}"
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _address_of(peer: str) -> str:
    # gRPC writes "ipv4:192.0.2.1:4711" and "ipv6:%5B2001:db8::1%5D:4711".
    return unquote(peer).partition(":")[2].rpartition(":")[0]


def next_generation(tx: Transaction, name: str) -> int:
    """The number of the enrolment that a host of this name would have.

    Raises:
        PolicyError: a host of this name is in the fleet.
    """
    try:
        former = tx.host(name)
    except NotFound:
        return 1
    if not former.removed:
        raise PolicyError(
            f"the name {name} is taken by a host that enrolled on {former.enrolled_at:%Y-%m-%d %H:%M} UTC;"
            f" to replace it: fireline host remove {name} --reason …",
            reason="name_taken",
        )
    return former.generation + 1


def _joined_entry(host: Host, token: Token, request: enrollment_pb2.JoinRequest, peer: str) -> Entry:
    return Entry(
        "enrollment.joined",
        str(Identity(Role.AGENT, host.name)),
        host.enrolled_at,
        f"host {host.name} joined at {host.address}, generation {host.generation}",
        host=host.name,
        data={
            "token_by": token.created_by,
            "certificate_serial": host.certificate_serial,
            "machine_id": request.machine_id[:64],
            "agent_version": request.agent_version[:64],
            "peer": unquote(peer),
        },
    )


def _reply(joined: _Joined, authority: Authority) -> enrollment_pb2.JoinReply:
    reply = enrollment_pb2.JoinReply(
        host=joined.host.name,
        chain_pem=authority.chain_of(joined.certificate),
        deny_list_version=joined.deny_version,
        denied_serials_hex=sorted(joined.denied),
    )
    reply.not_after.FromDatetime(joined.certificate.not_after)
    return reply


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _hash_or_nothing(text: str) -> str:
    return text if _SHA256.match(text) else ""
