"""Collects the files that were changed of late below chosen folders, with all times, owner, mode and hash, in one walk.

What counts is the time of the last change of the content or of the inode: the latter can't be set back by touch(1).
Access times stay as they were. Leaves to others: the bytes of the files, running programs (executables).
"""

import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.changed import File, Sweep
from fireline_agent.capture.collector import ArtifactWriter, Context, Sink, text
from fireline_agent.capture.intrusion import judge_file
from fireline_agent.capture.params import flag, number, refuse_unknown
from fireline_agent.hands import procfs, quiet, tree
from fireline_agent.hands.printable import shown

VERSION = "1"

_DAY_S: Final = 86400.0
# Read only, never written to.
_ROOTS: Final = ("/etc", "/root", "/home", "/opt", "/srv", "/tmp", "/usr", "/var", "/dev/shm", "/run")  # noqa: S108 -- looked at
_HASH_BYTES: Final = 64 << 20  # of one file: a database's would take the whole time
_HEAD_BYTES: Final = 4096
_MAX_ROOTS: Final = 100
_SHOWN_FINDINGS: Final = 50  # of one code; the rest is counted
_TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


@dataclass
class _Look:
    """What a file is looked at with, and what was noted so far."""

    since_ns: int
    hash_bytes: int
    hashes: bool
    owners: Mapping[int, str]
    groups: Mapping[int, str]
    noted: Counter[str] = field(default_factory=Counter)
    kept: int = 0


def collect(context: Context, sink: Sink) -> None:
    """Write `files/recent.jsonl`, a line for each thing that changed in the window; see the module.

    Parameters: `roots` (folders; by default those that an intruder would write to), `window_s` (a day), `hash` (true),
    `hash_bytes` (64 MiB: larger files are told without a hash).

    Raises:
        ValueError: a parameter is unknown, or of the wrong kind.
    """
    refuse_unknown(context.params, "roots", "window_s", "hash", "hash_bytes")
    window_s = number(context.params, "window_s", default=_DAY_S, highest=10 * 366 * _DAY_S)
    root = context.roots.root
    look = _Look(
        since_ns=time.time_ns() - int(window_s * 1e9),
        hash_bytes=int(number(context.params, "hash_bytes", default=_HASH_BYTES, highest=float(1 << 40))),
        hashes=flag(context.params, "hash", default=True),
        owners=_names(root / "etc/passwd"),
        groups=_names(root / "etc/group"),
    )
    wanted = _roots(context.params)
    places = _places(root, wanted)
    with sink.artifact("files/recent.jsonl", source=", ".join(wanted), method="openat") as out:
        out.facts |= {"roots": wanted, "window_s": window_s, "since_ns": look.since_ns}
        sweep = _swept(places, tree.mount_points(context.roots.proc), lambda file: _tell(file, root, look, sink, out))
        out.facts |= {"files": look.kept, "seen": sweep.seen, "folders": sweep.folders}
        out.facts |= {"findings": dict(look.noted)}
        out.facts |= {"other_file_systems": sweep.other_file_systems, "unreadable": sweep.lacks}


def _roots(params: Mapping[str, Any]) -> list[str]:
    roots = params.get("roots", list(_ROOTS))
    is_list = isinstance(roots, list) and 0 < len(roots) <= _MAX_ROOTS
    if not is_list or not all(isinstance(r, str) and r.startswith("/") and "\0" not in r for r in roots):
        raise ValueError(f"collector parameter 'roots': wanted 1 to {_MAX_ROOTS} absolute paths, found {roots!r:.200}")
    return [os.path.normpath(r) for r in roots]


def _swept(places: Mapping[str, tuple[int, int] | None], mounts: frozenset[str], tell: Callable[[File], None]) -> Sweep:
    """One walk over all folders asked for: one that lies in another's tree is not gone through twice."""
    sweep = Sweep(tell, mounts, frozenset(i for i in places.values() if i is not None))
    for place, identity in places.items():
        if identity is not None and identity not in sweep.passed:
            sweep.below(place)
    return sweep


def _places(root: Path, wanted: list[str]) -> dict[str, tuple[int, int] | None]:
    """The folders, each with its identity (None where there is none), the one nearest to the root first."""
    places = [str(root / w.lstrip("/")) for w in sorted(wanted, key=len)]
    return {place: _identity(place) for place in places}


def _identity(place: str) -> tuple[int, int] | None:
    try:
        found = Path(place).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _tell(file: File, root: Path, look: _Look, sink: Sink, out: ArtifactWriter) -> None:
    if max(file.status.st_mtime_ns, file.status.st_ctime_ns) >= look.since_ns:
        look.kept += 1
        out.record(_record(file, root, look, sink))


def _record(file: File, root: Path, look: _Look, sink: Sink) -> dict[str, Any]:
    found = file.status
    path = _on_host(file.path, root)
    kind = stat.S_IFMT(found.st_mode)
    record = {
        **text("path", path),
        "type": _TYPES.get(kind, "unknown"),
        "size_bytes": found.st_size,
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        "uid": found.st_uid,
        "gid": found.st_gid,
        "owner": look.owners.get(found.st_uid, ""),
        "group": look.groups.get(found.st_gid, ""),
        "links": found.st_nlink,
        "device": f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}",
        "inode": found.st_ino,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,
        "accessed_ns": found.st_atime_ns,
        "born_ns": quiet.born_ns(file.folder, file.name),
    }
    if kind == stat.S_IFLNK:
        target = quiet.link_target(file.folder, file.name)
        return record if target is None else record | text("target", target)
    return record | _content(file, path, look, sink) if kind == stat.S_IFREG else record


def _content(file: File, path: bytes, look: _Look, sink: Sink) -> dict[str, Any]:
    try:
        opened = quiet.opened(file.folder, file.name, (file.status.st_dev, file.status.st_ino))
    except OSError as error:
        return {"sha256": None, "lacks": error.strerror or str(error)}
    with opened:
        try:
            head = opened.read(_HEAD_BYTES)
            has_capabilities = quiet.has_capabilities(opened.fileno())
            told = _hashed(opened, file.status.st_size, look)
        except OSError as error:
            return {"sha256": None, "lacks": error.strerror}
    for severity, code, summary in judge_file(path, file.status.st_mode, head, has_capabilities=has_capabilities):
        look.noted[code] += 1
        if look.noted[code] == _SHOWN_FINDINGS:
            summary += "; those after it stand in files/recent.jsonl only"
        if look.noted[code] <= _SHOWN_FINDINGS:
            sink.finding(severity, code, shown(path), summary)
    return {"has_capabilities": has_capabilities, **told}


def _hashed(opened: Any, size: int, look: _Look) -> dict[str, Any]:
    if not look.hashes:
        return {"sha256": None}
    if size > look.hash_bytes:
        return {"sha256": None, "lacks": f"over {look.hash_bytes} bytes, not hashed"}
    opened.seek(0)
    digest, read = hashlib.sha256(), 0
    # It may grow while it is read: what is hashed has a bound of its own.
    while read <= look.hash_bytes and (block := opened.read(1 << 20)):
        digest.update(block)
        read += len(block)
    return {"sha256": digest.hexdigest(), "hashed_bytes": read}


def _on_host(path: str, root: Path) -> bytes:
    prefix = os.path.realpath(root).rstrip("/")
    return os.fsencode(path.removeprefix(prefix)) or b"/"


def _names(path: Path) -> dict[int, str]:
    """Names by number, of a file as passwd(5) and group(5) say; the host's own, asked of no service."""
    rows = (line.split(":") for line in (procfs.words(path) or "").splitlines())
    return {int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdecimal()}
