"""Put the agent together, serve, and stop in order. Leaves to others: the process and its signals (main)."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from fireline_agent.capture.runner import Runner, Running
from fireline_agent.capture.spool import Spool
from fireline_agent.config import Config
from fireline_agent.errors import ConfigError, RefusedError
from fireline_agent.hands import cgroup, facts, memory
from fireline_agent.isolation.guardian import Guardian, open_guardian
from fireline_agent.isolation.upkeep import Kind, News
from fireline_agent.ledger import Ledger
from fireline_agent.policy import Policy
from fireline_agent.remediation.order import Means
from fireline_agent.remediation.records import Records
from fireline_agent.remediation.runner import Runner as ActionRunner
from fireline_agent.server.capture import CaptureService
from fireline_agent.server.commands import Commands
from fireline_agent.server.edge import Places
from fireline_agent.server.events import Events
from fireline_agent.server.host import Described, HostService
from fireline_agent.server.isolation import IsolationService
from fireline_agent.server.keyring import Keyring
from fireline_agent.server.orders import Terms
from fireline_agent.server.remediation import RemediationService
from fireline_agent.server.sessions import Sessions
from fireline_agent.server.transfer import Transfer
from fireline_agent.server.witness import WitnessService
from fireline_wire import action_index, tls
from fireline_wire.guard import DenyList, RoleGuard
from fireline_wire.identity import Role
from fireline_wire.transfer import CHANNEL_ARGUMENTS
from fireline_wire.v1 import capture_pb2_grpc, host_pb2, host_pb2_grpc, isolation_pb2_grpc, remediation_pb2_grpc

log = logging.getLogger(__name__)

_ARGUMENTS: Final = (
    ("grpc.so_reuseport", 0),  # a second agent on the port is an error, not a lottery
    # Without both, a controller's keep-alive on an idle channel is taken for abuse.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    *CHANNEL_ARGUMENTS,
)
_COMMAND_THREADS: Final = 4
_BULK_THREADS: Final = 4
_ISOLATION_THREADS: Final = 4
_ACTION_THREADS: Final = 2
_EXPIRY_S: Final = 3600.0
_ISOLATION_EVENTS: Final = {
    Kind.CHANGED: host_pb2.HostEvent.KIND_ISOLATION_CHANGED,
    Kind.DRIFT: host_pb2.HostEvent.KIND_ISOLATION_DRIFT,
    Kind.BROKEN: host_pb2.HostEvent.KIND_ISOLATION_BROKEN,
}
_CLOSING_S: Final = 2.0  # for calls in work after the drain; evidence that is cut off is resumed


@dataclass(frozen=True)
class Parts:
    """What the services of one agent share."""

    config: Config
    policy: Policy
    registry: Mapping[str, str]
    keys: Keyring
    ledger: Ledger
    deny: DenyList
    spool: Spool
    hierarchy: cgroup.Hierarchy
    # Threads for commands, for bytes, for isolation and for actions: none waits behind another (I9).
    control: Executor
    bulk: Executor
    isolating: Executor
    acting: Executor


async def serve(
    config: Config, *, registry: Mapping[str, str], stop: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    """Serve until told to stop, then drain.

    Args:
        config: the settings.
        registry: collector name -> module.
        stop: set it to end.
        on_ready: called with the address that is listened on.

    Raises:
        ConfigError: keys, policy or the address can't be used.
    """
    with ExitStack() as stack:
        parts = _open(config, registry, stack)
        events = Events()
        sessions = Sessions(Places("sessions", config.command_slots))
        async with asyncio.TaskGroup() as tasks:
            server, port = _bound(parts)
            guardian = await _guarded(parts, events, port)
            capture = _build(parts, server, guardian, events, sessions, tasks)
            await capture.recover(parts.ledger.unfinished())
            remediation = _add_remediation(parts, server, tasks)
            await remediation.recover(parts.ledger.unfinished())
            async with _listening(server, parts, port) as address:
                stack.enter_context(guardian.watching())
                memory.settle()
                on_ready(address)
                expiring = tasks.create_task(_expire(parts))
                await stop.wait()
                events.tell(host_pb2.HostEvent.KIND_DRAINING)
                await asyncio.gather(capture.drain(within_s=config.drain_s), remediation.drain(within_s=config.drain_s))
                sessions.close()
                expiring.cancel()


def _open(config: Config, registry: Mapping[str, str], stack: ExitStack) -> Parts:
    policy = Policy.read(config.policy)
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = Keyring.open(config.keys)
    ledger = Ledger.open(config.state / "ledger", limit=config.ledger_entries)
    stack.callback(ledger.close)
    hierarchy = cgroup.prepare(_group_name(config))
    stack.callback(hierarchy.group("").remove)
    return Parts(
        config=config,
        policy=policy,
        registry=registry,
        keys=keys,
        ledger=ledger,
        deny=DenyList(*keys.held.denied),
        spool=Spool(
            config.spool,
            limit_bytes=config.spool_limit_bytes,
            reserve_bytes=config.spool_reserve_bytes,
            aside_bytes=config.spool_aside_bytes,
        ),
        hierarchy=hierarchy,
        control=stack.enter_context(ThreadPoolExecutor(_COMMAND_THREADS, "command")),
        bulk=stack.enter_context(ThreadPoolExecutor(_BULK_THREADS, "bulk")),
        isolating=stack.enter_context(ThreadPoolExecutor(_ISOLATION_THREADS, "isolation")),
        acting=stack.enter_context(ThreadPoolExecutor(_ACTION_THREADS, "action")),
    )


def _group_name(config: Config) -> str:
    """The same after a restart, so that groups left behind are found; never that of another agent on this machine."""
    state = config.state.stat()
    return f"fireline-{state.st_dev:x}-{state.st_ino:x}"


async def _guarded(parts: Parts, events: Events, port: int) -> Guardian:
    """The isolations of this host as they should be: what is not in force is put back before anybody is let in."""
    loop = asyncio.get_running_loop()

    def heard(news: News) -> None:
        loop.call_soon_threadsafe(partial(events.tell, _ISOLATION_EVENTS[news.kind], news.detail, waits=True))

    guardian = await loop.run_in_executor(
        parts.isolating,
        partial(
            open_guardian,
            state=parts.config.state,
            keys=parts.config.keys,
            docker_socket=parts.config.docker_socket,
            port=port,
            tell=heard,
        ),
    )
    try:
        isolated = await loop.run_in_executor(parts.isolating, guardian.recover)
    except RefusedError as error:
        log.error("an isolation is not in force; it is tried again", extra={"why": error.message})
    else:
        if isolated:
            log.warning("this host is isolated", extra={"scopes": isolated})
    return guardian


def _build(
    parts: Parts,
    server: grpc.aio.Server,
    guardian: Guardian,
    events: Events,
    sessions: Sessions,
    tasks: asyncio.TaskGroup,
) -> CaptureService:
    config = parts.config
    commands = Commands(parts.ledger, parts.control)
    places = Places("commands", config.command_slots)
    runner = Runner(
        parts.spool,
        key_path=parts.keys.held.key_path,
        threads=parts.control,
        tasks=tasks,
        on_change=lambda running: _tell(events, running),
    )
    machine = facts.read()
    collectors = [name for name in sorted(parts.registry) if parts.policy.allows_collector(name)]
    capability = guardian.capability
    host = HostService(
        Described(machine, collectors, _actions(parts), parts.hierarchy, capability.line, capability.lacks),
        keys=parts.keys,
        deny=parts.deny,
        spool=parts.spool,
        commands=commands,
        events=events,
        places=places,
        watchers=Places("watching", config.command_slots),
        sessions=sessions,
    )
    capture = CaptureService(
        Terms(config, parts.policy, parts.registry, parts.hierarchy, os.getpid()),
        keys=parts.keys,
        spool=parts.spool,
        runner=runner,
        commands=commands,
        threads=parts.bulk,
        tasks=tasks,
        streams=Places("following captures", config.command_slots),
        places=places,
    )
    isolation = IsolationService(
        guardian,
        policy=parts.policy,
        machine=machine,
        # A line of its own to the ledger: no other command is waited for (I9).
        commands=Commands(parts.ledger, parts.isolating),
        events=events,
        threads=parts.isolating,
        places=Places("isolation", config.command_slots),
        tasks=tasks,
    )
    host_pb2_grpc.add_HostServicer_to_server(host, server)
    capture_pb2_grpc.add_CaptureServicer_to_server(capture, server)
    isolation_pb2_grpc.add_IsolationServicer_to_server(isolation, server)
    _add_rest(parts, server)
    return capture


def _actions(parts: Parts) -> list[str]:
    if "Remediation" not in parts.policy.services:
        return []
    known = action_index.read()
    return [name for name, indexed in known.items() if parts.policy.allows_action(name, indexed.risk)]


def _add_remediation(parts: Parts, server: grpc.aio.Server, tasks: asyncio.TaskGroup) -> RemediationService:
    config = parts.config
    records = Records(config.remediations)
    means = Means(
        state=str(config.state),
        records=str(records.folder),
        docker_socket=str(config.docker_socket),
        agent_pid=os.getpid(),
        memory_bytes=config.action_memory_bytes,
        cpu_percent=config.collector_cpu_percent,
        pids=config.collector_pids,
        readable=parts.policy.paths,
        writable=parts.policy.writable,
        forbidden=(str(config.state), str(config.policy)),
        hierarchy=parts.hierarchy,
    )
    service = RemediationService(
        ActionRunner(means, records, threads=parts.acting, tasks=tasks),
        records,
        config=config,
        policy=parts.policy,
        # A line of its own to the ledger: no other command is waited for (I9).
        commands=Commands(parts.ledger, parts.acting),
        threads=parts.acting,
        tasks=tasks,
    )
    remediation_pb2_grpc.add_RemediationServicer_to_server(service, server)
    return service


def _add_rest(parts: Parts, server: grpc.aio.Server) -> None:
    """What needs nothing of the others."""
    transfer = Transfer(
        policy=parts.policy,
        spool=parts.spool,
        threads=parts.bulk,
        places=Places("transfers", parts.config.transfer_slots),
        idle_s=parts.config.transfer_idle_s,
    )
    witness = WitnessService(policy=parts.policy, places=Places("looking", parts.config.command_slots))
    server.add_generic_rpc_handlers((transfer.handler(),))
    isolation_pb2_grpc.add_WitnessServicer_to_server(witness, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)


def _bound(parts: Parts) -> tuple[grpc.aio.Server, int]:
    """A server that has its port and does not answer yet."""
    server = grpc.aio.server(interceptors=[RoleGuard({Role.CONTROLLER}, parts.deny)], options=_ARGUMENTS)
    try:
        port = server.add_secure_port(parts.config.listen, tls.server_credentials(parts.keys.credentials))
    except RuntimeError:
        raise ConfigError(f"listen: {parts.config.listen} can't be listened on: taken, or not this host's") from None
    return server, port


@asynccontextmanager
async def _listening(server: grpc.aio.Server, parts: Parts, port: int) -> AsyncIterator[str]:
    host, _, _ = parts.config.listen.rpartition(":")
    await server.start()
    try:
        yield f"{host}:{port}"
    finally:
        await server.stop(_CLOSING_S)


def _tell(events: Events, running: Running) -> None:
    kind = host_pb2.HostEvent.KIND_CAPTURE_ENDED if running.is_over else host_pb2.HostEvent.KIND_CAPTURE_STARTED
    events.tell(kind, f"request {running.order.request_id}")


async def _expire(parts: Parts) -> None:
    """Delete captures that nobody came for."""
    while True:
        old = await asyncio.get_running_loop().run_in_executor(
            parts.bulk, lambda: parts.spool.expire(older_than_s=parts.config.spool_keep_s)
        )
        if old:
            log.warning("captures expired that nobody fetched", extra={"captures": old})
        await asyncio.get_running_loop().run_in_executor(
            parts.acting, lambda: Records(parts.config.remediations).expire(older_than_s=parts.config.action_keep_s)
        )
        await asyncio.sleep(_EXPIRY_S)
