"""A lab host made of namespaces: own root, /dev, network, processes, control group and disk; one kernel and clock."""

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from tests.lab import annexes, engine
from tests.lab.cgroups import ROOT, Group, hierarchies
from tests.lab.commands import do
from tests.lab.errors import LabError
from tests.lab.host import AgentCommand, Host
from tests.lab.processes import Process, child_of, eventually, launch
from tests.lab.state import HostState, LabState
from tests.lab.vantage import Vantage
from tests.lab.wires import Wires, address6

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "nft", "nsenter", "unshare", "mount", "pivot_root", "setpriv", "setsid")


class NamespaceHost(Host):
    """One host; root only."""

    def __init__(self, lab: LabState, state: HostState, agent: AgentCommand | None, wires: Wires) -> None:
        super().__init__(lab, state, agent)
        self._wires = wires
        self._group = Group(f"{ROOT}/{lab.tag}/{state.name}")
        self._disk = lab.folder / f"disk-{state.name}"

    @property
    def init_pid(self) -> int:
        """The pid of the host's first process, in the machine's namespace.

        Raises:
            LabError: the host is down.
        """
        init = self._state.init
        if init is None or not init.is_alive():
            raise LabError(f"{self.name}: the host is down; boot() it")
        return init.pid

    def create_disk(self) -> None:
        """Make the host's disk, a size-limited tmpfs that outlives power cuts."""
        self._disk.mkdir()
        do(
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self._lab.disk_bytes},mode=755",
            f"{self._lab.tag}-disk",
            str(self._disk),
        )

    @property
    @override
    def vantage(self) -> Vantage:
        netns = Path(f"/proc/{self.init_pid}/ns/net")
        return Vantage(self.name, netns, self.address, address6(self._lab.network, self._state.number))

    @override
    def second_uplink(self) -> tuple[Vantage, Vantage]:
        netns = f"{self._wires.netns(self._state)}-uplink"
        return annexes.second_uplink(self.vantage, netns, self._lab.network)

    @override
    def guest(self, kind: str) -> Vantage:
        holder = self.spawn(["unshare", "--net", "sleep", "infinity"], unit="guest")
        try:
            eventually(lambda: self._is_apart(holder), within_s=5, what=f"a namespace for a {kind} guest")
            return annexes.guest(self.vantage, holder, self._lab.network, kind)
        except BaseException:
            holder.signal(9)
            raise

    @override
    def tunnel(self) -> annexes.Tunnel:
        return annexes.tunnel(self.vantage, self._lab.network)

    def _is_apart(self, process: Process) -> bool:
        return Path(f"/proc/{process.pid}/ns/net").stat().st_ino != self.vantage.netns.stat().st_ino

    @override
    def boot(self, *, services: bool = True) -> None:
        if self.is_up():
            raise LabError(f"{self.name}: it is up already; power_cut() first")
        self._clear_crashed()
        self._state.boots += 1
        self._wires.plug_in(self._state)
        self._group.create()
        self._group.protect_disks()
        self._start_init()
        self._lab.save()
        if services:
            self.start_services()

    @override
    def start_services(self) -> None:
        if self._lab.engine:
            engine.start(self)
        if self._state.agent_argv:
            self.start_agent()

    @override
    def power_cut(self) -> None:
        self._group.kill()
        self._clear_crashed()
        self._lab.save()

    @override
    def is_up(self) -> bool:
        return self._state.init is not None and self._state.init.is_alive()

    @override
    def run(
        self,
        argv: Sequence[str],
        *,
        text: str = "",
        check: bool = True,
        within_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        enter = self._enter("run", ["setpriv", "--pdeathsig", "KILL", *_with(env), *argv])
        try:
            done = subprocess.run(enter, input=text, capture_output=True, text=True, timeout=within_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: {shlex.join(argv)}: not done within {within_s:g} s") from error
        if check and done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise LabError(f"{self.name}: {shlex.join(argv)}: exit {done.returncode}: {said[-1000:]}")
        return done.stdout

    @override
    def spawn(
        self,
        argv: Sequence[str],
        *,
        unit: str = "init",
        log: str = "/var/log/lab.log",
        env: Mapping[str, str] | None = None,
    ) -> Process:
        # setsid --fork leaves the process to the host's own init; its pid there comes back on a pipe.
        tell = ["setsid", "--fork", "bash", "-c", 'echo $$; exec "${@:2}" </dev/null >>"$1" 2>&1', "spawn", log]
        with subprocess.Popen(self._enter(unit, [*tell, *_with(env), *argv]), stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            waiting = select.select([starter.stdout], [], [], 10)[0]
            inside = starter.stdout.readline().strip() if waiting else b""
            if not inside:
                starter.kill()
        if not inside:
            raise LabError(f"{self.name}: {shlex.join(argv)} could not be started")
        return self._outside(int(inside))

    @override
    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self.init_pid}/root{inside}")

    @override
    def place(self, inside: str) -> str:
        return inside

    @override
    def freeze(self) -> None:
        self._set_frozen(True)

    @override
    def thaw(self) -> None:
        self._set_frozen(False)

    @override
    def partition(self, *others: Host | str, ways: str = "both") -> None:
        for other in others or ("*",):
            name = other if isinstance(other, str) else other.name
            if ways in ("both", "out"):
                self._lab.cuts.append([self.name, name])
            if ways in ("both", "in"):
                self._lab.cuts.append([name, self.name])
        self._wires.apply_cuts()
        self._lab.save()

    @override
    def heal(self) -> None:
        self._lab.cuts = [cut for cut in self._lab.cuts if self.name not in cut]
        self._wires.apply_cuts()
        self._wires.restore(self._state)
        self._wires.link(self._state, up=True)
        self._lab.save()

    @override
    def link(self, *, up: bool) -> None:
        self._wires.link(self._state, up=up)

    @override
    def impair(self, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> None:
        self._wires.restore(self._state)
        if delay_ms or jitter_ms or loss_percent:
            log = self._lab.folder / f"relay-{self.name}.log"
            self._state.relay = self._wires.impair(
                self._state, delay_ms=delay_ms, jitter_ms=jitter_ms, loss_percent=loss_percent, log=log
            )
        self._lab.save()

    @override
    def disk_full(self, *, leave_bytes: int = 0) -> None:
        # The disk shrinks to what is used: no file appears on it, and no memory is spent on filling it.
        disk = os.statvfs(self._disk)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        self._resize_disk(used + leave_bytes)

    @override
    def disk_free(self) -> None:
        self._resize_disk(self._lab.disk_bytes)

    def _resize_disk(self, size_bytes: int) -> None:
        do("mount", "-o", f"remount,size={max(size_bytes, 4096)}", str(self._disk))

    def _set_frozen(self, frozen: bool) -> None:
        self._group.freeze(frozen)
        self._state.is_frozen = frozen
        self._lab.save()

    def _enter(self, unit: str, argv: Sequence[str]) -> list[str]:
        if self._state.is_frozen:
            raise LabError(f"{self.name}: the host is frozen; thaw() it first")
        group = self._group.child(unit)
        group.create()
        doors = " ".join(shlex.quote(door) for door in group.door())
        nsenter = ["nsenter", "-t", str(self.init_pid), "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--"]
        return ["bash", "-c", f'for door in {doors}; do echo $$ >"$door"; done; exec "$@"', "enter", *nsenter, *argv]

    def _outside(self, inside: int) -> Process:
        for process in self._group.processes():
            if _pid_inside(process.pid) == inside:
                return process
        raise LabError(f"{self.name}: the process ended at once: see its log")

    def _start_init(self) -> None:
        log = self._lab.folder / f"boot-{self.name}.log"
        holder = launch(["bash", str(Path(__file__).with_name("boot.sh"))], log=log, env=self._boot_environment())
        self._state.holder = holder
        eventually(lambda: child_of(holder) is not None, within_s=5, what=f"{self.name}'s init")
        init = self._state.init = child_of(holder)
        assert init is not None
        # On cgroup v2 a group that hands controllers down may hold no process itself.
        wires = Group(f"{ROOT}/{self._lab.tag}/wires")
        wires.admit(holder.pid)
        leaf = self._group.child("init")
        leaf.create()
        leaf.admit(init.pid)
        self._group.delegate()

    def _boot_environment(self) -> dict[str, str]:
        names = "".join(f"{host.address} {host.name}\n" for host in self._lab.hosts)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "LAB_NAME": self.name,
            "LAB_DISK": str(self._disk),
            "LAB_NETNS": f"/run/netns/{self._wires.netns(self._state)}",
            "LAB_DOORS": " ".join(self._group.door()),
            "LAB_CGROUPS": " ".join(hierarchy.mount_word for hierarchy in hierarchies()),
            "LAB_HOSTS": f"{names}{self._wires.controller_address} controller\n",
            "LAB_READ_ONLY": " ".join(_read_only()),
        }

    def _clear_crashed(self) -> None:
        for process in (self._state.holder, self._state.init):
            if process is not None:
                process.signal(9)
                process.wait_gone(within_s=5)
        self._group.remove()  # with the groups of containers, which a reboot takes too
        self._wires.unplug(self._state)
        self._state.holder = self._state.init = self._state.agent = None
        self._state.is_frozen = False


def _read_only() -> list[str]:
    # The overlay shows the root file system only; what lies on others must be bound. The repository is bound in any
    # case, so that no bug on a host can touch it.
    root = Path("/").stat().st_dev
    others = [folder for folder in (sys.base_prefix, sys.prefix) if Path(folder).stat().st_dev != root]
    return [str(REPOSITORY), *others]


def _pid_inside(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = next((line.split() for line in lines if line.startswith("NSpid:")), [])
    return int(found[2]) if len(found) == 3 else None  # name, machine's, host's; a container's process has more


def _with(env: Mapping[str, str] | None) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in env.items())] if env else []
