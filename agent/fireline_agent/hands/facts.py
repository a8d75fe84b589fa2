"""What this host is, in the few words that its description and its manifests carry. Read once; blocking."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Facts:
    """Names of this machine. What can't be read is empty."""

    boot_id: str
    machine_id: str
    kernel: str
    operating_system: str


def read(root: Path = Path("/")) -> Facts:
    """The facts of the running machine."""
    release = dict(line.split("=", 1) for line in _text(root / "etc/os-release").splitlines() if "=" in line)
    return Facts(
        boot_id=_text(root / "proc/sys/kernel/random/boot_id"),
        machine_id=_text(root / "etc/machine-id"),
        kernel=os.uname().release,
        operating_system=release.get("PRETTY_NAME", "").strip('"'),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:4096]
    except OSError:
        return ""
