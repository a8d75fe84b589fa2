"""The door to control groups: bind a collector with all its children, count what it used, end every one of them.

Version 2 where its controllers are there, version 1 otherwise, and a plain statement of what is missing. Leaves to
others: hosts without any control groups (process.Session).

Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel; systemd's CGROUP_DELEGATION.md.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.hands import procfs

# v2 controller -> what is not enforced without it.
_V2: Final = {"cpu": "CPU", "memory": "memory", "pids": "the number of processes", "io": "I/O weight"}
_V1: Final = {
    "cpu": "CPU",
    "cpuacct": "CPU accounting",
    "memory": "memory",
    "pids": "the number of processes",
    "blkio": "I/O weight",
    "freezer": "freezing before the kill",
}
_PERIOD_US: Final = 100_000  # the kernel's default period for CPU quotas
_KILL_PAUSE_S: Final = 0.01  # between two looks at a group that is being emptied


@dataclass(frozen=True)
class GroupLimits:
    """What a group may use, all its processes together. `cpu_percent` is of one core; `io_weight` is 1 to 1000."""

    cpu_percent: int
    memory_bytes: int
    pids: int
    io_weight: int


@dataclass(frozen=True)
class Hierarchy:
    """The folder, for each controller, below which this agent makes its groups. `kind` is v2, v1 or none.

    In version 2 all controllers share one folder.
    """

    kind: str
    folders: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for the worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Back from `to_json`."""
        return cls(document["kind"], dict(document["folders"]), tuple(document["lacks"]))

    def group(self, name: str) -> "Group":
        """The group of this name (path parts are allowed); it is not made yet."""
        return Group(self.kind, {c: Path(folder) / name for c, folder in self.folders.items()})


