"""What a container may use, in the engine's own words, and how to say so to it. Pure.

The engine takes no limit off a running container: 0 means that it stays. No limit is therefore the highest that the
kernel knows for memory, and -1 for the rest. CPU is set in the way in which the container has it, as the engine refuses
to mix `NanoCpus` with a quota.

Source: Docker Engine API 1.41, ContainerUpdate; daemon/container.go and daemon_unix.go of moby.
"""

from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.remediation.container.selection import number

KEYS: Final = ("Memory", "MemorySwap", "NanoCpus", "CpuPeriod", "CpuQuota", "PidsLimit")
_NO_MEMORY_LIMIT: Final = (1 << 63) - 4096  # PAGE_COUNTER_MAX in bytes: what the kernel itself calls no limit
_HUGE: Final = 1 << 60
_PERIOD_US: Final = 100_000  # the kernel's default
_NANO: Final = 1_000_000_000


def former(host_config: Mapping[str, Any]) -> dict[str, int]:
    """The limits of an inspected container; 0 where it has none."""
    return {key: number(host_config, key) for key in KEYS}


def wanted(params: Mapping[str, Any], limits: Mapping[str, int]) -> dict[str, int]:
    """The engine's settings for what was asked for, given the limits that there are."""
    asked: dict[str, int] = {}
    if params["memory"] is not None:
        asked["Memory"] = params["memory"]
        asked["MemorySwap"] = params["memory"] if params["memory_swap"] is None else params["memory_swap"]
    elif params["memory_swap"] is not None:
        asked["MemorySwap"] = params["memory_swap"]
    if params["cpus"] is not None:
        asked |= _cpu(params["cpus"], limits)
    if params["pids"] is not None:
        asked["PidsLimit"] = params["pids"]
    return asked


def _cpu(cpus: float, limits: Mapping[str, int]) -> dict[str, int]:
    if limits["NanoCpus"]:
        return {"NanoCpus": round(cpus * _NANO)}
    period = limits["CpuPeriod"] or _PERIOD_US
    return {"CpuPeriod": period, "CpuQuota": round(cpus * period)}


def way_back(changed: Mapping[str, int], limits: Mapping[str, int]) -> list[dict[str, int]]:
    """The settings that bring former limits back, in steps; memory and swap are checked against each other."""
    back = {key: limits[key] or -1 for key in changed if key in ("NanoCpus", "CpuQuota", "PidsLimit")}
    if "CpuPeriod" in changed:
        back["CpuPeriod"] = limits["CpuPeriod"] or _PERIOD_US
    steps = [back] if back else []
    if "MemorySwap" in changed:
        steps += _memory_back(limits)
    return steps


def _memory_back(limits: Mapping[str, int]) -> list[dict[str, int]]:
    if not is_limit(limits["Memory"]):
        # Memory may not be over memory and swap, and is not compared with -1 as one would think.
        return [{"Memory": _NO_MEMORY_LIMIT, "MemorySwap": _NO_MEMORY_LIMIT}, {"MemorySwap": -1}]
    swap = limits["MemorySwap"] or 2 * limits["Memory"]  # what the engine gives where nobody said
    return [{"Memory": limits["Memory"], "MemorySwap": swap}]


def is_limit(value: int) -> bool:
    """Whether a number of bytes binds anything."""
    return 0 < value < _HUGE


def sentence(limits: Mapping[str, int]) -> str:
    """For a person, such as `512 MiB memory, no swap, 1.5 CPUs, 100 processes`."""
    cpus = limits["NanoCpus"] / _NANO if limits["NanoCpus"] > 0 else _quota_cpus(limits)
    words = [
        f"{_bytes(limits['Memory'])} memory" if is_limit(limits["Memory"]) else "any memory",
        f"{_bytes(limits['MemorySwap'])} memory and swap" if is_limit(limits["MemorySwap"]) else "any swap",
        f"{cpus:g} CPUs" if cpus > 0 else "any CPU",
        f"{limits['PidsLimit']} processes" if limits["PidsLimit"] > 0 else "any processes",
    ]
    return ", ".join(words)


def _quota_cpus(limits: Mapping[str, int]) -> float:
    return max(0.0, limits["CpuQuota"] / (limits["CpuPeriod"] or _PERIOD_US))


def _bytes(value: int) -> str:
    return f"{value >> 20} MiB" if value % (1 << 20) == 0 else f"{value} B"
