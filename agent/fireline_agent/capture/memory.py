"""Collects memory, swap, load and pressure, as the kernel counts them.

Leaves to others: single processes (processes), control groups of containers (docker_containers).
"""

import json
import os
from pathlib import Path
from typing import Any

from fireline_agent.capture.collector import Absent, Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import procfs

VERSION = "1"


def collect(context: Context, sink: Sink) -> None:
    """Write `host/memory.json`; see the module.

    Raises:
        Absent: there is no meminfo.
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    proc = context.roots.proc
    meminfo = _meminfo(procfs.words(proc / "meminfo"))
    if not meminfo:
        raise Absent(f"no memory figures: {proc}/meminfo isn't there or is empty")
    document = {
        "memory_bytes": meminfo,
        "swaps": _swaps(procfs.words(proc / "swaps")),
        "load": _load(procfs.words(proc / "loadavg")),
        "processors": os.cpu_count(),
        "pressure": {name: _pressure(proc / "pressure" / name) for name in ("cpu", "memory", "io")},
        "vmstat": _numbers(procfs.words(proc / "vmstat")),
    }
    with sink.artifact("host/memory.json", source=f"{proc}/meminfo and others", method="procfs") as out:
        out.write(json.dumps(document, indent=1).encode())


def _meminfo(text: str | None) -> dict[str, int]:
    """Every line of meminfo, in bytes; the lines without a unit are counts of huge pages."""
    figures = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(":")
        parts = value.split()
        if parts and parts[0].isdecimal():
            figures[key] = int(parts[0]) * (1024 if parts[1:] == ["kB"] else 1)
    return figures


def _swaps(text: str | None) -> list[dict[str, Any]]:
    rows = [line.rsplit(None, 4) for line in (text or "").splitlines()[1:]]
    return [
        {"path": row[0].strip(), "kind": row[1], "size_bytes": int(row[2]) * 1024, "used_bytes": int(row[3]) * 1024}
        for row in rows
        if len(row) == 5
    ]


def _load(text: str | None) -> dict[str, Any]:
    fields = (text or "").split()
    if len(fields) < 5:
        return {}
    running, _, total = fields[3].partition("/")
    return {
        "1_min": float(fields[0]),
        "5_min": float(fields[1]),
        "15_min": float(fields[2]),
        "running_threads": int(running),
        "threads": int(total),
    }


def _pressure(path: Path) -> dict[str, dict[str, str]]:
    """Stall times of one resource; empty where the kernel doesn't count them."""
    lines = (procfs.words(path) or "").splitlines()
    return {line.split()[0]: dict(pair.split("=", 1) for pair in line.split()[1:]) for line in lines}


def _numbers(text: str | None) -> dict[str, int]:
    rows = (line.split() for line in (text or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}
