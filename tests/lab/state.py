"""What a lab wrote down about itself, so that another process can use it, end it, or sweep it when its owner died."""

import fcntl
import json
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError
from tests.lab.processes import Process

TAG_PREFIX = "fl"


def base() -> Path:
    """The folder of all labs of this user."""
    if os.geteuid() == 0:
        return Path("/run/fireline-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "fireline-lab") if runtime else Path(tempfile.gettempdir(), f"fireline-lab-{os.geteuid()}")


@dataclass
class HostState:
    """One host of a lab, as it is now; processes that don't run are None."""

    name: str
    number: int
    address: str
    boots: int = 0
    holder: Process | None = None
    init: Process | None = None
    agent: Process | None = None
    relay: Process | None = None
    agent_argv: list[str] = field(default_factory=list)
    is_frozen: bool = False
    skew_file: str = ""


@dataclass
class LabState:
    """A lab: its unique tag, its network's number, who owns it, its hosts, and which ways between hosts are cut."""

    tag: str
    backend: str
    network: int
    engine: bool
    disk_bytes: int
    kept: bool
    owner: Process
    boot_id: str
    hosts: list[HostState] = field(default_factory=list)
    cuts: list[list[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the lab keeps its state, its logs and its hosts' disks."""
        return base() / self.tag

    def save(self) -> None:
        """Write the state so that a reader sees either the former or this one."""
        fresh = self.folder / f"state.{threading.get_ident()}"  # hosts boot in parallel
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(self.folder / "state.json")

    def is_owned(self) -> bool:
        """Whether the process that made the lab still runs, or the lab was meant to outlive it."""
        return self.boot_id == boot_id() and (self.kept or self.owner.is_alive())


def boot_id() -> str:
    """The machine's boot: pids and start times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def tags() -> list[str]:
    """The labs that have a folder, dead ones too."""
    if not base().is_dir():
        return []
    return sorted(folder.name for folder in base().iterdir() if folder.is_dir() and folder.name.startswith(TAG_PREFIX))


def load(tag: str) -> LabState:
    """Read a lab's state.

    Raises:
        LabError: there is no such lab, or it died before it wrote its state.
    """
    try:
        raw = json.loads((base() / tag / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"no lab {tag!r} under {base()}: there are {tags() or 'none'}") from error
    hosts = [HostState(**{**host, **_processes(host)}) for host in raw.pop("hosts")]
    return LabState(**{**raw, **_processes(raw)}, hosts=hosts)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock that keeps two labs from taking the same network, or sweeping the same folder."""
    base().mkdir(mode=0o700, parents=True, exist_ok=True)
    with (base() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def new(backend: str, *, engine: bool, disk_bytes: int, kept: bool, taken: set[int]) -> LabState:
    """Make the folder of a new lab, with a network number that no other lab has. Call it under `locked()`.

    Raises:
        LabError: every network is taken.
    """
    used = taken | {state.network for state in all_states()}
    network = next((number for number in range(512) if number not in used), None)
    if network is None:
        raise LabError("every network of 198.18.0.0/15 is taken: run `python -m tests.lab sweep --all`")
    state = LabState(
        tag=TAG_PREFIX + secrets.token_hex(2),
        backend=backend,
        network=network,
        engine=engine,
        disk_bytes=disk_bytes,
        kept=kept,
        owner=Process.of(os.getpid()),
        boot_id=boot_id(),
    )
    state.folder.mkdir()
    state.save()
    return state


def all_states() -> list[LabState]:
    """The labs whose state can be read."""
    found = []
    for tag in tags():
        try:
            found.append(load(tag))
        except LabError:
            continue  # died before its first save: sweep() removes it by its name
    return found


def _processes(raw: dict[str, Any]) -> dict[str, Process | None]:
    names = ("owner", "holder", "init", "agent", "relay")
    return {name: Process(**raw[name]) if raw[name] else None for name in names if name in raw}
