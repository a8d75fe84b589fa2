"""The way from a command to a controller: a remote one, the daemon of the state folder, or one in this process.

All three are the same Control service over mutual TLS with the operator's certificate; there is no second way in.
Turns what goes wrong into one line on stderr and an exit status.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Place:
    """Which controller a command talks to."""

    state: Path
    controller: str = ""

    @classmethod
    def of(cls, state: Path | None, controller: str = "") -> "Place":
        """The place that the options name, with the XDG default for the state folder."""
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return cls(state or base / "fireline", controller)


def fail(message: str, status: int) -> NoReturn:
    """Print one line to stderr and end."""
    sys.stderr.write(f"fireline: {message}\n")
    raise SystemExit(status)


def run(place: Place, work: "Callable[[ControlStub], Awaitable[int]]") -> NoReturn:
    """Run the work against the controller and exit with the status that it returns or that its error means."""
    import uvloop

    async def main() -> int:
        async with connect(place) as control:
            return await work(control)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            status = runner.run(_explained(main()))
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
    raise SystemExit(status)


async def _explained(work: Awaitable[int]) -> int:
    import grpc

    try:
        return await work
    except FirelineError as error:
        fail(str(error), _EXIT_BY_REASON.get(error.reason, CONTROLLER_FAILED))
    except grpc.aio.AioRpcError as error:
        from fireline_wire import status

        refusal = status.from_error(error)
        if refusal is None:
            fail(f"no answer from the controller: {error.details()}", CONTROLLER_FAILED)
        fail(refusal.message, _EXIT_BY_REASON.get(refusal.reason, CONTROLLER_FAILED))


@asynccontextmanager
async def connect(place: Place) -> "AsyncIterator[ControlStub]":
    """A stub of the Control service, for as long as the block lasts.

    Raises:
        ConfigError: the state folder is not there or half made.
        StoreError: the store can't be opened.
    """
    from fireline_controller import daemon

    if place.controller:
        async with _stub(place.controller, place.state) as control:
            yield control
        return
    socket = daemon.live_socket(place.state)
    if socket is not None:
        async with _stub(f"unix:{socket}", place.state) as control:
            yield control
        return
    async with daemon.embedded(place.state) as target, _stub(target, place.state) as control:
        yield control


@asynccontextmanager
async def _stub(target: str, state: Path) -> "AsyncIterator[ControlStub]":
    import grpc

    from fireline_controller import pki
    from fireline_wire import tls
    from fireline_wire.identity import CONTROLLER_DNS
    from fireline_wire.v1.control_pb2_grpc import ControlStub

    credentials = tls.channel_credentials(pki.operator_credentials(state / "keys"))
    arguments = [("grpc.ssl_target_name_override", CONTROLLER_DNS), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(target, credentials, options=arguments) as channel:
        yield ControlStub(channel)


def write_file(path: Path, part: bytes) -> None:
    """Append to a file that is being written, with the folder named when the disk is full."""
    try:
        with path.open("ab") as file:
            file.write(part)
    except OSError as error:
        raise StoreError(f"{path}: can't be written: {error.strerror}") from None
