"""Join a fleet: prove the controller by the token's pin, then spend the token for a certificate.

The secret leaves this host only over TLS that was verified against the pinned authority. After this the agent never
dials out: the controller comes to it. Leaves to others: the key folder itself (keys).
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fireline_agent import keys
from fireline_agent.errors import ConfigError
from fireline_agent.keys import KeyFolder
from fireline_wire import chain, tls
from fireline_wire.identity import CONTROLLER_DNS, Identity, Role
from fireline_wire.status import from_error
from fireline_wire.token import JoinToken
from fireline_wire.v1 import enrollment_pb2, enrollment_pb2_grpc

# For the look at the controller's certificate, and for the call that spends the token; one after the other.
_LOOK_S: Final = 10.0
_CALL_S: Final = 20.0

# Somebody decided that this host shall not join like this; another try needs another token, name or controller.
_REFUSALS: Final = frozenset({"token_used", "token_expired", "token_forged", "ca_mismatch", "name_taken"})

_Stub = enrollment_pb2_grpc.EnrollmentStub


class JoinError(Exception):
    """This host did not join. `reason` is an ErrorReason in lower case, or refused, no_answer, name_unknown, tls."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def is_refusal(self) -> bool:
        """Whether the host was turned away; otherwise something failed, and the same may work later."""
        return self.reason in _REFUSALS


@dataclass(frozen=True)
class Joined:
    """What this host became."""

    host: str
    not_after: datetime
    folder: Path


async def join(text: str, *, folder: Path, listen_address: str, agent_version: str, machine_id: str) -> Joined:
    """Spend a token; the key folder appears when all is well, and only then.

    `listen_address` is where the controller shall reach the agent; an empty or any-address host means the address
    that this call comes from.

    Raises:
        JoinError: the host did not join; the message says why and what to do.
        OSError: the key folder can't be written.
    """
    _require_new(folder)
    token = _parse(text)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # before the token is spent, in case that it fails
    ca_pem = await _pinned_authority(token)
    key = keys.new_key()
    request = enrollment_pb2.JoinRequest(
        token=token.text,
        signing_request_pem=keys.signing_request(key),
        listen_address=listen_address,
        machine_id=machine_id,
        agent_version=agent_version,
    )
    reply = await _spend(token, ca_pem, request)
    return _keep(token, reply, ca_pem, keys.key_to_pem(key), folder)


