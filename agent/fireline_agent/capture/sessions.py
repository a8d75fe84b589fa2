"""Who is and was logged in: utmp, wtmp, btmp and lastlog records, and the sessions that systemd-logind knows.

Leaves to others: processes and their login uids (processes), log files.
"""

import ipaddress
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import Context, Sink, text
from fireline_agent.capture.params import refuse_unknown

VERSION: Final = "1"

MAX_RECORDS: Final = 50_000  # per file, the newest: btmp of a host under a password attack has millions
MAX_STATE_BYTES: Final = 64 << 10  # per file of logind
MAX_STATE_FILES: Final = 10_000

# utmp(5)
_KINDS: Final = (
    "empty",
    "run-level",
    "boot",
    "new-time",
    "old-time",
    "init-process",
    "login-process",
    "user-process",
    "dead-process",
    "accounting",
)
_BOOT, _USER = 2, 7
# glibc's struct utmp: with 32-bit times where 32-bit programs share the files (x86, ppc), else with 64-bit ones (arm).
_UTMP_LAYOUTS: Final = (struct.Struct("<h2xi32s4s32s256shhiii16s20x"), struct.Struct("<h2xi32s4s32s256shhqqq16s20x4x"))
_LASTLOG_LAYOUTS: Final = (struct.Struct("<i32s256s"), struct.Struct("<q32s256s"))
_UTMP_FILES: Final = {"utmp": ("run/utmp", "var/run/utmp"), "wtmp": ("var/log/wtmp",), "btmp": ("var/log/btmp",)}
# Successors of lastlog and wtmp (SQLite); kept whole, read later by those who need them.
_DATABASES: Final = {"lastlog2.db": "var/lib/lastlog/lastlog2.db", "wtmpdb.db": "var/lib/wtmpdb/wtmp.db"}


@dataclass(frozen=True)
class _Login:
    """One record of utmp, wtmp or btmp. `at_us` is microseconds since 1970 by the host's clock."""

    kind: int
    pid: int
    line: bytes
    user: bytes
    host: bytes
    session: int
    at_us: int
    address: bytes
    is_zero: bool

    @property
    def record(self) -> dict[str, Any]:
        name = _KINDS[self.kind] if 0 <= self.kind < len(_KINDS) else f"type-{self.kind}"
        fields = text("user", self.user) | text("line", self.line) | text("host", self.host)
        place = {"pid": self.pid, "session": self.session, "address": _address(self.address)}
        return {"kind": name, "at": _moment(self.at_us)} | fields | place


def collect(context: Context, sink: Sink) -> None:
    """Write `sessions/*.jsonl`: utmp, wtmp, btmp, lastlog, and logind's sessions and users.

    Raises:
        ValueError: the order has params; there are none.
    """
    refuse_unknown(context.params)
    root = context.roots.root
    for name, places in _UTMP_FILES.items():
        path = next((root / place for place in places if _size(root / place)), None)
        if path is not None:
            logins = _write_logins(name, path, sink)
            _note_wiped(name, path, logins, sink)
            if name == "utmp":
                _note_root(logins, sink)
    _write_last_logins(root / "var/log/lastlog", sink)
    for kind in ("sessions", "users"):
        _write_logind(kind, root / "run/systemd" / kind, sink)
    for name, place in _DATABASES.items():
        _copy(name, root / place, sink)


