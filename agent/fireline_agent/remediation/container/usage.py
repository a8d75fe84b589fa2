"""What running containers use: memory, CPU, processes. CPU needs two looks. Leaves to others: what is shown."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from fireline_agent.hands.docker import Engine, EngineError
from fireline_agent.remediation.container.selection import Container, number, part

_AT_ONCE: Final = 16  # threads, each with a connection of its own
_PAUSE_S: Final = 1.0  # between two looks at the CPU's counters


def memory_bytes(stats: Mapping[str, Any]) -> int:
    """Memory that the kernel can't take back at once: without inactive page cache, as `docker stats` counts."""
    memory = part(stats, "memory_stats")
    details = part(memory, "stats")  # cgroup v1 counts the whole tree as total_…, v2 always does
    cache = number(details, "total_inactive_file") or number(details, "inactive_file")
    return max(0, number(memory, "usage") - cache)


def pids(stats: Mapping[str, Any]) -> int:
    """Processes and threads."""
    return number(part(stats, "pids_stats"), "current")


def cpu_percent(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> float:
    """CPU between two looks; 100 is one CPU."""
    first, second = part(earlier, "cpu_stats"), part(later, "cpu_stats")
    used = number(part(second, "cpu_usage"), "total_usage") - number(part(first, "cpu_usage"), "total_usage")
    passed = number(second, "system_cpu_usage") - number(first, "system_cpu_usage")
    return round(100 * used / passed * (number(second, "online_cpus") or 1), 1) if passed > 0 and used > 0 else 0.0


def in_words(row: Mapping[str, Any], key: str) -> str:
    """What a row of a table uses, by the column that it is ordered by: `cpu_percent` or `memory_bytes`."""
    return f"{row['cpu_percent']:g} %" if key == "cpu_percent" else f"{row['memory_bytes'] >> 20} MiB"


def stats_of(engine: Engine, found: Sequence[Container]) -> list[dict[str, Any]]:
    """The counters of each container, several asked at once; an empty object for one that ended meanwhile."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(partial(_stats, engine), found))


def twice(engine: Engine, found: Sequence[Container]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The counters of each container now and a second later."""
    earlier = stats_of(engine, found)
    time.sleep(_PAUSE_S)
    return list(zip(earlier, stats_of(engine, found), strict=True))


def _stats(engine: Engine, container: Container) -> dict[str, Any]:
    try:
        return engine.stats(container.id)
    except EngineError as error:
        if error.reason != "http_status":
            raise
        return {}