def _require_new(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        held = KeyFolder.open(folder).held
        found = f"as {held.identity.name}, with a certificate until {held.not_after:%Y-%m-%d %H:%M} UTC"
    except ConfigError as error:
        found = f"and its keys are broken: {error}"
    raise JoinError("name_taken", f"this host joined already, {found}; to join anew, remove {folder} first")


def _parse(text: str) -> JoinToken:
    try:
        return JoinToken.parse(text)
    except ValueError as error:
        raise JoinError("token_forged", str(error)) from None


async def _pinned_authority(token: JoinToken) -> bytes:
    """The authority that the token pins, as the controller serves it, PEM."""
    served = await _served_chain(token)
    for certificate in served:
        if chain.fingerprint(certificate) == token.ca_sha256:
            return certificate.public_bytes(Encoding.PEM)
    found = chain.fingerprint(served[-1])
    told = await _report(token, served[-1])
    raise JoinError(
        "ca_mismatch",
        f"{token.address} is not the controller that made this token: the token pins the authority"
        f" {token.ca_sha256[:16]}, found {found[:16]}. The token was not sent"
        f"{' and that controller was told' if told else ''}; make a token there, or look who answers at that address",
    )


async def _served_chain(token: JoinToken) -> list[x509.Certificate]:
    """The certificates that are served at the token's address, leaf first, unverified; nothing is sent there."""
    host, _, port = token.address.rpartition(":")
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=_looking(), server_hostname=CONTROLLER_DNS
            )
    except (OSError, ValueError) as error:  # TimeoutError and ssl.SSLError are OSErrors
        raise _unreachable(token.address, error) from None
    try:
        return _unverified_chain(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()


def _looking() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to read the chain, which is then compared with the pin
    context.set_alpn_protocols(["h2"])
    return context


def _unverified_chain(connection: ssl.SSLObject) -> list[x509.Certificate]:
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13
        return [x509.load_der_x509_certificate(der) for der in connection.get_unverified_chain()]
    # Before, the same method is to be had on the object beneath only, and yields objects of its own kind.
    beneath: Any = connection._sslobj  # type: ignore[attr-defined] # private, and the only way to the chain
    return chain.certificates("".join(c.public_bytes() for c in beneath.get_unverified_chain()).encode())


async def _report(token: JoinToken, found: x509.Certificate) -> bool:
    """Tell the controller that was found, so that its journal knows; it may be an impostor and need not listen."""
    report = enrollment_pb2.RefusalReport(
        host=token.host, pinned_ca_sha256=token.ca_sha256, found_ca_sha256=chain.fingerprint(found)
    )
    with suppress(grpc.aio.AioRpcError):
        async with _channel(token.address, found.public_bytes(Encoding.PEM)) as channel:
            await _Stub(channel).ReportRefusal(report, timeout=_LOOK_S)
        return True
    return False


async def _spend(token: JoinToken, ca_pem: bytes, request: enrollment_pb2.JoinRequest) -> enrollment_pb2.JoinReply:
    try:
        async with _channel(token.address, ca_pem) as channel:
            return await _Stub(channel).Join(request, timeout=_CALL_S)
    except grpc.aio.AioRpcError as error:
        refusal = from_error(error)
        if refusal is not None:
            raise JoinError(refusal.reason, refusal.message) from None
        raise JoinError(
            "tls" if error.code() is grpc.StatusCode.UNAVAILABLE else "no_answer",
            f"{token.address} showed the right authority, but the call failed ({error.code().name.lower()}): its"
            f" certificate is not a controller's, or it stopped; if it journaled the token as spent, make a new one",
        ) from None


def _channel(address: str, ca_pem: bytes) -> grpc.aio.Channel:
    options = (
        ("grpc.ssl_target_name_override", CONTROLLER_DNS),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    )
    return grpc.aio.secure_channel(address, tls.joining_channel_credentials(ca_pem), options=options)


def _keep(token: JoinToken, reply: enrollment_pb2.JoinReply, ca_pem: bytes, key_pem: bytes, folder: Path) -> Joined:
    try:
        identity = chain.identity_of(chain.certificates(reply.chain_pem)[0])
        if identity != Identity(Role.AGENT, token.host):
            raise JoinError("internal", f"the controller certified {identity}, wanted {token.host}")
        kept = KeyFolder.create(folder, key_pem=key_pem, chain_pem=reply.chain_pem, ca_pem=ca_pem)
    except (chain.ChainError, ConfigError) as error:
        raise JoinError("internal", f"the controller's answer can't be used: {error}") from None
    kept.keep_denied(reply.deny_list_version, reply.denied_serials_hex)
    return Joined(token.host, kept.held.not_after, folder)


def _unreachable(address: str, error: Exception) -> JoinError:
    match error:
        case ConnectionRefusedError():
            return JoinError("refused", f"{address} refused the connection: is `fireline serve` running there?")
        case TimeoutError():
            return JoinError(
                "no_answer", f"{address} did not answer within {_LOOK_S:.0f} s: is it cut off by a firewall?"
            )
        case socket.gaierror():
            return JoinError("name_unknown", f"{address}: the name is not known: {error.strerror}")
        case ssl.SSLError() | ConnectionError():
            return JoinError("tls", f"{address} does not speak TLS 1.3, so it is no Fireline controller")
    return JoinError("no_answer", f"{address} can't be reached: {error}")
