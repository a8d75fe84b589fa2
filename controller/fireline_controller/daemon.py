"""Process life and wiring: the only room that constructs the others.

A controller serves Control over mutual TLS on a unix socket. The daemon does so at the state folder's socket, over TCP
where it is told to, and lets hosts join; a command without a daemon runs the same controller inside its own process.
"""

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop

from fireline_controller import enrollment, pki, presence, state
from fireline_controller.config import Recovery
from fireline_controller.control import ControlService, Tokens
from fireline_controller.engine import Engine, rules_of
from fireline_controller.hosts import Fleet, raise_descriptor_limit, tune_collector
from fireline_controller.model import ConfigError, Host
from fireline_controller.store import Store, StoredChunks
from fireline_controller.vault import Vault
from fireline_wire import guard, tls
from fireline_wire.identity import Role
from fireline_wire.v1 import control_pb2_grpc

log = logging.getLogger(__name__)

# A round of upkeep, or more often where certificates live so shortly that one would come too late.
_UPKEEP_EVERY_S: Final = 60.0
_ROUNDS_IN_A_LIFE: Final = 20
_LEFTOVERS_DAYS: Final = 7
# What a stopping daemon gives to calls under way.
_GRACE_S: Final = 10.0
# A longer path does not fit the kernel's sockaddr_un (unix(7)).
_SOCKET_PATH_BYTES: Final = 107


def _now() -> datetime:
    return datetime.now(UTC)


class Controller:
    """The rooms of one controller process, wired."""

    def __init__(self, opened: state.State, store: Store) -> None:
        raise_descriptor_limit()
        self.state = opened
        self.authority = opened.authority
        self.store = store
        self.vault = Vault(opened.folder / "vault", StoredChunks(store))
        self.fleet = Fleet(lambda: self.authority.controller, settings=opened.settings.fanout)
        self._denied = guard.DenyList()
        self.engine = Engine(
            store=store,
            vault=self.vault,
            fleet=self.fleet,
            authority=lambda: self.authority,
            settings=opened.settings,
            folder=opened.folder,
            now=_now,
            on_denied=self._denied.replace,
        )
        self.tokens = Tokens(store, opened.authority, opened.settings.listen, _now)

    async def serve_control(self, address: str) -> grpc.aio.Server:
        """Answer operators at a unix socket or a TCP address.

        Raises:
            RuntimeError: the address can't be bound.
        """
        await self.engine.operators.enforce_denied()
        server = grpc.aio.server(
            interceptors=[guard.RoleGuard({Role.OPERATOR}, self._denied)], options=[("grpc.so_reuseport", 0)]
        )
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(self.engine, self.tokens), server)
        server.add_secure_port(address, tls.server_credentials(lambda: self.authority.controller))
        await server.start()
        return server

    async def renew_own(self) -> None:
        """Renew the controller's own certificates where one is due; connections that stand go on."""
        renewed = await asyncio.to_thread(pki.renew, self.authority, _now())
        if renewed is not self.authority:
            self.authority = renewed
            log.info("own certificates renewed")
        for name in await self.engine.operators.renew_due():
            log.info("certificate of operator %s renewed", name)

    async def settle(self) -> None:
        """Put the operations on record that lost their process."""
        if settled := await self.engine.operations.settle_interrupted():
            log.warning("operations whose controller was stopped are settled: %s", ", ".join(settled))

    async def take_up(self) -> None:
        """Go on with the runs that lost their process."""
        if taken := await self.engine.runs.take_up_lost():
            log.warning("runs whose controller was stopped go on here: %s", ", ".join(taken))

    async def close(self) -> None:
        """Stop what runs, then close the rooms."""
        await self.engine.close()
        await self.fleet.close()
        self.vault.close()


class _Watches:
    """One watch for each host of the fleet; each ends by itself once its host is removed."""

    def __init__(self, watch: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
        self._watch = watch
        self._tasks = dict[tuple[str, int], asyncio.Task[None]]()

    def start(self, host: Host) -> None:
        """Watch a host, unless it is watched."""
        key = host.name, host.generation
        if key not in self._tasks or self._tasks[key].done():
            self._tasks[key] = asyncio.create_task(self._watch(host))

    def forget_ended(self) -> None:
        """Let go of what has ended."""
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}

    async def close(self) -> None:
        """End every watch."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


@asynccontextmanager
async def _controller(folder: Path) -> AsyncIterator[Controller]:
    opened = state.open_state(folder)
    store = opened.open_store()
    tune_collector()
    try:
        controller = Controller(opened, store)
        try:
            await controller.renew_own()
            await controller.settle()
            yield controller
        finally:
            await controller.close()
    finally:
        store.close()


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[str]:
    """Run a controller inside this process and tell where it answers.

    Raises:
        ConfigError: the state folder is not there, or its settings are wrong.
        StoreError: the state folder is half made or broken, or the store can't be opened.
    """
    async with _controller(folder) as controller:
        with tempfile.TemporaryDirectory(prefix="fireline-") as private:
            server = await controller.serve_control(f"unix:{private}/control.sock")
            try:
                yield f"unix:{private}/control.sock"
            finally:
                await server.stop(0)


def serve(folder: Path, *, observe: bool = False) -> int:
    """Run the daemon until SIGTERM or SIGINT; 0 after an orderly end. `observe`: the recovery only talks.

    Raises:
        ConfigError: the state folder is not there, or its settings are wrong.
        PolicyError: a daemon runs already.
        StoreError: the state folder is half made or broken, or the store can't be opened.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(folder, observe=observe))
    return 0


