"""Collects what the host is: boot, machine, kernel, uptime, timezone, taint, lockdown and security modules.

Leaves to others: kernel settings (sysctl), modules, clocks.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands import procfs
from fireline_agent.hands.roots import Roots

VERSION = "1"

# Documentation/admin-guide/tainted-kernels.rst; the bit's number is the place in this list.
_TAINTS: Final = (
    "proprietary module was loaded", "module was force loaded", "kernel running on an out of specification system",
    "module was force unloaded", "processor reported a machine check", "bad page referenced",
    "taint requested by a user space program", "kernel died recently: an oops or a bug",
    "ACPI table overridden by the user", "kernel issued a warning", "staging driver was loaded",
    "workaround for a platform firmware bug", "externally built (out of tree) module was loaded",
    "unsigned module was loaded", "soft lockup occurred", "kernel has been live patched", "auxiliary taint",
    "kernel was built with the struct randomization plugin", "an in-kernel test has been run",
    "userspace used a mutating debug operation in fwctl",
)  # fmt: skip
_TROUBLING_TAINTS: Final = frozenset({1, 3, 12, 13})  # how a rootkit's module would show
_FILES: Final = {
    "boot_id": "sys/kernel/random/boot_id",
    "hostname": "sys/kernel/hostname",
    "domain": "sys/kernel/domainname",
    "kernel_release": "sys/kernel/osrelease",
    "kernel_build": "sys/kernel/version",
    "kernel": "version",
    "command_line": "cmdline",
}


def collect(context: Context, sink: Sink) -> None:
    """Write `host/system.json`; see the module.

    Raises:
        ValueError: a parameter is unknown.
    """
    refuse_unknown(context.params)
    roots = context.roots
    taint = int(procfs.words(roots.proc / "sys/kernel/tainted") or 0)
    bits = [bit for bit in range(taint.bit_length()) if taint >> bit & 1]
    document: dict[str, Any] = {name: procfs.words(roots.proc / path) for name, path in _FILES.items()}
    document |= _identity(roots) | {
        "uptime_s": float((procfs.words(roots.proc / "uptime") or "0").split()[0]),
        "booted_at_s": _booted_at(roots.proc),
        "taint": taint,
        "taint_reasons": [_reason(bit) for bit in bits],
        "lockdown": _chosen(procfs.words(roots.sys / "kernel/security/lockdown")),
        "security_modules": _listed(procfs.words(roots.sys / "kernel/security/lsm")),
        "lacks": [name for name, path in _FILES.items() if not (roots.proc / path).exists()],
    }
    with sink.artifact(
        "host/system.json", source=f"{roots.proc}, {roots.sys}, {roots.root}etc", method="procfs"
    ) as out:
        out.write(json.dumps(document, indent=1).encode())
    if taint:
        severity = "warning" if _TROUBLING_TAINTS & set(bits) else "notice"
        reasons = "; ".join(_reason(bit) for bit in bits)
        sink.finding(severity, "kernel-tainted", f"taint {taint}", reasons)


def _identity(roots: Roots) -> dict[str, Any]:
    return {
        "machine_id": procfs.words(roots.root / "etc/machine-id"),
        "os_release": _os_release(roots.root),
        "timezone": _timezone(roots.root),
        "architecture": os.uname().machine,
    }


def _os_release(root: Path) -> dict[str, str]:
    lines = (procfs.words(root / "etc/os-release") or procfs.words(root / "usr/lib/os-release") or "").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, _, value in pairs}


def _timezone(root: Path) -> str:
    """The zone's name as /etc says it: the link's target after `zoneinfo/`, else /etc/timezone, else UTC."""
    try:
        return str((root / "etc/localtime").readlink()).partition("zoneinfo/")[2] or "unknown"
    except OSError:
        return procfs.words(root / "etc/timezone") or "UTC"


def _booted_at(proc: Path) -> int | None:
    lines = (procfs.words(proc / "stat") or "").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("btime ")), None)


def _chosen(choices: str | None) -> str:
    """The lockdown file shows its choices with the active one in brackets."""
    if choices is None:
        return "unknown"
    return choices.partition("[")[2].partition("]")[0] or choices


def _listed(modules: str | None) -> list[str]:
    return [] if modules is None else modules.split(",")


def _reason(bit: int) -> str:
    return _TAINTS[bit] if bit < len(_TAINTS) else f"taint bit {bit}, newer than this agent"
