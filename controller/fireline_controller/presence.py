"""Who serves a state folder. Imports little: a command asks before it loads anything else."""

import fcntl
import time
from pathlib import Path
from typing import Final

from fireline_controller.model import ConfigError, PolicyError, StoreError

FILE: Final = "daemon.lock"
_STARTING_S: Final = 5.0


def address_of_daemon(folder: Path) -> str:
    """Where the daemon of a state folder answers; empty when none runs.

    Raises:
        ConfigError: there is no such folder.
        StoreError: a daemon runs but does not say where: it is starting or stuck.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no state folder; make one: fireline init --state {folder}")
    if not (folder / FILE).exists():
        return ""
    with Lock(folder) as lock:
        return lock.holder()


class Lock:
    """Who serves a state folder: a locked file with the address in it. The kernel drops the lock with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._file = self._path.open("a+")

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def holder(self) -> str:
        """The address of the daemon that serves the folder, or nothing.

        Raises:
            StoreError: a daemon has the lock but does not say where it answers: it is starting or stuck.
        """
        deadline = time.monotonic() + _STARTING_S
        while not self._is_free():
            self._file.seek(0)
            if address := self._file.read():
                return address
            if time.monotonic() > deadline:
                raise StoreError(f"{self._path}: a daemon holds it but does not answer; look at its log")
            time.sleep(0.05)
        return ""

    def take(self) -> None:
        """Serve the folder from now on.

        Raises:
            PolicyError: another daemon does.
        """
        for _ in range(20):  # a command that looks who serves holds a shared lock for an instant
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            message = f"{self._path.parent}: a daemon serves it already; stop that one first"
            raise PolicyError(message, reason="busy")
        self._file.truncate(0)

    def announce(self, address: str) -> None:
        """Say where the daemon answers, once it does."""
        self._file.write(address)
        self._file.flush()

    def _is_free(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return True
