"""One large program without a file on a real host, through the whole product: who holds how much memory meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench import real
from tests.fleet import Fleet
from tests.integration.programs import deleted_program

_PROFILE = "large"
_SAMPLE_S = 0.02
# A lab host's disk is memory, and the kernel counts what a collector writes there as its own.
_COLLECTOR_BYTES = 8 << 30
_ORDER = f"""\
name: {_PROFILE}
description: programs without a file
limits: {{memory: {_COLLECTOR_BYTES >> 30}GiB, output: {_COLLECTOR_BYTES >> 30}GiB, deadline: 110s}}
collectors:
  - name: executables
"""
_AGENT = f"collector_memory_bytes = {_COLLECTOR_BYTES}\ncollector_output_bytes = {_COLLECTOR_BYTES}\n"


@dataclass(frozen=True)
class Passed:
    """How the evidence passed, and how much the peak of memory of both ends grew; `collecting` is the agent's child."""

    captured: real.Captured
    controller_grown_bytes: int
    agent_grown_bytes: int
    collecting_bytes: int


@contextmanager
def loaded_fleet(total_bytes: int) -> Iterator[Fleet]:
    """A host on which a program of that size runs, whose file was removed."""
    with Fleet(1, agent_settings=_AGENT, disk_bytes=3 * total_bytes + (1 << 30)) as made:
        (made.state / "profiles").mkdir(mode=0o700, exist_ok=True)
        (made.state / "profiles" / f"{_PROFILE}.yaml").write_text(_ORDER)
        real.ping_s(made)
        with deleted_program(made.lab["h1"], f"cp /bin/sleep $0 && head -c {total_bytes} /dev/urandom >> $0"):
            yield made


def passed(made: Fleet) -> Passed:
    """Capture it, and watch the daemon and the agent."""
    host = made.lab["h1"]
    assert made.daemon is not None and host.agent is not None
    with Watched(made.daemon.pid) as controller, Watched(host.agent.pid) as agent:
        captured = real.capture(made, host, _PROFILE)
    return Passed(captured, controller.grown_bytes, agent.grown_bytes, agent.children_bytes)


class Watched:
    """A process whose memory is looked at again and again, and that of its children beside it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._peak = resident_bytes(pid)
        self.children_bytes = 0
        self._is_over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._looking.join()

    @property
    def grown_bytes(self) -> int:
        """The peak, less what there was at the beginning."""
        return self._peak - self._before

    def _look(self) -> None:
        while not self._is_over.wait(_SAMPLE_S):
            self._peak = max(self._peak, resident_bytes(self._pid))
            self.children_bytes = max(self.children_bytes, sum(map(share_bytes, below(self._pid))))


def below(pid: int) -> Iterator[int]:
    """The children of a process, and theirs."""
    try:
        lists = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # gone
        return
    for child in (int(word) for line in lists for word in line.split()):
        yield child
        yield from below(child)


def resident_bytes(pid: int) -> int:
    """What a process holds in memory, shared pages too; 0 when it is gone."""
    return _of(pid, "status", "VmRSS:")


def share_bytes(pid: int) -> int:
    """The same, less what others hold of shared pages: forks of one process share most of theirs."""
    return _of(pid, "smaps_rollup", "Pss:")


def _of(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
