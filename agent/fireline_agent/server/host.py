"""The Host service: what this host is, how its certificate and its deny-list are kept fresh, what happens on it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from fireline_agent import __version__
from fireline_agent.capture.spool import Spool
from fireline_agent.errors import RefusedError
from fireline_agent.hands.cgroup import Hierarchy
from fireline_agent.hands.facts import Facts
from fireline_agent.server.commands import Commands, checked, refuse_dry_run
from fireline_agent.server.edge import Context, Places, streaming, unary
from fireline_agent.server.events import Events, event, now
from fireline_agent.server.keyring import Keyring
from fireline_agent.server.sessions import Sessions
from fireline_wire.guard import DenyList
from fireline_wire.v1 import host_pb2, host_pb2_grpc

_MAX_SERIALS: Final = 100_000
_MAX_SERIAL_HEX: Final = 40  # RFC 5280, section 4.1.2.2: 20 octets


@dataclass(frozen=True)
class Described:
    """What does not change while the agent runs."""

    machine: Facts
    collectors: Sequence[str]
    actions: Sequence[str]
    hierarchy: Hierarchy
    # How far this host can be isolated, and what it lacks for more.
    isolation: str
    isolation_lacks: Sequence[str]


class HostService(host_pb2_grpc.HostServicer):
    """Answers for one host."""

    def __init__(
        self,
        described: Described,
        *,
        keys: Keyring,
        deny: DenyList,
        spool: Spool,
        commands: Commands,
        events: Events,
        places: Places,
        watchers: Places,
        sessions: Sessions,
    ) -> None:
        self._described = described
        self._keys = keys
        self._deny = deny
        self._spool = spool
        self._commands = commands
        self._events = events
        self._places = places
        self._watchers = watchers
        self._sessions = sessions

    @streaming
    async def Session(
        self, asks: AsyncIterator[host_pb2.Ask], _context: Context
    ) -> AsyncGenerator[host_pb2.Answer, None]:
        """Short commands, one after another, until the caller or the agent ends it."""
        async with aclosing(self._sessions.asks(asks)) as asked:
            async for ask in asked:
                if ask.WhichOneof("command") != "ping":
                    raise RefusedError("invalid_request", "command: wanted ping, found none that this agent knows")
                yield host_pb2.Answer(number=ask.number, ping=await self._ping(ask.ping))

    async def _ping(self, request: host_pb2.PingRequest) -> host_pb2.PingReply:
        """Nothing, by the way of every command."""
        received = now()
        with self._places.taken():
            command = checked("Ping", request)
            reply = host_pb2.PingReply(received_at=received, sent_at=now())
            if request.context.dry_run:
                return reply
            sent = reply.SerializeToString()
            first = await self._commands.settle(command, sent)
            if first is not sent:
                reply = host_pb2.PingReply.FromString(first)
                reply.replayed = True
            else:
                # The disk stood between: the clock is told as late as can be, or its offset would be off by half.
                reply.sent_at.CopyFrom(now())
            return reply

    @unary
    async def Describe(self, _request: host_pb2.DescribeRequest, _context: Context) -> host_pb2.HostDescription:
        """What the host is."""
        received = now()
        with self._places.taken():
            described, held = self._described, self._keys.held
            free = await self._commands.call(self._spool.free_bytes)
            return host_pb2.HostDescription(
                name=held.name,
                agent_version=__version__,
                boot_id=described.machine.boot_id,
                machine_id=described.machine.machine_id,
                kernel=described.machine.kernel,
                operating_system=described.machine.operating_system,
                received_at=received,
                certificate_not_after=_timestamp(held.not_after),
                collectors=described.collectors,
                actions=described.actions,
                lacks=(*described.hierarchy.lacks, *described.isolation_lacks),
                isolation=described.isolation,
                cgroup=described.hierarchy.kind,
                deny_list_version=self._deny.version,
                fence_token=self._commands.fence_token,
                spool_free_bytes=free,
                sent_at=now(),
            )

    @streaming
    async def Watch(
        self, _request: host_pb2.WatchRequest, _context: Context
    ) -> AsyncGenerator[host_pb2.HostEvent, None]:
        """Events until the agent stops."""
        with self._watchers.taken(), self._events.heard() as queue:
            yield event(host_pb2.HostEvent.KIND_WATCHING)
            while True:
                told = await queue.get()
                yield told
                if told.kind == host_pb2.HostEvent.KIND_DRAINING:
                    return

    @unary
    async def PrepareRenewal(
        self, request: host_pb2.PrepareRenewalRequest, _context: Context
    ) -> host_pb2.PrepareRenewalReply:
        """A signing request for a new key."""

        async def act() -> bytes:
            pem = await self._commands.call(self._keys.prepare_renewal)
            return host_pb2.PrepareRenewalReply(signing_request_pem=pem).SerializeToString()

        refuse_dry_run(request)
        with self._places.taken():
            command = checked("PrepareRenewal", request, is_fenced=True)
            return host_pb2.PrepareRenewalReply.FromString(await self._commands.once(command, act))

    @unary
    async def InstallCertificate(
        self, request: host_pb2.InstallCertificateRequest, _context: Context
    ) -> host_pb2.InstallCertificateReply:
        """The certificate for that key."""

        async def act() -> bytes:
            held = await self._commands.call(self._keys.install, request.chain_pem)
            self._events.tell(host_pb2.HostEvent.KIND_CERTIFICATE_RENEWED, f"serial {held.serial_hex}")
            return host_pb2.InstallCertificateReply(
                serial_hex=held.serial_hex, not_after=_timestamp(held.not_after)
            ).SerializeToString()

        refuse_dry_run(request)
        with self._places.taken():
            command = checked("InstallCertificate", request, is_fenced=True)
            return host_pb2.InstallCertificateReply.FromString(await self._commands.once(command, act))

    @unary
    async def SetDenyList(self, request: host_pb2.SetDenyListRequest, _context: Context) -> host_pb2.SetDenyListReply:
        """Whom to refuse from now on; durable, since a restart must not let the revoked in again."""

        async def act() -> bytes:
            cut = 0
            if request.version >= self._deny.version:
                version, serials = request.version, list(request.serials_hex)
                # Begun before the cut, which may hit this very call, and not awaited before it, since it takes a while.
                keeping = asyncio.ensure_future(self._commands.call(self._keys.keep_denied, version, serials))
                await asyncio.sleep(0)
                cut = self._deny.replace(version, serials)
                await asyncio.shield(keeping)
            return host_pb2.SetDenyListReply(version=self._deny.version, calls_cut=cut).SerializeToString()

        refuse_dry_run(request)
        _require_serials(request.serials_hex)
        with self._places.taken():
            command = checked("SetDenyList", request, is_fenced=True)
            return host_pb2.SetDenyListReply.FromString(await self._commands.once(command, act))


def _require_serials(serials: Sequence[str]) -> None:
    if len(serials) > _MAX_SERIALS:
        raise RefusedError("invalid_request", f"serials_hex: wanted at most {_MAX_SERIALS}, found {len(serials)}")
    for serial in serials:
        if not 0 < len(serial) <= _MAX_SERIAL_HEX or serial.strip("0123456789abcdef") or serial.startswith("0"):
            raise RefusedError(
                "invalid_request",
                f"serials_hex: wanted lower-case hexadecimal without leading zeros, found {serial[:80]!r}",
            )


def _timestamp(moment: Any) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