async def _serve(folder: Path, *, observe: bool) -> None:
    async with AsyncExitStack() as stack:
        state.open_state(folder)
        lock = stack.enter_context(presence.Lock(folder))
        lock.take()
        controller = await stack.enter_async_context(_controller(folder))
        await controller.engine.approvals.rules()  # a mistake in the policy is found now, not in an incident
        recovery = _recovery_settings(controller, observe=observe)
        address = _socket(folder)
        await _recover(controller)
        control = await controller.serve_control(address)
        stack.push_async_callback(control.stop, _GRACE_S)
        if remote := await _serve_remote(controller):
            stack.push_async_callback(remote.stop, _GRACE_S)
        watches = _Watches(controller.engine.upkeep.watch)
        stack.push_async_callback(watches.close)
        join = await _serve_enrollment(controller, on_join=watches.start)
        stack.push_async_callback(join.stop, _GRACE_S)
        listen = controller.state.settings.listen.enrollment
        lock.announce(address)
        await controller.take_up()
        log.info("ready: commands at %s, hosts join at %s", address, listen)
        await _until_stopped(controller, watches, recovery)


def _recovery_settings(controller: Controller, *, observe: bool) -> Recovery:
    """What is set, found right before anything is served.

    Raises:
        ConfigError: it is enabled and its rules are wrong.
    """
    settings = controller.state.settings.recovery
    if observe:
        settings = settings.model_copy(update={"enabled": True, "observe": True})
    if settings.enabled:
        rules_of(settings)
    return settings


async def _serve_remote(controller: Controller) -> grpc.aio.Server | None:
    """Answer operators on other machines, where `listen.control` says so."""
    address = controller.state.settings.listen.control
    if not address:
        return None
    try:
        server = await controller.serve_control(address)
    except RuntimeError:
        raise ConfigError(f"listen.control: can't listen at {address}: taken, or not of this machine") from None
    log.info("operators on other machines: at %s", address)
    return server


async def _serve_enrollment(controller: Controller, *, on_join: Callable[[Host], None]) -> grpc.aio.Server:
    opened = controller.state
    lifetime = timedelta(hours=opened.settings.certificates.agent_lifetime_h)
    service = enrollment.EnrollmentService(
        controller.store, opened.authority, clock=_now, lifetime=lifetime, on_join=on_join
    )
    address = opened.settings.listen.enrollment
    try:
        server, _ = enrollment.build_server(service, address, lambda: controller.authority.controller)
    except RuntimeError:
        raise ConfigError(f"listen.enrollment: can't listen at {address}: taken, or not of this machine") from None
    await server.start()
    return server


async def _recover(controller: Controller) -> None:
    """Put in order what a killed controller left."""
    found = await controller.vault.recover(expired_before=_now() - timedelta(days=_LEFTOVERS_DAYS))
    if found.adopted:
        log.warning("packs that were not indexed yet: %s", ", ".join(found.adopted))


async def _until_stopped(controller: Controller, watches: _Watches, recovery: Recovery) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    unasked = [asyncio.create_task(_keep_up(controller, watches))]
    if recovery.enabled:
        unasked.append(asyncio.create_task(controller.engine.recovering.run(recovery)))
    try:
        await stop.wait()
    finally:
        log.info("stopping")
        for task in unasked:
            task.cancel()
        await asyncio.gather(*unasked, return_exceptions=True)


async def _keep_up(controller: Controller, watches: _Watches) -> None:
    lifetime_s = controller.state.settings.certificates.agent_lifetime_h * 3600
    every_s = min(_UPKEEP_EVERY_S, lifetime_s / _ROUNDS_IN_A_LIFE)
    while True:
        try:
            await _upkeep_round(controller, watches)
        except Exception:  # a round that fails must not be the last one: certificates would run out
            log.exception("upkeep failed, the next round is in %g s", every_s)
        await asyncio.sleep(every_s)


async def _upkeep_round(controller: Controller, watches: _Watches) -> None:
    engine = controller.engine
    watches.forget_ended()
    for host in await engine.hosts.all():
        watches.start(host)
    await controller.renew_own()
    await controller.settle()
    await controller.take_up()
    await engine.operators.enforce_denied()
    for name in await engine.upkeep.renew_due():
        log.info("certificate of %s renewed", name)


def _socket(folder: Path) -> str:
    path = folder.resolve() / "control.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigError(f"{path}: too long for a unix socket: at most {_SOCKET_PATH_BYTES} bytes; move the folder")
    with suppress(FileNotFoundError):
        path.unlink()
    return f"unix:{path}"
