"""Process life and wiring: the only room that constructs the others.

A controller serves Control over mutual TLS on a unix socket. The daemon does so at the state folder's socket and lets
hosts join over TCP; a command without a daemon runs the same controller inside its own process.
"""

import asyncio
import fcntl
import logging
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
import uvloop

from fireline_controller import enrollment, pki, state
from fireline_controller.control import ControlService, Tokens
from fireline_controller.engine import Engine
from fireline_controller.hosts import Fleet, raise_descriptor_limit
from fireline_controller.model import ConfigError, StoreError
from fireline_controller.store import Store
from fireline_controller.vault import Vault
from fireline_wire import guard, tls
from fireline_wire.identity import Role
from fireline_wire.v1 import control_pb2_grpc

log = logging.getLogger(__name__)

_UPKEEP_EVERY_S: Final = 60.0
_LEFTOVERS_DAYS: Final = 7
_STARTING_S: Final = 5.0
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
        self.store = store
        self.vault = Vault(opened.folder / "vault", store.chunks)
        self.fleet = Fleet(lambda: opened.authority.controller, settings=opened.settings.fanout)
        self.engine = Engine(
            store=store,
            vault=self.vault,
            fleet=self.fleet,
            authority=opened.authority,
            settings=opened.settings,
            folder=opened.folder,
            now=_now,
        )
        self.tokens = Tokens(store, opened.authority, opened.settings.listen, _now)

    async def serve_control(self, address: str) -> grpc.aio.Server:
        """Answer operators at a unix socket or a TCP address."""
        denied = await self.store.read(lambda tx: tx.denied())
        server = grpc.aio.server(interceptors=[guard.RoleGuard({Role.OPERATOR}, guard.DenyList(*denied))])
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(self.engine, self.tokens), server)
        server.add_secure_port(address, tls.server_credentials(lambda: self.state.authority.controller))
        await server.start()
        return server

    async def close(self) -> None:
        """Stop what runs, then close the rooms."""
        await self.engine.close()
        await self.fleet.close()
        self.vault.close()


@asynccontextmanager
async def _controller(folder: Path) -> AsyncIterator[Controller]:
    opened = state.open_state(folder)
    authority = pki.renew(opened.authority, _now())
    store = opened.open_store()
    try:
        controller = Controller(state.State(opened.folder, opened.settings, authority), store)
        try:
            yield controller
        finally:
            await controller.close()
    finally:
        store.close()


@asynccontextmanager
async def reach(folder: Path) -> AsyncIterator[tuple[str, tls.Credentials]]:
    """Where this state folder's controller answers, and with what to call it; made here when no daemon runs.

    Raises:
        ConfigError: the state folder is not there or half made.
        StoreError: the store can't be opened.
    """
    opened = state.open_state(folder)
    with _Lock(folder) as lock:
        address = lock.holder()
    if address:
        yield address, opened.authority.operator
        return
    async with _controller(folder) as controller:
        with tempfile.TemporaryDirectory(prefix="fireline-") as private:
            server = await controller.serve_control(f"unix:{private}/control.sock")
            try:
                yield f"unix:{private}/control.sock", controller.state.authority.operator
            finally:
                await server.stop(0)


def serve(folder: Path) -> int:
    """Run the daemon until SIGTERM or SIGINT; 0 after an orderly end.

    Raises:
        ConfigError: the state folder is not there or half made, an address is wrong, or a daemon runs already.
        StoreError: the store can't be opened.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(folder))
    return 0


async def _serve(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        lock = stack.enter_context(_Lock(folder))
        lock.take()
        controller = await stack.enter_async_context(_controller(folder))
        address = _socket(folder)
        await _recover(controller)
        control = await controller.serve_control(address)
        stack.push_async_callback(control.stop, _GRACE_S)
        join = await _serve_enrollment(controller)
        stack.push_async_callback(join.stop, _GRACE_S)
        listen = controller.state.settings.listen.enrollment
        lock.announce(address)
        log.info("ready: commands at %s, hosts join at %s", address, listen)
        await _until_stopped(controller)


async def _serve_enrollment(controller: Controller) -> grpc.aio.Server:
    opened = controller.state
    lifetime = timedelta(hours=opened.settings.certificates.agent_lifetime_h)
    service = enrollment.EnrollmentService(controller.store, opened.authority, clock=_now, lifetime=lifetime)
    address = opened.settings.listen.enrollment
    try:
        server, _ = enrollment.build_server(service, address, lambda: opened.authority.controller)
    except RuntimeError:
        raise ConfigError(f"listen.enrollment: can't listen at {address}: taken, or not of this machine") from None
    await server.start()
    return server


async def _recover(controller: Controller) -> None:
    """Put in order what a killed controller left."""
    interrupted = await controller.engine.settle_interrupted()
    found = await controller.vault.recover(expired_before=_now() - timedelta(days=_LEFTOVERS_DAYS))
    if interrupted:
        log.warning("operations were interrupted when the controller stopped: %s", ", ".join(interrupted))
    if found.adopted:
        log.warning("packs that were not indexed yet: %s", ", ".join(found.adopted))


async def _until_stopped(controller: Controller) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    upkeep = asyncio.create_task(_keep_up(controller))
    try:
        await stop.wait()
    finally:
        log.info("stopping")
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)


async def _keep_up(controller: Controller) -> None:
    engine, watching = controller.engine, dict[tuple[str, int], asyncio.Task[None]]()
    try:
        while True:
            hosts = {(h.name, h.generation): h for h in await engine.hosts.all()}
            for gone in watching.keys() - hosts.keys():
                watching.pop(gone).cancel()
            for new in hosts.keys() - watching.keys():
                watching[new] = asyncio.create_task(engine.upkeep.watch(hosts[new]))
            for name in await engine.upkeep.renew_due():
                log.info("certificate of %s renewed", name)
            await asyncio.sleep(_UPKEEP_EVERY_S)
    finally:
        for task in watching.values():
            task.cancel()
        await asyncio.gather(*watching.values(), return_exceptions=True)


def _socket(folder: Path) -> str:
    path = folder.resolve() / "control.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigError(f"{path}: too long for a unix socket: at most {_SOCKET_PATH_BYTES} bytes; move the folder")
    with suppress(FileNotFoundError):
        path.unlink()
    return f"unix:{path}"


class _Lock:
    """Who serves a state folder: a locked file with the address in it. The kernel drops the lock with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "daemon.lock"
        self._file = self._path.open("a+")

    def __enter__(self) -> "_Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def holder(self) -> str:
        """The address of the daemon that serves the folder, or nothing.

        Raises:
            StoreError: a daemon has the lock but does not say where it answers: it is starting or stuck.
        """
        deadline = time.monotonic() + _STARTING_S
        while not self._is_free():
            self._file.seek(0)
            if address := self._file.read():
                return address
            if time.monotonic() > deadline:
                raise StoreError(f"{self._path}: a daemon holds it but does not answer; look at its log")
            time.sleep(0.05)
        return ""

    def take(self) -> None:
        """Serve the folder from now on.

        Raises:
            ConfigError: another daemon does.
        """
        for _ in range(20):  # a command that looks who serves holds a shared lock for an instant
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            raise ConfigError(f"{self._path.parent}: a daemon serves it already; stop that one first")
        self._file.truncate(0)

    def announce(self, address: str) -> None:
        """Say where the daemon answers, once it does."""
        self._file.write(address)
        self._file.flush()

    def _is_free(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return True