@dataclass(frozen=True)
class Group:
    """One group: its folder for each controller."""

    kind: str
    folders: Mapping[str, Path]

    def create(self, limits: GroupLimits | None = None) -> None:
        """Make the group; what a controller does not take is left out, `prepare` has said so before.

        Raises:
            OSError: a folder can't be made.
        """
        for controller, folder in self.folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in _settings(self.kind, controller, limits):
                if (folder / name).exists():
                    _write(folder / name, value)

    def share(self) -> None:
        """Let groups below this one use its controllers. Nothing to do in version 1."""
        if self.kind == "v2":
            _enable(next(iter(set(self.folders.values()))), list(self.folders))

    def join(self) -> None:
        """Move the calling process into the group.

        Raises:
            OSError: the kernel refuses it.
        """
        for folder in dict.fromkeys(self.folders.values()):
            (folder / "cgroup.procs").write_text("0")

    def pids(self) -> list[int]:
        """Every process in the group and below it."""
        found: set[int] = set()
        for folder in dict.fromkeys(self.folders.values()):
            for path in (folder, *_below(folder)):
                with suppress(OSError):
                    found.update(int(pid) for pid in (path / "cgroup.procs").read_text().split())
        return sorted(found)

    def kill(self, *, within_s: float) -> list[int]:
        """End every process in the group and below; returns the pids that the kernel has not ended in time."""
        until = time.monotonic() + within_s
        while left := self.pids():
            self._kill_once(left)
            if time.monotonic() >= until:
                break
            time.sleep(_KILL_PAUSE_S)
        return left

    def _kill_once(self, pids: list[int]) -> None:
        # In one write where the kernel has it (5.14): a process that forks all the time can't run away from it.
        for folder in dict.fromkeys(self.folders.values()):
            if (folder / "cgroup.kill").exists():
                _write(folder / "cgroup.kill", "1")
                return
        freezer = self.folders.get("freezer")
        # Frozen processes can't fork while they are killed one by one; the kill takes effect when they thaw.
        with _frozen(freezer):
            for pid in (*pids, *self.pids()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cpu_ms(self) -> int | None:
        """CPU time used by all processes that were ever in the group, or None where nobody counts."""
        with suppress(OSError, KeyError, ValueError):
            if self.kind == "v2":
                return _keyed(next(iter(self.folders.values())) / "cpu.stat")["usage_usec"] // 1000
            return int((self.folders["cpuacct"] / "cpuacct.usage").read_text()) // 1_000_000
        return None

    def memory_kills(self) -> int:
        """How many processes the kernel ended because the group was over its memory limit."""
        name = "memory.events" if self.kind == "v2" else "memory.oom_control"
        with suppress(OSError, KeyError, ValueError):
            return _keyed(self.folders["memory"] / name).get("oom_kill", 0)
        return 0

    def remove(self) -> bool:
        """Remove the group and those below it; false while a process is left in one of them."""
        gone = True
        for folder in dict.fromkeys(self.folders.values()):
            for path in (*_below(folder), folder):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:
                    gone = False
        return gone


def prepare(
    name: str,
    *,
    root: Path = Path("/sys/fs/cgroup"),
    memberships: Path = Path("/proc/self/cgroup"),
    mounts: Path = Path("/proc/self/mounts"),
) -> Hierarchy:
    """Find or make this agent's own group called `name`, and say what can't be enforced below it.

    Groups of that name that a former agent left behind are emptied and removed. In version 2 the calling process moves
    into a leaf beside it, since a group with controllers may hold no processes of its own.
    """
    own = _memberships(memberships)
    mounted = _mounted(mounts, root)
    unified = mounted.get("")
    # Mounted beside version 1 it is there without the controllers that matter.
    if unified is not None and _V2.keys() & _words(unified / "cgroup.controllers"):
        return _guarded("v2", lambda: _prepare_v2(name, _place(unified, own.get("", "/"))))
    found = {c: _place(mounted[c], own.get(c, "/")) for c in _V1 if c in mounted}
    if found:
        return _guarded("v1", lambda: _prepare_v1(name, found))
    return Hierarchy("none", lacks=(f"cgroup: no hierarchy under {root}, limits bind single processes only",))


def _guarded(kind: str, make: Callable[[], Hierarchy]) -> Hierarchy:
    try:
        return make()
    except OSError as error:
        where = f"{error.filename}: {error.strerror}"
        return Hierarchy("none", lacks=(f"cgroup: {kind} can't be used ({where}), limits bind single processes only",))


def _prepare_v2(name: str, place: Path) -> Hierarchy:
    if place.name == f"{name}.agent":  # started again from inside its own leaf
        place = place.parent
    leaf, folder = place / f"{name}.agent", place / name
    wanted = [c for c in _V2 if c in _words(place / "cgroup.controllers")]
    _sweep(Group("v2", {"": folder}))
    folder.mkdir(exist_ok=True)
    leaf.mkdir(exist_ok=True)
    _write(leaf / "cgroup.procs", str(os.getpid()))
    _enable(place, wanted)
    usable = [c for c in wanted if c in _words(folder / "cgroup.controllers")]
    _enable(folder, usable)
    lacks = tuple(
        f"cgroup: v2 has no {c} controller here, {what} is not limited" for c, what in _V2.items() if c not in usable
    )
    # The folder itself works without a controller too: it holds the processes together and ends them as one.
    return Hierarchy("v2", {c: str(folder) for c in usable or [""]}, lacks)


def _prepare_v1(name: str, places: Mapping[str, Path]) -> Hierarchy:
    folders = {c: place / name for c, place in places.items()}
    _sweep(Group("v1", folders))
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    lacks = [f"cgroup: no v1 {c} controller, {what} is not limited" for c, what in _V1.items() if c not in folders]
    if "blkio" in folders and not any((folders["blkio"] / n).exists() for n in _V1_WEIGHTS):
        lacks.append("cgroup: v1 blkio has no weight with this I/O scheduler, I/O weight is not limited")
    return Hierarchy("v1", {c: str(folder) for c, folder in folders.items()}, tuple(lacks))


_V1_WEIGHTS: Final = ("blkio.bfq.weight", "blkio.weight")


def _settings(kind: str, controller: str, limits: GroupLimits | None) -> list[tuple[str, str]]:
    """The files of one controller and what to write into them, in this order."""
    if limits is None:
        return []
    quota = limits.cpu_percent * _PERIOD_US // 100
    memory, pids, weight = str(limits.memory_bytes), str(limits.pids), str(limits.io_weight)
    tables = {
        "v2": {
            "cpu": [("cpu.max", f"{quota} {_PERIOD_US}")],
            "memory": [("memory.max", memory), ("memory.swap.max", "0"), ("memory.oom.group", "1")],
            "pids": [("pids.max", pids)],
            "io": [("io.weight", f"default {weight}")],
        },
        "v1": {
            "cpu": [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))],
            "memory": [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
            "pids": [("pids.max", pids)],
            # Version 1 begins at 10.
            "blkio": [(name, str(max(10, limits.io_weight))) for name in _V1_WEIGHTS],
        },
    }
    return tables.get(kind, {}).get(controller, [])


