"""What an intruder and an outage leave on a host, each with the finding that a capture must raise for it."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import engine
from tests.lab.errors import LabError, Unsupported
from tests.lab.host import Host
from tests.lab.loopback import LoopbackHost
from tests.lab.processes import eventually

# The listener says where it listens, so that the one who waits for it needs no way into its network namespace.
_LISTEN = (
    "import socket,sys,time\n"
    "s=socket.create_server((sys.argv[1],int(sys.argv[2])))\n"
    "print('listening',*s.getsockname(),flush=True)\n"
    "time.sleep(86400)\n"
)
RESTARTS = 4  # seen before a crash loop counts as planted


@dataclass(frozen=True)
class Plant:
    """Something that was put on a host: its name, the code of the finding it must raise, and what that must name."""

    name: str
    finding: str
    host: str
    subject: str


def deleted_executable(host: Host, *, port: int = 4444) -> Plant:
    """A program that was copied to /tmp, started and unlinked; it listens."""
    hidden = host.place("/tmp/.cache-update")
    _make_parent(host, hidden)
    host.run(["cp", _python(), hidden])
    log = "/var/log/plant-deleted.log"
    host.spawn(
        [hidden, "-S", "-c", _LISTEN, _own_address(host), str(port)], log=log, env={"PYTHONHOME": sys.base_prefix}
    )
    _wait_listening(host, log)
    host.run(["rm", hidden])
    return Plant("deleted-but-running program", "deleted-executable", host.name, hidden)


def foreign_listener(host: Host, *, port: int = 31337) -> Plant:
    """A listener in a network namespace of its own that belongs to no container.

    Raises:
        Unsupported: this machine lets nobody but root make network namespaces.
    """
    apart = ["unshare", "--map-root-user", "--net"] if isinstance(host, LoopbackHost) else ["unshare", "--net"]
    if not _works(host, [*apart, "true"]):
        raise Unsupported(f"{host.name}: {' '.join(apart)} is not allowed here; root may")
    log = "/var/log/plant-foreign.log"
    host.spawn(
        [*apart, _python(), "-S", "-c", _LISTEN, "0.0.0.0", str(port)], log=log, env={"PYTHONHOME": sys.base_prefix}
    )
    _wait_listening(host, log)
    return Plant("listener in another network namespace", "listener-in-foreign-netns", host.name, str(port))


def crash_loop(host: Host, *, name: str = "checkout-worker") -> Plant:
    """A container that ends at once and is started again, without end.

    Raises:
        Unsupported: the host has no Docker Engine of its own.
    """
    if isinstance(host, LoopbackHost) or not engine.answers(host):
        raise Unsupported(f"{host.name}: no Docker Engine of its own; make the lab with engine=True")
    command = ["run", "-d", "--pull", "never", "--name", name, "--restart", "always", engine.IMAGE]
    engine.docker(host, *command, "sh", "-c", "echo cannot reach the database; exit 3")
    eventually(
        lambda: restarts(host, name) >= RESTARTS, within_s=30, what=f"{name} to crash {RESTARTS} times", every_s=0.2
    )
    return Plant("crash-looping container", "container-crash-looping", host.name, name)


def restarts(host: Host, container: str) -> int:
    """How often the engine has started a container again."""
    return int(engine.docker(host, "inspect", "--format", "{{.RestartCount}}", container))


ALL: tuple[Callable[[Host], Plant], ...] = (deleted_executable, foreign_listener, crash_loop)


def plant_all(host: Host) -> tuple[tuple[Plant, ...], tuple[str, ...]]:
    """Plant whatever this host can have: the plants, and a sentence for each that it can't."""
    planted, lacks = [], []
    for plant in ALL:
        try:
            planted.append(plant(host))
        except Unsupported as error:
            lacks.append(str(error))
    return tuple(planted), tuple(lacks)


def _own_address(host: Host) -> str:
    return host.address if isinstance(host, LoopbackHost) else "0.0.0.0"


def _python() -> str:
    # The base interpreter: a copy of a virtual environment's finds no library.
    found = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return str(found.resolve() if found.exists() else Path(shutil.which("python3") or sys.executable).resolve())


def _make_parent(host: Host, name: str) -> None:
    host.run(["mkdir", "-p", str(Path(name).parent)])


def _works(host: Host, argv: list[str]) -> bool:
    try:
        host.run(argv)
    except LabError:
        return False
    return True


def _wait_listening(host: Host, log: str) -> None:
    path = host.path(log)
    try:
        eventually(lambda: path.exists() and "listening" in path.read_text(), within_s=10, what="the plant to listen")
    except LabError as error:
        raise LabError(f"{host.name}: {error}; it said: {path.read_text()[-400:]}") from error
