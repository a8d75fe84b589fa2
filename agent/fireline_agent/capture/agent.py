"""Collects the agent's own footprint: which program captured, how much it uses, what it is made of.

Whoever judges the evidence must be able to say that the tool itself was the right one. Leaves to others: every other
process (processes).
"""

import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import procfs

VERSION = "1"

_PACKAGE: Final = Path(__file__).parent.parent
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def collect(context: Context, sink: Sink) -> None:
    """Write `host/agent.json` and `host/agent_files.jsonl`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    proc = context.roots.proc
    usage = resource.getrusage(resource.RUSAGE_SELF)
    document: dict[str, Any] = {
        "agent": _footprint(proc, context.agent_pid),
        "collector": {
            "pid": os.getpid(),
            "user_s": usage.ru_utime,
            "system_s": usage.ru_stime,
            "peak_resident_bytes": usage.ru_maxrss * 1024,
        },
        "interpreter": {"version": sys.version, **_hashed(Path(sys.executable).resolve())},
        "load": procfs.words(proc / "loadavg"),
    }
    with sink.artifact("host/agent.json", source=f"{proc}/{context.agent_pid}", method="procfs") as out:
        out.write(json.dumps(document, indent=1).encode())
    with sink.artifact("host/agent_files.jsonl", source=str(_PACKAGE), method="file") as out:
        for path in sorted(_PACKAGE.rglob("*.py")):
            out.record(_hashed(path))


def _footprint(proc: Path, pid: int) -> dict[str, Any]:
    """What the agent's own process uses; only its pid when it can't be looked at."""
    process = procfs.opened(proc, pid)
    if process is None:
        return {"pid": pid, "lacks": f"{proc}/{pid} isn't there"}
    with process:
        stat = process.stat()
        footprint: dict[str, Any] = {
            "pid": pid,
            **text("cmdline", (process.read("cmdline") or b"").replace(b"\0", b" ").strip()),
            **text("exe", process.link("exe") or b""),
            "exe_sha256": _sha256(proc / str(pid) / "exe"),
            "open_files": len(process.names("fd")),
            "cgroup": (process.read("cgroup") or b"").decode(errors="backslashreplace").splitlines(),
        }
    if stat is not None:
        footprint |= {
            "resident_bytes": stat.resident_pages * _PAGE_BYTES,
            "threads": stat.threads,
            "user_s": stat.user_ticks / _TICKS_PER_S,
            "system_s": stat.system_ticks / _TICKS_PER_S,
        }
    return footprint


def _hashed(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": _sha256(path)}


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
