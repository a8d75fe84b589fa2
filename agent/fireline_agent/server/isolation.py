"""The Isolation service: cut this host off, prove it, let it back; each step at most once."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.hands.facts import Facts
from fireline_agent.isolation.guardian import Guardian
from fireline_agent.isolation.model import Standing
from fireline_agent.policy import Policy
from fireline_agent.server import isolation_wire as wire
from fireline_agent.server.commands import Commands, checked, refuse_dry_run, require_short
from fireline_agent.server.edge import Context, Places, unary
from fireline_agent.server.events import Events
from fireline_wire.v1 import host_pb2, isolation_pb2, isolation_pb2_grpc

log = logging.getLogger(__name__)
T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message)

_MAX_ID: Final = 100


class IsolationService(isolation_pb2_grpc.IsolationServicer):
    """Isolations of one host. Its places and threads are its own: it never waits behind a capture (I9)."""

    def __init__(
        self,
        guardian: Guardian,
        *,
        policy: Policy,
        machine: Facts,
        commands: Commands,
        events: Events,
        threads: Executor,
        places: Places,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._guardian = guardian
        self._policy = policy
        self._machine = machine
        self._commands = commands
        self._events = events
        self._threads = threads
        self._places = places
        self._tasks = tasks

    @unary
    async def Plan(self, request: isolation_pb2.PlanIsolationRequest, _context: Context) -> isolation_pb2.IsolationPlan:
        """What isolating would do here."""
        self._policy.require_service("Isolation")
        with self._places.taken():
            planned = await self._call(self._guardian.plan, wire.signed(request.order))
            return wire.plan(planned, self._guardian.capability, self._machine.machine_id)

    @unary
    async def Arm(self, request: isolation_pb2.ArmRequest, context: Context) -> isolation_pb2.Armed:
        """Put the rules in force under a lease."""
        started_ns = time.monotonic_ns()

        async def act() -> bytes:
            signed, caller = wire.signed(request.order), wire.caller_of(context)
            armed = await self._call(lambda: self._guardian.arm(signed, caller, started_ns=started_ns))
            self._told(armed.standing, "armed")
            self._tasks.create_task(self._note_ruleset(armed.standing.order.order_id))
            return wire.armed(armed).SerializeToString()

        self._policy.require_service("Isolation")
        refuse_dry_run(request)
        with self._places.taken():
            return await self._once("Arm", request, act, isolation_pb2.Armed)

    @unary
    async def Confirm(self, request: isolation_pb2.ConfirmRequest, context: Context) -> isolation_pb2.IsolationState:
        """The controller is back on a new connection. Not remembered: a repeat finds it confirmed."""
        self._policy.require_service("Isolation")
        with self._places.taken():
            checked("Confirm", request)
            keeper, nonce = self._guardian.keeper, request.nonce
            standing = await self._call(keeper.confirm, request.order_id, nonce, wire.caller_of(context))
            return wire.state(standing)

    @unary
    async def Commit(self, request: isolation_pb2.CommitRequest, _context: Context) -> isolation_pb2.IsolationState:
        """End the lease."""

        async def act() -> bytes:
            standing = await self._call(self._guardian.keeper.commit, request.order_id)
            self._told(standing, "committed")
            return wire.state(standing).SerializeToString()

        self._policy.require_service("Isolation")
        refuse_dry_run(request)
        with self._places.taken():
            return await self._once("Commit", request, act, isolation_pb2.IsolationState)

    @unary
    async def Release(self, request: isolation_pb2.ReleaseRequest, _context: Context) -> isolation_pb2.Released:
        """Let the host back."""

        async def act() -> bytes:
            report = await self._call(self._guardian.release, request.order_id, request.context.fence_token)
            for order_id in report.order_ids:
                self._events.tell(host_pb2.HostEvent.KIND_ISOLATION_CHANGED, f"order {order_id}: released")
            return wire.released(report).SerializeToString()

        self._policy.require_service("Isolation")
        refuse_dry_run(request)
        require_short("order_id", request.order_id, _MAX_ID)
        with self._places.taken():
            return await self._once("Release", request, act, isolation_pb2.Released)

    @unary
    async def Amend(self, request: isolation_pb2.AmendRequest, context: Context) -> isolation_pb2.IsolationState:
        """Leave other addresses open."""

        async def act() -> bytes:
            standing = await self._call(
                self._guardian.keeper.amend, wire.signed(request.order), wire.caller_of(context)
            )
            self._told(standing, "amended")
            return wire.state(standing).SerializeToString()

        self._policy.require_service("Isolation")
        refuse_dry_run(request)
        with self._places.taken():
            return await self._once("Amend", request, act, isolation_pb2.IsolationState)

    @unary
    async def Status(
        self, _request: isolation_pb2.IsolationStatusRequest, _context: Context
    ) -> isolation_pb2.IsolationStatus:
        """What is in force, read from the kernel."""
        self._policy.require_service("Isolation")
        with self._places.taken():
            standing, untold = await self._call(self._guardian.keeper.status)
            lacks = await self._call(lambda: self._guardian.lacks)
            return isolation_pb2.IsolationStatus(
                isolations=[wire.state(one) for one in standing],
                capability=self._guardian.capability.line,
                lacks=(*lacks, *untold),
                ended=[wire.ended(one) for one in self._guardian.ended],
            )

    async def _once(self, kind: str, request: Any, act: Callable[[], Any], reply: type[Reply]) -> Reply:
        """Never the ledger's own fence: upkeep draws from the same counter, and an isolation has one of its own."""
        is_first = False

        async def acted() -> bytes:
            nonlocal is_first
            is_first = True
            done: bytes = await act()
            return done

        answer = reply.FromString(await self._commands.once(checked(kind, request), acted))
        fields: Any = answer  # a part of the replies says whether it is a repeat
        if not is_first and hasattr(fields, "replayed"):
            fields.replayed = True
        return answer

    async def _note_ruleset(self, order_id: str) -> None:
        """After the answer: the controller need not wait for a long list. Commit does it where this could not."""
        try:
            await self._call(self._guardian.note_ruleset, order_id)
        except (RefusedError, ConfigError, OSError) as error:
            log.warning("ruleset of before could not be kept", extra={"order_id": order_id, "why": str(error)})

    def _told(self, standing: Standing, what: str) -> None:
        detail = f"{standing.order.scope} (order {standing.order.order_id}): {what}"
        self._events.tell(host_pb2.HostEvent.KIND_ISOLATION_CHANGED, detail)

    async def _call(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
