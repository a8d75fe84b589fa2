"""Which operations are alive: each one has a file that its process holds locked, until its end is on record.

The kernel lets go of the lock with the process, so an operation whose file can be locked lost its process (kill -9, a
power cut), and another controller may settle it. One whose file is locked is somebody's work and is left alone: the
daemon's, or a command's that runs a controller of its own.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fireline_controller.model import StoreError


class Owners:
    """The files in a folder.

    Args:
        folder: made when it is first needed.
        is_shared: the record has controllers with folders of their own too. An operation without a file here may then
            be one of theirs; else nobody can be at work on it.
    """

    def __init__(self, folder: Path, *, is_shared: bool) -> None:
        self._folder = folder
        self.is_shared = is_shared

    def hold(self, operation_id: str) -> int:
        """Own an operation that is not on record yet; what `release` wants to have.

        Raises:
            StoreError: the file can't be made.
        """
        path = self._path(operation_id)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            while (held := _hold(path)) is None:
                pass  # one that looks for lost operations took the fresh file for a leftover
        except OSError as error:
            raise StoreError(f"{path}: can't be made: {error.strerror}") from None
        return held

    def release(self, operation_id: str, held: int, *, is_settled: bool) -> None:
        """Give up an operation. One whose end did not get on record keeps its file, so that it is settled later."""
        if is_settled:
            self._path(operation_id).unlink(missing_ok=True)
        os.close(held)

    def known(self) -> Sequence[str]:
        """The operations that have a file: alive, lost, or ended by a process that was killed right after."""
        return sorted(path.stem for path in self._folder.glob("*.lock"))

    @contextmanager
    def inherited(self, operation_id: str) -> Iterator[bool]:
        """Own an operation that lost its process, while the block lasts; false when somebody is at work on it."""
        try:
            held = os.open(self._path(operation_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield not self.is_shared
            return
        try:
            is_lost = _locked(held)
            yield is_lost
            if is_lost:
                self._path(operation_id).unlink(missing_ok=True)
        finally:
            os.close(held)

    def _path(self, operation_id: str) -> Path:
        return self._folder / f"{operation_id}.lock"


def _hold(path: Path) -> int | None:
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    if path.exists() and os.path.samestat(os.fstat(held), path.stat()):
        return held
    os.close(held)
    return None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
