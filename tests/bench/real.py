"""Real agents, joined as a user's are, asked from the command line."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.fleet import Fleet
from tests.lab import Host, eventually

_CROWD = 'for n in $(seq "$0"); do sleep 86400 & done; wait'
_COUNT = "set -- /proc/[0-9]*; echo $#"


@contextmanager
def fleet(agents: int) -> Iterator[Fleet]:
    """So many hosts of the lab with an agent each, and a daemon."""
    with Fleet(agents) as made:
        made.fireline("host", "ping", "--target", "all", "--yes")  # connections stand
        yield made


def ping_s(made: Fleet) -> float:
    """Seconds from the start of the command line to its end."""
    began = time.perf_counter()
    made.fireline("host", "ping", "--target", "all", "--yes")
    return time.perf_counter() - began


@dataclass(frozen=True)
class Captured:
    """One capture. On the host: from the first collector's start to the last one's end, and the CPU of all of them.

    `sealed_s` is from the operation's start to the sealed and verified evidence, `command_s` the whole command line.
    """

    processes: int
    host_s: float
    cpu_s: float
    sealed_s: float
    command_s: float
    total_bytes: int


def crowd(host: Host, processes: int) -> None:
    """Let so many processes more sleep on a host."""
    before = _count(host)
    host.spawn(["bash", "-c", _CROWD, str(processes)])
    eventually(
        lambda: _count(host) > before + processes, within_s=30, what=f"{processes} processes to sleep", every_s=0.1
    )


def capture(made: Fleet, host: Host, profile: str) -> Captured:
    """Capture one host from the command line."""
    processes = _count(host)
    began = time.perf_counter()
    document = made.json("capture", "--target", host.name, "--profile", profile, "--reason", "measuring")
    command_s = time.perf_counter() - began
    (sealed,) = document["hosts"]
    manifest = made.json("evidence", "show", sealed["evidence_id"])["statement"]["predicate"]
    runs: list[dict[str, Any]] = manifest["collectors"]
    return Captured(
        processes=processes,
        host_s=(_last(runs) - _first(runs)).total_seconds(),
        cpu_s=sum(run["cpu_ms"] for run in runs) / 1e3,
        sealed_s=sealed["sealed_ms"] / 1e3,
        command_s=command_s,
        total_bytes=sum(run["total_bytes"] for run in runs),
    )


def _first(runs: list[dict[str, Any]]) -> datetime:
    return min(datetime.fromisoformat(run["started_at"]) for run in runs)


def _last(runs: list[dict[str, Any]]) -> datetime:
    return max(datetime.fromisoformat(run["ended_at"]) for run in runs)


def _count(host: Host) -> int:
    return int(host.run(["sh", "-c", _COUNT]))