def _write(path: Path, value: str) -> None:
    # A limit that this kernel does not take (EINVAL, EOPNOTSUPP) must not cost the evidence.
    with suppress(OSError):
        path.write_text(value)


def _enable(folder: Path, controllers: list[str]) -> None:
    for controller in controllers:
        if controller and controller not in _words(folder / "cgroup.subtree_control"):
            _write(folder / "cgroup.subtree_control", f"+{controller}")


def _sweep(group: Group) -> None:
    if any(folder.is_dir() for folder in group.folders.values()):
        group.kill(within_s=1.0)
        group.remove()


class _frozen:  # noqa: N801 -- reads as a state in `with _frozen(...)`
    """Freeze the group of a v1 freezer folder while the block lasts; nothing where there is no freezer."""

    def __init__(self, folder: Path | None) -> None:
        self._state = folder / "freezer.state" if folder is not None else None

    def __enter__(self) -> None:
        if self._state is not None:
            _write(self._state, "FROZEN")

    def __exit__(self, *_: object) -> None:
        if self._state is not None:
            _write(self._state, "THAWED")


def _below(folder: Path) -> Iterator[Path]:
    """Groups below this one, the deepest first."""
    for path, folders, _ in os.walk(folder, topdown=False):
        yield from (Path(path) / name for name in folders)


def _memberships(path: Path) -> dict[str, str]:
    """Controller -> the path of this process's group; the empty name is version 2. See cgroups(7)."""
    found: dict[str, str] = {}
    for line in _lines(path):
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = group
    return found


def _mounted(path: Path, root: Path) -> dict[str, Path]:
    """Controller -> where its hierarchy is mounted; the empty name is version 2."""
    found: dict[str, Path] = {}
    for line in _lines(path):
        _, point, kind, options, *_ = line.split()
        if kind == "cgroup2" and Path(point).is_relative_to(root):
            found[""] = Path(point)
        elif kind == "cgroup" and Path(point).is_relative_to(root):
            found.update((option, Path(point)) for option in options.split(",") if option in _V1)
    return found


def _place(mount: Path, membership: str) -> Path:
    # In a container the membership may be told as the host sees it, while the mount begins at the container's own.
    place = mount / membership.lstrip("/")
    return place if place.is_dir() else mount


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _keyed(path: Path) -> dict[str, int]:
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}


def leave_version_1(mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Move this process to the root of every hierarchy of version 1 that limits, so that it does not end with a group.

    Leaves to others: version 2 and the service manager's own hierarchy (freezer.outside_service).
    """
    for mount in procfs.mounts(procfs.read(mounts) or b""):
        if mount.kind == b"cgroup" and b"name=" not in mount.super_options:
            with suppress(OSError):
                (Path(os.fsdecode(mount.point)) / "cgroup.procs").write_text(str(os.getpid()))
