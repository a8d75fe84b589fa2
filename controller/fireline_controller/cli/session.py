"""The way from a command to a controller: the daemon of the state folder, or one in this process.

Both are the same Control service over mutual TLS with the operator's certificate; there is no second way in.
Turns what goes wrong into one line on stderr and an exit status.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fireline_controller.model import FirelineError, StoreError

if TYPE_CHECKING:
    from fireline_wire.v1.control_pb2_grpc import ControlStub

OK, SOME_NOT_OK, USAGE, NOTHING_MATCHED, REFUSED, CONTROLLER_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_EXIT_BY_REASON = {
    "invalid_request": USAGE,
    "not_found": NOTHING_MATCHED,
    "empty_target": NOTHING_MATCHED,
    "unconfirmed_target": REFUSED,
    "policy_denied": REFUSED,
    "role_refused": REFUSED,
    "certificate_revoked": REFUSED,
    "tls_version_refused": REFUSED,
    "name_taken": REFUSED,
    "tampered": SOME_NOT_OK,
}


def folder(state: Path | None) -> Path:
    """The state folder that the options name, or the XDG default."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state or base / "fireline"


def status_of(reason: str) -> int:
    """The exit status that an error's reason means."""
    return _EXIT_BY_REASON.get(reason, CONTROLLER_FAILED)


def fail(message: str, status: int) -> NoReturn:
    """Print one line to stderr and end."""
    sys.stderr.write(f"fireline: {message}\n")
    raise SystemExit(status)


def run(state: Path, work: "Callable[[ControlStub], Awaitable[int]]") -> NoReturn:
    """Run the work against the controller and exit with the status that it returns or that its error means."""
    # gRPC writes to stderr by itself, between the lines that a person reads.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import uvloop

    async def main() -> int:
        async with connect(state) as control:
            return await work(control)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            status = runner.run(_explained(main()))
        except KeyboardInterrupt as error:
            fail(": ".join(["interrupted", *map(str, error.args)]), INTERRUPTED)
    raise SystemExit(status)


async def _explained(work: Awaitable[int]) -> int:
    import grpc

    try:
        return await work
    except FirelineError as error:
        fail(str(error), status_of(error.reason))
    except grpc.aio.AioRpcError as error:
        from fireline_wire import status

        refusal = status.from_error(error)
        if refusal is None:
            fail(f"no answer from the controller: {error.details()}", CONTROLLER_FAILED)
        fail(refusal.message, status_of(refusal.reason))


@asynccontextmanager
async def connect(state: Path) -> "AsyncIterator[ControlStub]":
    """A stub of the Control service, for as long as the block lasts.

    Raises:
        ConfigError: the state folder is not there, or its settings are wrong.
        StoreError: the state folder is half made or broken, or the store can't be opened.
    """
    from fireline_controller import presence

    address = presence.address_of_daemon(state)
    if address:
        async with _stub(address, state) as control:
            yield control
        return
    from fireline_controller import daemon

    async with daemon.embedded(state) as own, _stub(own, state) as control:
        yield control


@asynccontextmanager
async def _stub(address: str, state: Path) -> "AsyncIterator[ControlStub]":
    import grpc

    from fireline_wire import tls
    from fireline_wire.identity import CONTROLLER_DNS
    from fireline_wire.v1.control_pb2_grpc import ControlStub

    try:
        key, chain, ca = ((state / "keys" / name).read_bytes() for name in ("operator.key", "operator.pem", "ca.pem"))
    except OSError as error:
        raise StoreError(f"{error.filename}: can't be read: {error.strerror}") from None
    arguments = [("grpc.ssl_target_name_override", CONTROLLER_DNS), ("grpc.enable_http_proxy", 0)]
    credentials = tls.channel_credentials(tls.Credentials(key, chain, ca))
    async with grpc.aio.secure_channel(address, credentials, options=arguments) as channel:
        yield ControlStub(channel)
