"""T0 to T2 on a busy host, each collector in a process of its own as in a capture."""

import importlib
import json
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fireline_agent.capture.collector import COLLECTORS, Absent, Context
from fireline_agent.hands import children
from tests.unit.sink import MemorySink

_TIERS = (
    "agent", "clocks", "system", "filesystems", "memory", "sockets", "conntrack", "network", "firewall", "dns",
    "processes", "executables", "hidden_processes",
)  # fmt: skip


@pytest.fixture
def busy_host() -> Iterator[None]:
    """500 more processes on this machine."""
    sleepers = [subprocess.Popen(["/bin/sleep", "120"]) for _ in range(500)]
    try:
        yield
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()


@pytest.mark.slow
def test_everything_about_500_processes_within_a_second_and_a_half(busy_host: None) -> None:
    """The wall time of the best of three rounds is printed by collector; what is held is the processor's time.

    Nothing here waits, so on a machine without other work the two are the same; with it, only the latter is ours.
    """
    rounds = [{name: _timed(name) for name in _TIERS} for _ in range(3)]

    best = min(rounds, key=lambda figures: sum(wall for wall, _ in figures.values()))
    for name, (wall_s, cpu_s) in best.items():
        print(f"{name:17} {wall_s * 1000:5.0f} ms wall {cpu_s * 1000:5.0f} ms cpu")
    print(f"{'all':17} {sum(wall_s for wall_s, _ in best.values()) * 1000:5.0f} ms wall")
    assert sum(cpu_s for _, cpu_s in best.values()) < 1.5


def _timed(name: str) -> tuple[float, float]:
    def work() -> bytes:
        with suppress(Absent):
            importlib.import_module(COLLECTORS[name]).collect(Context(), MemorySink())
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return json.dumps(sum(usage.ru_utime + usage.ru_stime for usage in usages)).encode()

    start = time.monotonic()
    cpu_s = json.loads(children.output_of(work, timeout_s=20))
    return time.monotonic() - start, cpu_s
