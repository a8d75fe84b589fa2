"""The way from a command to a controller: the daemon of the state folder, one in this process, or one elsewhere.

All are the same Control service over mutual TLS with an operator's certificate; there is no second way in. Whose, and
which controller, is in the environment, where the options before the command put it too. Turns what goes wrong into
one line on stderr and an exit status.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from fireline_controller.model import ConfigError, FirelineError, PolicyError, StoreError

if TYPE_CHECKING:
    import grpc

    from fireline_wire.tls import Credentials
    from fireline_wire.v1.control_pb2_grpc import ControlStub

OPERATOR: Final = "FIRELINE_OPERATOR"
CONTROLLER: Final = "FIRELINE_CONTROLLER"
KEYS: Final = "FIRELINE_KEYS"
# Until a controller on another machine has shown its certificate and taken ours.
_REMOTE_S: Final = 10.0

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
    "approval_required": REFUSED,
    "lockout": REFUSED,
    "no_evidence": REFUSED,
    "host_locked": REFUSED,
    "tampered": SOME_NOT_OK,
}


def folder(state: Path | None) -> Path:
    """The state folder that the options name, or the XDG default."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state or base / "fireline"


def choose(**options: str) -> None:
    """Take the options before the command, by their variables' names, as if the environment had them."""
    os.environ.update({name: value for name, value in options.items() if value})


def is_remote() -> bool:
    """Whether commands go to a controller on another machine."""
    return bool(os.environ.get(CONTROLLER))


def is_embedded(state: Path) -> bool:
    """Whether a command runs a controller of its own: there is no daemon, and no other one was chosen."""
    from fireline_controller import presence

    return not is_remote() and not presence.address_of_daemon(state)


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
        ConfigError: the state folder is not there, its settings are wrong, or the chosen operator has no key here.
        StoreError: the state folder is half made or broken, or the store can't be opened; or no controller answers.
    """
    if remote := os.environ.get(CONTROLLER):
        async with _stub(remote, state, ready_within_s=_REMOTE_S) as control:
            yield control
        return
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
async def _stub(address: str, state: Path, *, ready_within_s: float = 0) -> "AsyncIterator[ControlStub]":
    import grpc

    from fireline_wire import tls
    from fireline_wire.identity import CONTROLLER_DNS
    from fireline_wire.v1.control_pb2_grpc import ControlStub

    credentials = tls.channel_credentials(_credentials(state))
    arguments = [("grpc.ssl_target_name_override", CONTROLLER_DNS), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(address, credentials, options=arguments) as channel:
        if ready_within_s:
            await _ready(channel, address, ready_within_s)
        yield ControlStub(channel)


async def _ready(channel: "grpc.aio.Channel", address: str, within_s: float) -> None:
    """Wait for a connection; the first attempt that fails is enough, where gRPC would try for ever."""
    import grpc

    waiting = {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING}
    state = channel.get_state(try_to_connect=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while state in waiting:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    if state is not grpc.ChannelConnectivity.READY:
        raise StoreError(
            f"no controller answers at {address}, or it is not the one that made these keys: wanted the address that"
            " `listen.control` has there"
        )


def _credentials(state: Path) -> "Credentials":
    """The chosen operator's: those of the keys folder, or of the state folder."""
    keys = os.environ.get(KEYS)
    name = os.environ.get(OPERATOR)
    if keys and name:
        raise ConfigError(f"--keys holds one operator's key: leave --as {name} ({OPERATOR}) out")
    if keys:
        return _handed_over(Path(keys))
    if name:
        return _named(state / "keys", name)
    return _read(state / "keys" / "operator.key", state / "keys" / "operator.pem", state / "keys" / "ca.pem")


def _handed_over(keys: Path) -> "Credentials":
    """Those of a keys folder. Nobody renews them, and a handshake that fails would not say so."""
    from fireline_wire import chain

    credentials = _read(keys / "operator.key", keys / "operator.pem", keys / "ca.pem")
    try:
        leaf = chain.certificates(credentials.chain_pem)[0]
        name = chain.identity_of(leaf).name
    except ValueError as error:
        raise StoreError(f"{keys / 'operator.pem'}: {error}") from None
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        message = (
            f"{keys / 'operator.pem'}: expired {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC; a new one:"
            f" fireline operator add {name} --out FOLDER"
        )
        raise PolicyError(message, reason="certificate_revoked")
    return credentials


def _named(keys: Path, name: str) -> "Credentials":
    from fireline_controller.pki import OperatorKeys
    from fireline_wire import chain
    from fireline_wire.identity import is_name

    kept = OperatorKeys(keys)
    if is_name(name) and name in kept.names():
        return _read(kept.folder / f"{name}.key", kept.folder / f"{name}.pem", keys / "ca.pem")
    first = _read(keys / "operator.key", keys / "operator.pem", keys / "ca.pem")
    try:
        first_name = chain.identity_of(chain.certificates(first.chain_pem)[0]).name
    except ValueError as error:
        raise StoreError(f"{keys / 'operator.pem'}: {error}") from None
    if first_name != name:
        known = ", ".join([first_name, *kept.names()])
        raise ConfigError(f"--as {name} ({OPERATOR}): no key of this operator in {keys}; there are those of {known}")
    return first


def _read(key: Path, chain: Path, ca: Path) -> "Credentials":
    from fireline_wire.tls import Credentials

    try:
        return Credentials(key.read_bytes(), chain.read_bytes(), ca.read_bytes())
    except OSError as error:
        raise StoreError(f"{error.filename}: can't be read: {error.strerror}") from None
