"""A control group for every lab host, on cgroup v1, v2 or the mixture of both."""

import signal
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.processes import Process, eventually

ROOT = "fireline-lab"
_MOUNT_OPTIONS = frozenset({"rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec"})


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: where, and what mount(8) needs to show it again inside a host."""

    folder: Path
    is_v2: bool
    options: str

    @property
    def mount_word(self) -> str:
        """`NAME:TYPE:OPTIONS` for the boot script; the name is `.` when cgroup v2 is all there is."""
        name = "." if self.folder == Path("/sys/fs/cgroup") else self.folder.name
        return f"{name}:{'cgroup2' if self.is_v2 else 'cgroup'}:{self.options}"


def hierarchies() -> tuple[Hierarchy, ...]:
    """The hierarchies that this machine has mounted."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2") and folder.startswith("/sys/fs/cgroup"):
            kept = ",".join(word for word in options.split(",") if word not in _MOUNT_OPTIONS)
            found.append(Hierarchy(Path(folder), kind == "cgroup2", "rw" if kind == "cgroup2" else kept))
    return tuple(found)


@dataclass(frozen=True)
class Group:
    """A group of the same path in every hierarchy, `fireline-lab/TAG/HOST` for a host."""

    path: str

    def child(self, name: str) -> "Group":
        """The group beneath this one."""
        return Group(f"{self.path}/{name}")

    def create(self) -> None:
        """Make the group, and those above it, in every hierarchy."""
        for hierarchy in hierarchies():
            folder = hierarchy.folder
            for part in self.path.split("/"):
                _share_controllers(hierarchy, folder)
                folder = folder / part
                folder.mkdir(exist_ok=True)
                _inherit_cpuset(folder)

    def admit(self, pid: int) -> None:
        """Move a process into the group, in every hierarchy."""
        for folder in self._folders():
            (folder / "cgroup.procs").write_text(str(pid))

    def door(self) -> list[str]:
        """The files that a process writes its own pid into to join the group."""
        return [str(folder / "cgroup.procs") for folder in self._folders()]

    def delegate(self) -> None:
        """On cgroup v2: hand the controllers down, as a service manager does for a host's units."""
        for hierarchy in hierarchies():
            _share_controllers(hierarchy, hierarchy.folder / self.path)

    def protect_disks(self) -> None:
        """On cgroup v1: nobody in this group reads or writes a block device, so a wild test can't reach the disk."""
        deny = Path("/sys/fs/cgroup/devices") / self.path / "devices.deny"
        if deny.exists():
            deny.write_text("b *:* rw")

    def freeze(self, frozen: bool) -> None:
        """Stop or resume every process in the group and beneath it, and wait until it is so.

        Raises:
            LabError: this machine has no freezer, or it did not settle within 5 s.
        """
        v1 = Path("/sys/fs/cgroup/freezer") / self.path / "freezer.state"
        if v1.exists():
            wanted = "FROZEN" if frozen else "THAWED"
            v1.write_text(wanted)
            _settle(v1, wanted)
            return
        for folder in self._folders():
            if (folder / "cgroup.freeze").exists():
                (folder / "cgroup.freeze").write_text(str(int(frozen)))
                _settle(folder / "cgroup.events", f"frozen {int(frozen)}")
                return
        raise LabError("this machine has no freezer: wanted cgroup v2, or v1 with the freezer controller")

    def processes(self) -> set[Process]:
        """Whatever runs in the group and beneath it, in any hierarchy."""
        pids = {
            int(pid)
            for folder in self._folders()
            for procs in folder.rglob("cgroup.procs")
            for pid in procs.read_text().split()
        }
        return {Process(pid, started) for pid in pids if (started := _started(pid)) is not None}

    def kill(self, *, within_s: float = 10) -> None:
        """End everything in the group: killed, then thawed, because v1 delivers no signal to what is frozen.

        Raises:
            LabError: something outlived the time; the message names its pid.
        """
        eventually(self._kill_once, within_s=within_s, what=f"everything in {self.path} to end")

    def remove(self, *, within_s: float = 5) -> None:
        """Remove the group and all beneath it, and the lab's root group when that is empty.

        Raises:
            LabError: a group stays busy.
        """
        eventually(self._remove_once, within_s=within_s, what=f"the control group {self.path} to be let go")
        for hierarchy in hierarchies():
            _remove_empty(hierarchy.folder / ROOT)

    def _folders(self) -> list[Path]:
        return [folder for h in hierarchies() if (folder := h.folder / self.path).is_dir()]

    def _kill_once(self) -> bool:
        left = [process for process in self.processes() if process.is_alive()]
        for process in left:
            process.signal(signal.SIGKILL)
        if left:
            self._thaw_all()
        return not left

    def _remove_once(self) -> bool:
        return (
            sum(not _remove_tree(folder) for folder in self._folders()) == 0
        )  # each is tried, whatever the others say

    def _thaw_all(self) -> None:
        for folder in self._folders():
            for file in folder.rglob("freezer.state"):
                file.write_text("THAWED")
            for file in folder.rglob("cgroup.freeze"):
                file.write_text("0")


def _share_controllers(hierarchy: Hierarchy, folder: Path) -> None:
    if not hierarchy.is_v2:
        return
    for controller in (folder / "cgroup.controllers").read_text().split():
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # one that can't be shared (threaded, or real-time processes) does not keep back the others


def _inherit_cpuset(folder: Path) -> None:
    # A new v1 cpuset is empty, and nothing may join it until it has processors and memory.
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and not file.read_text().strip() and (folder.parent / name).exists():
            file.write_text((folder.parent / name).read_text())


def _settle(file: Path, wanted: str) -> None:
    eventually(lambda: wanted in file.read_text(), within_s=5, what=f"{file} to say {wanted!r}")


def _remove_tree(folder: Path) -> bool:
    for below in sorted((f for f in folder.rglob("*") if f.is_dir()), key=lambda f: -len(f.parts)):
        _remove_empty(below)
    return _remove_empty(folder)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _started(pid: int) -> int | None:
    try:
        return Process.of(pid).started
    except LabError:
        return None
