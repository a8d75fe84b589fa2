"""Refuse every call that is not over TLS 1.3, by a peer of the right role, with a certificate that is not revoked.

One guard stands before all that a server offers: services, raw handlers, health, methods that do not exist. What a
peer may do beyond its role (a host's own policy) is decided elsewhere.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias, cast

import grpc

from fireline_wire.identity import Identity, Role
from fireline_wire.leaf import read_leaf
from fireline_wire.status import Refusal, abort

log = logging.getLogger(__name__)

# Certificates kept parsed, by their PEM: parsing costs more than all the rest of the check.
_PARSED: Final = 4096

# Quoted: they are generic in the stubs only.
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Behaviour: TypeAlias = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Any]
_AuthContext = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a call, and the serial number of the certificate that says so."""

    identity: Identity
    serial_hex: str


@lru_cache(maxsize=_PARSED)
def peer_from_pem(certificate_pem: bytes) -> Peer:
    """Read the peer out of its certificate, which TLS has verified.

    Raises:
        ValueError: it carries no Fireline identity, or more than one.
    """
    leaf = read_leaf(certificate_pem)
    try:
        (uri,) = leaf.uris
        return Peer(Identity.parse(uri), leaf.serial_hex)
    except ValueError as error:
        raise ValueError(f"certificate {leaf.serial_hex} does not carry one Fireline identity: {error}") from None


def peer_of(context: _Context) -> Peer:
    """The peer of a guarded call.

    Raises:
        ValueError: the call is not over mutual TLS, or its certificate carries no Fireline identity.
    """
    return _peer(context.auth_context())


class DenyList:
    """The serial numbers to refuse, and the calls under way, so that a revoked peer is cut off at once.

    Belongs to one event loop; share one between all guards of a process.
    """

    def __init__(self, version: int = 0, serials: Collection[str] = ()) -> None:
        self._version = version
        self._serials = frozenset(serials)
        self._live: dict[str, set[asyncio.Task[Any]]] = {}

    @property
    def version(self) -> int:
        """The version in force."""
        return self._version

    @property
    def serials(self) -> frozenset[str]:
        """The serial numbers in force, lower-case hexadecimal without leading zeros."""
        return self._serials

    def __contains__(self, serial_hex: object) -> bool:
        return serial_hex in self._serials

    def replace(self, version: int, serials: Collection[str]) -> int:
        """Put a new list in force, unless its version is lower; cut the calls of peers on it and return how many."""
        if version < self._version:
            return 0
        self._version, self._serials = version, frozenset(serials)
        doomed = [task for serial in self._serials for task in self._live.get(serial, ())]
        for task in doomed:
            task.cancel("certificate revoked")
        return len(doomed)

    @contextmanager
    def under_way(self, serial_hex: str) -> Iterator[None]:
        """Keep the running task among the calls of this serial number while the block lasts."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a guarded call runs in a task")
        tasks = self._live.setdefault(serial_hex, set())
        tasks.add(task)
        try:
            yield
        finally:
            tasks.discard(task)
            if not tasks:
                self._live.pop(serial_hex, None)


class RoleGuard(grpc.aio.ServerInterceptor):
    """A server interceptor that lets only these roles in. It must stand first in the server's list."""

    def __init__(self, roles: Collection[Role], deny: DenyList) -> None:
        self._roles = frozenset(roles)
        self._deny = deny
        self._guarded: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Put the check before the handler, also where there is none: who may not ask does not learn what exists."""
        handler = await continuation(handler_call_details) or _UNKNOWN
        method = handler_call_details.method if handler is not _UNKNOWN else ""
        kept = self._guarded.get(method)
        if kept is None or kept[0] is not handler:
            kept = self._guarded[method] = (handler, self._guard(handler, method))
        return kept[1]

    def _guard(self, handler: _Handler, method: str) -> _Handler:
        behaviour = _behaviour(handler)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _writing(behaviour)
        elif not inspect.iscoroutinefunction(behaviour):
            raise TypeError(f"{method} is not served by an async function, so it can't be cut off")

        async def guarded(request: Any, context: _Context) -> Any:
            peer = await self._admit(context, method)
            try:
                with self._deny.under_way(peer.serial_hex):
                    return await behaviour(request, context)
            except asyncio.CancelledError:
                if peer.serial_hex not in self._deny:
                    raise
            # Without a status of its own the call would hang until its caller's deadline.
            return await abort(context, _revoked(peer))

        return _FORMS[handler.request_streaming, handler.response_streaming](
            guarded, handler.request_deserializer, handler.response_serializer
        )

    async def _admit(self, context: _Context, method: str) -> Peer:
        found = context.auth_context()
        try:
            peer = _peer(found)
        except ValueError as error:
            return await _refuse(context, method, "nobody", Refusal("role_refused", str(error)))
        if refusal := self._refusal(peer, found):
            return await _refuse(context, method, str(peer.identity), refusal)
        return peer

    def _refusal(self, peer: Peer, found: _AuthContext) -> Refusal | None:
        version = b"".join(found.get("ssl_tls_version", ()))
        if version != b"TLSv1.3":
            return Refusal("tls_version_refused", f"the connection is {version.decode()}, wanted TLSv1.3")
        if peer.serial_hex in self._deny:
            return _revoked(peer)
        if peer.identity.role not in self._roles:
            wanted = " or ".join(sorted(self._roles))
            return Refusal("role_refused", f"{peer.identity} called what only the role {wanted} may call")
        return None


def _peer(found: _AuthContext) -> Peer:
    for pem in found.get("x509_pem_cert", ()):
        return peer_from_pem(pem)
    raise ValueError("the call carries no certificate")


def _revoked(peer: Peer) -> Refusal:
    return Refusal("certificate_revoked", f"the certificate {peer.serial_hex} of {peer.identity} is revoked")


async def _refuse(context: _Context, method: str, peer: str, refusal: Refusal) -> NoReturn:
    log.warning(
        "call refused", extra={"peer": peer, "address": context.peer(), "method": method, "reason": refusal.reason}
    )
    await abort(context, refusal)


async def _no_such_method(_request: Any, context: _Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")


# Takes any request unread and answers, after the check, that there is nothing here.
_UNKNOWN: Final[_Handler] = grpc.stream_stream_rpc_method_handler(_no_such_method)

_FORMS: Final[Mapping[tuple[bool, bool], Callable[..., _Handler]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _behaviour(handler: _Handler) -> _Behaviour:
    forms = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    return cast(_Behaviour, next(form for form in forms if form is not None))


def _writing(behaviour: Callable[[Any, _Context], AsyncGenerator[Any, None]]) -> _Behaviour:
    """A generator of responses as a function that writes them: a cut can then reach it while it waits for the peer."""

    async def write_all(request: Any, context: _Context) -> None:
        await _open(context)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all


async def _open(context: _Context) -> None:
    """Send what goes before the first response. A cut waits for it: gRPC loses the status of a call cut right there."""
    opening = asyncio.ensure_future(context.send_initial_metadata(()))
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await opening
        raise
