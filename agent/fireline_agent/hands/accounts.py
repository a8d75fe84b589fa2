"""The door to the host's accounts: who there is, who is locked, and usermod(8) to lock and let back.

Reads the files themselves, not the name service: accounts of a directory service are not the host's to disable.

Sources: passwd(5), shadow(5), group(5), usermod(8), login.defs(5).
"""

import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fireline_agent.hands import procfs

_TIMEOUT_S: Final = 30.0  # usermod waits up to 15 s for a lock of its own
_PAUSE_S: Final = 0.05
_FIRST_USER: Final = 1000  # UID_MIN of login.defs where it says nothing
_NOBODY: Final = 65534
# Never PATH: on a suspect host another program may stand there.
_PROGRAMS: Final = (Path("/usr/sbin/usermod"), Path("/sbin/usermod"), Path("/usr/bin/usermod"))
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class Account:
    """One line of passwd with what shadow says of it. `expires_day` counts from 1970, empty for never."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    is_locked: bool
    has_password: bool
    expires_day: str
    groups: tuple[str, ...]


def find(name: str, root: Path) -> Account | None:
    """The account of a name, None where the host has none.

    Raises:
        OSError: passwd or shadow can't be read.
    """
    row = _row(root / "etc/passwd", name, 7)
    if row is None:
        return None
    shadow = _row(root / "etc/shadow", name, 9) or ["", "!", "", "", "", "", "", "", ""]
    return Account(
        name=name,
        uid=int(row[2]),
        gid=int(row[3]),
        home=row[5],
        shell=row[6],
        is_locked=shadow[1].startswith(("!", "*")),
        has_password=shadow[1].strip("!*") != "",
        expires_day=shadow[7],
        groups=tuple(sorted(_groups(root, name))),
    )


def names(root: Path) -> tuple[str, ...]:
    """All accounts, for a hint."""
    return tuple(line.split(":")[0] for line in (procfs.words(root / "etc/passwd") or "").splitlines() if ":" in line)


def is_system(account: Account, root: Path) -> bool:
    """Whether it is a service's account rather than a person's (UID_MIN of login.defs)."""
    words = [line.split() for line in (procfs.words(root / "etc/login.defs") or "").splitlines()]
    first = next((int(w[1]) for w in words if len(w) == 2 and w[0] == "UID_MIN" and w[1].isdecimal()), _FIRST_USER)
    return account.uid < first or account.uid == _NOBODY


def modify(name: str, root: Path, *options: str) -> None:
    """Change an account by usermod.

    Raises:
        OSError: it is not installed, failed, or did not end; the message holds what it said.
    """
    program = next((p for p in _PROGRAMS if p.exists()), None)
    if program is None:
        raise OSError(f"usermod is not on this host (looked for {', '.join(map(str, _PROGRAMS))})")
    argv = [str(program), *(["--root", str(root)] if root != Path("/") else []), *options, "--", name]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_TIMEOUT_S, env=_ENVIRONMENT, cwd="/")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-300:]
        raise OSError(f"usermod {' '.join(options)} {name}: {said or error}") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"usermod {' '.join(options)} {name}: no end within {_TIMEOUT_S:g} s") from None


def processes_of(uid: int, proc: Path) -> list[tuple[int, int, str]]:
    """What runs as this user on the host itself: pid, start time, name. What runs in containers is not the user's."""
    found = []
    for process in procfs.processes(proc):
        with process:
            status = procfs.parse_status(process.read("status") or b"")
            ids = {int(word) for word in status.get("Uid", "").split()[:2] if word.isdecimal()}
            stat = process.stat()
            is_alive = stat is not None and stat.state not in "ZX"  # what ended and waits for its parent holds nothing
            if uid in ids and stat is not None and is_alive and not _is_contained(process.read("cgroup") or b""):
                found.append((process.pid, stat.start_ticks, stat.comm.decode(errors="backslashreplace")))
    return found


def _is_contained(cgroup: bytes) -> bool:
    """Below `user.slice` groups are the users' own to name as they like, and rootless containers are theirs too."""
    return bool(procfs.container_id(cgroup)) and b"/user.slice/" not in cgroup


def end_processes(uid: int, proc: Path, *, within_s: float, but: Collection[int] = ()) -> tuple[int, list[int]]:
    """Kill all that runs as this user until two looks find nothing; returns how many, and the pids that stay."""
    until, ended, quiet = time.monotonic() + within_s, set[tuple[int, int]](), 0
    while True:
        left = [(pid, start) for pid, start, _ in processes_of(uid, proc) if pid not in but]
        quiet = 0 if left else quiet + 1
        if quiet == 2 or time.monotonic() >= until:
            return len(ended), [pid for pid, _ in left]
        for pid, start in left:
            if _kill(proc, pid, start):
                ended.add((pid, start))
        time.sleep(_PAUSE_S)


def _kill(proc: Path, pid: int, start: int) -> bool:
    """By a descriptor of the process, so that none that took its number is hit (pidfd_open(2))."""
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            process = procfs.opened(proc, pid)
            if process is None:
                return False
            with process:
                now = process.stat()
            if now is not None and now.start_ticks == start:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def _row(path: Path, name: str, fields: int) -> list[str] | None:
    for line in path.read_text(errors="surrogateescape").splitlines():
        row = line.split(":")
        if row[0] == name and len(row) == fields:
            return row
    return None


def _groups(root: Path, name: str) -> list[str]:
    rows = (line.split(":") for line in (procfs.words(root / "etc/group") or "").splitlines())
    return [row[0] for row in rows if len(row) == 4 and name in row[3].split(",")]
