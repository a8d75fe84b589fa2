"""A lab host for people without root: plain processes on an address of 127.0.0.0/8, with a folder for a disk.

What it can't do, it says: no cut or slow wires, no full disk, no engine, and the processes, sockets and files that a
capture finds on it are the machine's.
"""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from tests.lab.annexes import Tunnel
from tests.lab.errors import LabError, Unsupported
from tests.lab.host import Host
from tests.lab.processes import MARK, Process, eventually, marked
from tests.lab.vantage import Vantage


class LoopbackHost(Host):
    """One host."""

    @property
    @override
    def vantage(self) -> Vantage:
        self._cannot("be looked at from its own network")

    @override
    def second_uplink(self) -> tuple[Vantage, Vantage]:
        self._cannot("have another uplink")

    @override
    def guest(self, kind: str) -> Vantage:
        self._cannot(f"have a {kind} guest")

    @override
    def tunnel(self) -> Tunnel:
        self._cannot("have a tunnel")

    @override
    def boot(self, *, services: bool = True) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._state.boots += 1
        self._lab.save()
        if services:
            self.start_services()

    @override
    def start_services(self) -> None:
        if self._state.agent_argv:
            self.start_agent()

    @override
    def power_cut(self) -> None:
        eventually(self._kill_once, within_s=10, what=f"everything of {self.name} to end")
        self._state.agent = None
        self._state.is_frozen = False
        self._lab.save()

    @override
    def is_up(self) -> bool:
        return self._root.is_dir()

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
        try:
            done = subprocess.run(
                argv,
                input=text,
                capture_output=True,
                text=True,
                timeout=within_s,
                check=False,
                env=self._environment(env),
            )
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
        out = self.path(log)
        out.parent.mkdir(parents=True, exist_ok=True)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        pid = os.posix_spawnp(argv[0], list(argv), self._environment(env), file_actions=actions, setsid=True)
        return Process.of(pid)

    @override
    def path(self, inside: str) -> Path:
        return self._root / inside.lstrip("/")

    @override
    def place(self, inside: str) -> str:
        return str(self.path(inside))

    @override
    def freeze(self) -> None:
        for process in self._processes():
            process.signal(signal.SIGSTOP)
        self._state.is_frozen = True

    @override
    def thaw(self) -> None:
        for process in self._processes():
            process.signal(signal.SIGCONT)
        self._state.is_frozen = False

    @override
    def partition(self, *others: Host | str, ways: str = "both") -> None:
        self._cannot("be cut off")

    @override
    def heal(self) -> None:
        """Nothing of the wire can be broken here."""

    @override
    def link(self, *, up: bool) -> None:
        self._cannot("lose its cable")

    @override
    def impair(self, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> None:
        self._cannot("have a slow wire")

    @override
    def disk_full(self, *, leave_bytes: int = 0) -> None:
        self._cannot("have a full disk")

    @override
    def disk_free(self) -> None:
        self._cannot("have a full disk")

    @property
    def _root(self) -> Path:
        return self._lab.folder / f"disk-{self.name}"

    @property
    def _mark(self) -> str:
        return f"{self._lab.tag}/{self.name}"

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, **(env or {}), MARK: self._mark}

    def _processes(self) -> list[Process]:
        return list(marked(self._mark))

    def _kill_once(self) -> bool:
        left = [process for process in self._processes() if process.is_alive()]
        for process in left:
            process.signal(signal.SIGKILL)
        return not left

    def _cannot(self, what: str) -> NoReturn:
        raise Unsupported(f"{self.name}: a loopback host can't {what}; the namespace backend can (needs root)")
