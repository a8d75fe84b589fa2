"""A whole Fireline on one machine: a lab of hosts, a controller with a state folder, and an enrolled agent a host.

Everything is what a user has: the installed commands, real keys, real TLS. Tests, the demo and benches use it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import Host, Lab, eventually
from tests.lab.processes import MARK
from tests.lab.state import tags

BIN = Path(sys.executable).parent
AGENT_CONFIG = "/etc/fireline/agent.toml"
ENROLLMENT_PORT = 27701  # not the default one, which a real controller on this machine may hold
_FOLDER = re.compile(r"fireline-fleet-(fl[0-9a-f]{4})-")  # and the tag of its lab


class Fleet:
    """Hosts with agents, and the controller that they joined. What a killed one leaves behind is swept by the next.

    Args:
        hosts: how many, or their names.
        engine: give each host a Docker Engine.
        daemon: run `fireline serve`; without it commands embed the controller (hosts join at a passing daemon).
        labels: of hosts, by name.
        settings: the text of `fireline.toml` beside what is needed here, or how it follows from the lab.
        agent_settings: more lines for every `agent.toml`.
        listen: where every agent listens; at its host's own IPv4 address when left out.
        disk_bytes: the size of each host's disk.
    """

    def __init__(
        self,
        hosts: int | Sequence[str],
        *,
        engine: bool = False,
        daemon: bool = True,
        labels: dict[str, str] | None = None,
        settings: str | Callable[[Lab], str] = "",
        agent_settings: str = "",
        listen: str = "",
        backend: str = "",
        disk_bytes: int = 1 << 30,
    ) -> None:
        self.lab = Lab(hosts, engine=engine, agent=self._agent, backend=backend, disk_bytes=disk_bytes)
        self.state = Path()  # until it is made
        self._daemon_wanted = daemon
        self._labels = labels or {}
        self._settings = settings
        self._agent_settings = agent_settings
        self._listen = listen
        self.daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.lab.up()
            _sweep_folders()
            self.state = Path(tempfile.mkdtemp(prefix=f"fireline-fleet-{self.lab.tag}-")) / "state"
            self.state.mkdir(mode=0o700)
            listen = f'[listen]\nenrollment = "{self.lab.controller_address}:{ENROLLMENT_PORT}"\n'
            settings = self._settings if isinstance(self._settings, str) else self._settings(self.lab)
            (self.state / "fireline.toml").write_text(listen + settings)
            self.fireline("init", "--operator", "tester")
            self.start_daemon()
            for host in self.lab:
                self.enrol(host)
            if not self._daemon_wanted:
                self.stop_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the controller and the lab, and remove every trace."""
        try:
            self.stop_daemon()
        finally:
            if self.state.is_absolute():
                shutil.rmtree(self.state.parent)
            self.lab.down()

    def start_daemon(self, *options: str) -> None:
        """Start the controller's daemon and wait until it says that it is ready."""
        log = (self.state / "serve.log").open("ab")
        marked = {**os.environ, MARK: self.lab.tag}  # so that the lab's sweep ends it too
        with log:
            self.daemon = subprocess.Popen(
                [BIN / "fireline", "serve", "--state", self.state, *options],
                stdout=log, stderr=log, start_new_session=True, env=marked,
            )  # fmt: skip
        from fireline_controller import presence

        eventually(lambda: self._is_serving(presence.address_of_daemon), within_s=30, what="the daemon to be ready")

    def _is_serving(self, address_of: Any) -> bool:
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended: {(self.state / 'serve.log').read_text()[-2000:]}")
        return bool(address_of(self.state))

    def stop_daemon(self) -> None:
        """End the daemon in good order."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(20)
            self.daemon = None

    def kill_daemon(self) -> None:
        """End the daemon with signal 9."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def enrol(self, host: Host) -> None:
        """Let a host join and start its agent."""
        settings = {
            "listen": self._listen or f"{host.address}:7700",
            "state": host.place("/var/lib/fireline-agent"),
            "spool_reserve_bytes": 32 << 20,  # a lab's disk is a small one
            "spool_aside_bytes": 8 << 20,  # and lies in memory
        }
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
        host.write(AGENT_CONFIG, ("".join(lines) + self._agent_settings).encode())
        label = [f"--label={k}={v}" for k, v in {"lab": "yes", **self._labels_of(host)}.items()]
        token = self.fireline("enroll", "token", "--host", host.name, *label).strip()
        host.run([str(BIN / "fireline-agent"), "join", "--config", host.place(AGENT_CONFIG), "--token", token])
        host.start_agent()
        eventually(lambda: self._is_ready(host), within_s=30, what=f"the agent of {host.name} to be ready")

    def _is_ready(self, host: Host) -> bool:
        if host.agent is None:
            raise RuntimeError(f"the agent of {host.name} ended: {host.agent_log()[-2000:]}")
        return '"message": "serving"' in host.agent_log()

    def _labels_of(self, host: Host) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self._labels.get(host.name, "").split(",") if pair)

    def _agent(self, host: Host) -> Sequence[str]:
        return [str(BIN / "fireline-agent"), "run", "--config", host.place(AGENT_CONFIG)]

    def watched(self, name: str, *, times: int = 1, within_s: float = 30) -> None:
        """Wait until the daemon has begun so many times to watch a host."""
        log = self.state / "serve.log"
        eventually(
            lambda: log.read_text().count(f"{name}: watching") >= times, within_s=within_s, what=f"{name} to be watched"
        )

    def fireline(self, *arguments: str, status: int = 0, within_s: float = 120) -> str:
        """Run a command; its standard output, once its exit status is the wanted one."""
        done = self.try_fireline(*arguments, within_s=within_s)
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, status: int = 0, within_s: float = 120) -> Any:
        """Run a command with --json; its document."""
        return json.loads(self.fireline(*arguments, "--json", status=status, within_s=within_s))

    def try_fireline(self, *arguments: str, within_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a command as an operator does, without a terminal."""
        environment = {**os.environ, "FIRELINE_STATE": str(self.state), "NO_COLOR": "1"}
        return subprocess.run(
            [BIN / "fireline", *arguments], capture_output=True, text=True, timeout=within_s, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _sweep_folders() -> None:
    """Remove the controllers' folders whose labs are gone."""
    labs = set(tags())
    for folder in Path(tempfile.gettempdir()).iterdir():
        found = _FOLDER.match(folder.name)
        if found and found[1] not in labs:
            shutil.rmtree(folder, ignore_errors=True)  # another may sweep it at the same time
