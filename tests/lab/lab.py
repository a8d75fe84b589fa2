"""The lab: N hosts on one machine, up and down as one, and the sweep of what a killed run left behind."""

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import engine, state, wires
from tests.lab.cgroups import ROOT, Group, hierarchies
from tests.lab.commands import do, need
from tests.lab.errors import LabError, Unsupported
from tests.lab.host import AgentCommand, Host
from tests.lab.loopback import LoopbackHost
from tests.lab.namespaces import TOOLS, NamespaceHost
from tests.lab.processes import eventually, marked
from tests.lab.state import HostState, LabState
from tests.lab.vantage import Vantage

NETNS, LOOPBACK = "netns", "loopback"
MAX_HOSTS = 240  # of a /24, less the controller and what tests/lab/annexes.py adds
_DISK_BYTES = 1 << 30


def default_backend() -> str:
    """Namespaces for root on a machine that has what they need, loopback otherwise."""
    if os.geteuid() != 0 or not hierarchies():
        return LOOPBACK
    try:
        need(*TOOLS)
    except Unsupported:
        return LOOPBACK
    return NETNS


class Lab:
    """Hosts by number (`h1`, `h2`, …) or by name. A context manager; `up()` and `down()` by hand.

    Args:
        hosts: how many, or their names.
        engine: give each host a Docker Engine of its own, with the image `engine.IMAGE`.
        agent: the command that starts a host's agent; see `Host.start_agent`.
        backend: `netns` or `loopback`; the best that this machine allows when left out.
        disk_bytes: the size of each host's disk, which is memory.
        keep: the lab outlives this process; end it with `down()` or the command line.

    Raises:
        LabError: at `up()`; whatever was made is removed again.
    """

    def __init__(
        self,
        hosts: int | Sequence[str],
        *,
        engine: bool = False,
        agent: AgentCommand | None = None,
        backend: str = "",
        disk_bytes: int = _DISK_BYTES,
        keep: bool = False,
    ) -> None:
        names = [f"h{number + 1}" for number in range(hosts)] if isinstance(hosts, int) else list(hosts)
        if not 0 < len(names) <= MAX_HOSTS or len(set(names)) < len(names):
            raise ValueError(f"wanted 1 to {MAX_HOSTS} different hosts, found {names}")
        self._names, self._engine, self._agent = names, engine, agent
        self._backend, self._disk_bytes, self._keep = backend or default_backend(), disk_bytes, keep
        self._state: LabState | None = None
        self.hosts: list[Host] = []

    @classmethod
    def attach(cls, tag: str) -> "Lab":
        """Take hold of a lab that another process made.

        Raises:
            LabError: there is no such lab.
        """
        found = state.load(tag)
        lab = cls([host.name for host in found.hosts], backend=found.backend)
        lab._take(found)
        return lab

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    @property
    def tag(self) -> str:
        """What every namespace, group and folder of this lab starts with."""
        return self._known().tag

    @property
    def backend(self) -> str:
        """What the hosts are made of."""
        return self._backend

    @property
    def controller_address(self) -> str:
        """Where hosts reach the controller, for its enrolment service and the like."""
        found = self._known()
        return (
            f"127.{found.network // 256 + 100}.{found.network % 256}.254"
            if self._backend == LOOPBACK
            else wires.address(found.network, 254)
        )

    @property
    def controller(self) -> Vantage:
        """The controller's side of the lab's network, to open sockets in."""
        switch = wires.Wires(self._known())
        own = Path("/proc/self/ns/net")
        return Vantage(wires.CONTROLLER, own, switch.controller_address, switch.controller_address6)

    def outsider(self) -> Vantage:
        """A machine on the same switch that is no host of the fleet: the world, or who attacks from there.

        Raises:
            Unsupported: the lab's hosts have no network of their own.
        """
        if self._backend == LOOPBACK:
            raise Unsupported("a loopback lab has no network of its own: run as root for namespaces")
        found = self._known()
        netns = wires.Wires(found).admit_outsider()
        here, here6 = (a(found.network, wires.OUTSIDER_NUMBER) for a in (wires.address, wires.address6))
        return Vantage("outsider", Path("/run/netns", netns), here, here6)

    def up(self) -> None:
        """Sweep what dead labs left, then make and boot the hosts, all at once."""
        sweep()
        self._check()
        with state.locked():
            taken = wires.taken_networks() if self._backend == NETNS else set()
            found = state.new(
                self._backend, engine=self._engine, disk_bytes=self._disk_bytes, kept=self._keep, taken=taken
            )
        found.hosts = [HostState(name, n, self._address(found, n)) for n, name in enumerate(self._names, 1)]
        found.save()
        try:
            self._take(found)
            self._create()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End every host and remove every trace; a lab that is down already stays so."""
        if self._state is not None:
            _remove(self._state.tag)
            self._state, self.hosts = None, []

    def _create(self) -> None:
        if self._backend == NETNS:
            Group(f"{ROOT}/{self.tag}/wires").create()
            wires.Wires(self._known()).create()
        for host in self.hosts:
            if isinstance(host, NamespaceHost):
                host.create_disk()
        with ThreadPoolExecutor(8) as pool:
            for booted in [pool.submit(host.boot) for host in self.hosts]:
                booted.result()
        self._known().save()

    def _check(self) -> None:
        if self._backend == LOOPBACK and self._engine:
            raise Unsupported("a loopback host can't have a Docker Engine of its own: run as root for namespaces")
        if self._backend == NETNS:
            if os.geteuid() != 0:
                raise Unsupported("the namespace backend needs root; the loopback backend does not")
            need(*TOOLS)
        if self._engine and (missing := engine.lacks()):
            raise Unsupported(f"hosts with a Docker Engine need {', '.join(missing)} on this machine")

    def _take(self, found: LabState) -> None:
        self._state = found
        if self._backend == LOOPBACK:
            self.hosts = [LoopbackHost(found, host, self._agent) for host in found.hosts]
            return
        switch = wires.Wires(found)
        self.hosts = [NamespaceHost(found, host, self._agent, switch) for host in found.hosts]

    def _address(self, found: LabState, number: int) -> str:
        if self._backend == LOOPBACK:
            return f"127.{found.network // 256 + 100}.{found.network % 256}.{number}"
        return wires.address(found.network, number)

    def _known(self) -> LabState:
        if self._state is None:
            raise LabError("the lab is not up")
        return self._state


def sweep(*, everything: bool = False) -> list[str]:
    """Remove the labs whose owner died; with `everything`, all of this machine's. Returns their tags."""
    swept = []
    with state.locked():
        for tag in state.tags():
            if everything or not _is_owned(tag):
                _remove(tag)
                swept.append(tag)
    return swept


def _is_owned(tag: str) -> bool:
    try:
        return state.load(tag).is_owned()
    except LabError:
        return False


def _remove(tag: str) -> None:
    """Take everything away that carries the tag, in an order that works from any half-made state."""
    if os.geteuid() == 0:
        group = Group(f"{ROOT}/{tag}")
        group.kill()
        wires.remove(tag)
        _unmount(str(state.base() / tag))
        group.remove()
    eventually(lambda: _kill_marked(tag), within_s=10, what=f"processes of {tag} to end")
    with suppress(FileNotFoundError):  # whoever made it may take it away at the same time
        shutil.rmtree(state.base() / tag)


def _kill_marked(tag: str) -> bool:
    left = [process for process in marked(tag) if process.is_alive()]
    for process in left:
        process.signal(signal.SIGKILL)
    return not left


def _unmount(folder: str) -> None:
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    below = [place for place in places if place.startswith(f"{folder}/")]
    for place in sorted(below, key=len, reverse=True):
        do("umount", "-l", place)