def _write_logins(name: str, path: Path, sink: Sink) -> list[_Login]:
    with sink.artifact(f"sessions/{name}.jsonl", source=str(path), method="utmp") as artifact:
        raw, size = _tail(path)
        layout = _layout(raw, size)
        logins = list(_logins(raw, size, layout))
        artifact.facts |= {"file_bytes": size, "record_bytes": layout.size, "records": size // layout.size}
        artifact.facts |= {
            "skipped_oldest": max(0, size // layout.size - len(logins)),
            "torn_bytes": size % layout.size,
        }
        for login in logins:
            artifact.record(login.record)
    return logins


def _size(path: Path) -> int:
    """A regular file's size, 0 for anything else."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _tail(path: Path) -> tuple[bytes, int]:
    """The newest bytes of a file, cut where a record of either layout begins, and the whole size."""
    both = _UTMP_LAYOUTS[0].size * _UTMP_LAYOUTS[1].size  # 153,600: a multiple of both record sizes
    most = MAX_RECORDS * _UTMP_LAYOUTS[1].size // both * both
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, -(-(size - most) // both) * both))
        return file.read(most), size


def _layout(raw: bytes, size: int) -> struct.Struct:
    """The layout in which the file makes sense: whole records of known kinds, in years that can be."""
    return max(_UTMP_LAYOUTS, key=lambda layout: (_plausible(raw, layout), size % layout.size == 0))


def _plausible(raw: bytes, layout: struct.Struct) -> int:
    head = raw[: 64 * layout.size]
    return sum(
        1 for fields in layout.iter_unpack(head[: len(head) // layout.size * layout.size]) if _makes_sense(fields)
    )


def _makes_sense(fields: tuple[Any, ...]) -> bool:
    kind, seconds, micros = int(fields[0]), int(fields[9]), int(fields[10])
    return 0 <= kind < len(_KINDS) and 0 <= seconds < 1 << 32 and 0 <= micros < 1_000_000


def _logins(raw: bytes, size: int, layout: struct.Struct) -> Iterator[_Login]:
    whole = len(raw) // layout.size * layout.size
    for start in range(max(0, whole - MAX_RECORDS * layout.size), whole, layout.size):
        record = raw[start : start + layout.size]
        kind, pid, line, _, user, host, _, _, session, seconds, micros, address = layout.unpack(record)
        moment = seconds * 1_000_000 + micros
        yield _Login(kind, pid, _c(line), _c(user), _c(host), session, moment, address, not any(record))


def _c(raw: bytes) -> bytes:
    """A C string: up to the first zero byte."""
    return raw.partition(b"\0")[0]


def _address(raw: bytes) -> str:
    if not any(raw):
        return ""
    if not any(raw[4:]):
        return str(ipaddress.IPv4Address(raw[:4]))
    return str(ipaddress.IPv6Address(raw))


def _moment(at_us: int) -> str:
    """RFC 3339, or the bare number where a record's time is out of any calendar."""
    try:
        return datetime.fromtimestamp(at_us / 1_000_000, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return str(at_us)


def _note_wiped(name: str, path: Path, logins: list[_Login], sink: Sink) -> None:
    """Log wipers overwrite records with zeros; nothing else makes a zero record in a log that is only appended to."""
    zeros = sum(1 for login in logins if login.is_zero)
    if name != "utmp" and zeros:
        summary = f"{zeros} records of {path} are all zeros: logins were wiped out of it"
        sink.finding("warning", "login-record-wiped", str(path), summary)


def _note_root(logins: list[_Login], sink: Sink) -> None:
    for login in logins:
        if login.kind == _USER and login.user == b"root" and login.host:
            host = login.host.decode(errors="backslashreplace")
            line = login.line.decode(errors="backslashreplace")
            summary = f"root is logged in from {host} on {line} since {_moment(login.at_us)}"
            sink.finding("notice", "root-session-remote", line, summary)


def _write_last_logins(path: Path, sink: Sink) -> None:
    """Lastlog is an array by uid, mostly a hole; users who never logged in are left out."""
    size = _size(path)
    if not size:
        return
    with sink.artifact("sessions/lastlog.jsonl", source=str(path), method="lastlog") as artifact:
        layout = next((layout for layout in _LASTLOG_LAYOUTS if size % layout.size == 0), _LASTLOG_LAYOUTS[0])
        for uid, raw in _filled(path, layout.size):
            seconds, line, host = layout.unpack(raw)
            artifact.record(
                {"uid": uid, "at": _moment(seconds * 1_000_000)} | text("line", _c(line)) | text("host", _c(host))
            )


def _filled(path: Path, width: int) -> Iterator[tuple[int, bytes]]:
    """The records that are not zero, at most MAX_RECORDS. Holes are leapt over: a uid of 4 billion makes 1.2 TB."""
    with path.open("rb", buffering=0) as file:
        found, offset = 0, 0
        while found < MAX_RECORDS:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA) // width * width
            except OSError:  # ENXIO: nothing but a hole behind
                return
            file.seek(offset)
            block = file.read(width * 1024)
            for start in range(0, len(block) - width + 1, width):
                if any(block[start : start + width]):
                    found += 1
                    yield (offset + start) // width, block[start : start + width]
            if len(block) < width:
                return
            offset += len(block) // width * width


def _write_logind(kind: str, folder: Path, sink: Sink) -> None:
    """logind's state files, `KEY=VALUE` lines. Beside them are FIFOs (`ID.ref`), which must not be opened."""
    try:
        paths = sorted(folder.iterdir())[:MAX_STATE_FILES]
    except OSError:
        return
    with sink.artifact(f"sessions/logind-{kind}.jsonl", source=str(folder), method="logind-state") as artifact:
        for path in paths:
            if _size(path):
                artifact.record(text("id", os.fsencode(path.name)) | {"state": _state(path)})


def _state(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_STATE_BYTES).decode(errors="backslashreplace").splitlines()
    except OSError:  # the session ended
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def _copy(name: str, path: Path, sink: Sink) -> None:
    if not _size(path):
        return
    with sink.artifact(f"sessions/{name}", source=str(path), method="copy") as artifact, path.open("rb") as file:
        while block := file.read(1 << 20):
            artifact.write(block)
