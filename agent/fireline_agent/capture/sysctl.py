"""Kernel settings: everything readable under /proc/sys and the kernel's command line. Stands out: who handles crashes.

Leaves to others: kernel taint and lockdown (system), modules (modules).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fireline_agent.capture.collector import Absent, Context, Sink, text
from fireline_agent.capture.params import refuse_unknown
from fireline_agent.hands.secrets import MASK

VERSION: Final = "1"

MAX_VALUE_BYTES: Final = 64 << 10  # per setting; the longest real ones are bitmaps of a few KiB
# Key material that the kernel itself hands out to root: RFC 7413 (TCP Fast Open), RFC 7217 (IPv6 addresses).
_SECRET: Final = ("tcp_fastopen_key", "stable_secret")
# Crash handlers that distributions install. Anything else behind the pipe runs as root at every crash.
_CRASH_HANDLERS: Final = (
    "/lib/systemd/systemd-coredump",
    "/usr/lib/systemd/systemd-coredump",
    "/usr/libexec/systemd-coredump",
    "/usr/share/apport/apport",
    "/usr/libexec/abrt-hook-ccpp",
)
_MODPROBES: Final = ("/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe", "/usr/bin/modprobe")


def collect(context: Context, sink: Sink) -> None:
    """Write `kernel/sysctl.jsonl` and `kernel/cmdline.txt`.

    Raises:
        Absent: there is no /proc/sys.
        ValueError: the order has params; there are none.
    """
    refuse_unknown(context.params)
    base = context.roots.proc / "sys"
    if not base.is_dir():
        raise Absent(f"{base} is not there: no kernel settings to read")
    settings = _write_settings(base, _skipped(context.roots.proc), sink)
    _note_crash_handler(settings.get("kernel.core_pattern", b""), sink)
    _note_helpers(settings, _read(context.roots.sys / "kernel/uevent_helper") or b"", sink)
    _write_cmdline(context.roots.proc / "cmdline", sink)


def _write_settings(base: Path, skipped: frozenset[str], sink: Sink) -> dict[str, bytes]:
    """Write every setting; return those of the kernel itself, for the findings."""
    kept: dict[str, bytes] = {}
    unreadable: list[str] = []
    with sink.artifact("kernel/sysctl.jsonl", source=str(base), method="procfs") as artifact:
        for path in _walk(base, skipped):
            key = os.fsencode(path.relative_to(base)).replace(b"/", b".")
            value = _read(path)
            if value is None:
                unreadable.append(key.decode(errors="backslashreplace"))
                continue
            if key.startswith(b"kernel."):
                kept[key.decode(errors="backslashreplace")] = value.strip()
            shown = MASK.encode() if path.name in _SECRET and value.strip() else value.rstrip(b"\n")
            artifact.record(text("key", key) | text("value", shown))
        # Bounded by the number of write-only triggers that the kernel has, a few dozen; the rest would be news.
        artifact.facts |= {"unreadable": unreadable[:200], "unreadable_count": len(unreadable)}
    return kept


def _walk(base: Path, skipped: frozenset[str]) -> Iterator[Path]:
    for folder, folders, files in os.walk(base):
        folders[:] = sorted(name for name in folders if f"{folder}/{name}" not in skipped)
        yield from (Path(folder, name) for name in sorted(files))


def _skipped(proc: Path) -> frozenset[str]:
    """The automount point of binfmt_misc while nothing is mounted: to look into it would mount it."""
    place = proc / "sys/fs/binfmt_misc"
    mounts = _read(proc / "self/mountinfo", limit=8 << 20) or b""
    kinds = [line.partition(b" - ")[2].split(b" ", 1)[0] for line in mounts.splitlines() if b"/binfmt_misc " in line]
    return frozenset({str(place)}) if kinds and kinds[-1] == b"autofs" else frozenset()


def _read(path: Path, *, limit: int = MAX_VALUE_BYTES) -> bytes | None:
    """A small file's bytes; None for what root can't read either: triggers, and what vanished meanwhile."""
    try:
        if not path.stat().st_mode & (stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH):
            return None
        with path.open("rb", buffering=0) as file:
            return file.read(limit)
    except OSError:
        return None


def _write_cmdline(path: Path, sink: Sink) -> None:
    cmdline = _read(path)
    if cmdline is not None:
        with sink.artifact("kernel/cmdline.txt", source=str(path), method="procfs") as artifact:
            artifact.write(cmdline)


def _note_crash_handler(pattern: bytes, sink: Sink) -> None:
    shown = pattern.decode(errors="backslashreplace")
    handler = shown.removeprefix("|").split(" ", 1)[0]
    if shown.startswith("|") and handler not in _CRASH_HANDLERS:
        sink.finding(
            "warning",
            "core-pattern-pipe",
            "kernel.core_pattern",
            f"every crash runs {shown[1:200]!r} as root; no known crash handler: check where it came from",
        )


def _note_helpers(settings: dict[str, bytes], uevent_helper: bytes, sink: Sink) -> None:
    modprobe = settings.get("kernel.modprobe", b"").decode(errors="backslashreplace")
    if modprobe and modprobe not in _MODPROBES:
        sink.finding(
            "warning",
            "modprobe-path-changed",
            "kernel.modprobe",
            f"the kernel runs {modprobe[:200]!r} as root to load modules; wanted {_MODPROBES[0]}",
        )
    for key, raw in (("kernel.hotplug", settings.get("kernel.hotplug", b"")), ("uevent_helper", uevent_helper)):
        helper = raw.strip().decode(errors="backslashreplace")
        if helper:
            summary = f"the kernel runs {helper[:200]!r} as root at every device event; normally there is none"
            sink.finding("warning", "uevent-helper-set", key, summary)
