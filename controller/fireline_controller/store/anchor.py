"""The anchor: a file beside the database that holds the signed number and hash of the last line that was committed.

Lines cut off the end of a database leave no gap in its chain; the anchor is what tells. It follows each commit, so it
never shows a line that was not kept, and after a crash it may be behind by the last commit.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fireline_controller import journal
from fireline_controller.model import Checkpoint, JournalError

_MAX_BYTES = 64 << 10  # an anchor is under 1 KiB; nothing larger is read


class Anchor:
    """One anchor file. Threads and processes may share it."""

    def __init__(self, path: Path, key: EllipticCurvePrivateKey) -> None:
        self.path = path
        self._public_key = key.public_key()
        self._last_read: tuple[bytes, Checkpoint] | None = None

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    def read(self) -> Checkpoint:
        """What the file shows.

        Raises:
            JournalError: it is missing, unreadable, or not signed by the journal's key.
        """
        try:
            with self.path.open("rb") as file:
                signed = file.read(_MAX_BYTES)
        except FileNotFoundError:
            raise JournalError(
                f"anchor {self.path} is missing: whether lines were cut off the journal's end can't be told"
            ) from None
        except OSError as error:
            raise JournalError(f"anchor {self.path} can't be read: {error.strerror}") from None
        last = self._last_read
        if last is None or last[0] != signed:
            last = (signed, self._opened(signed))
            self._last_read = last
        return last[1]

    def _opened(self, signed: bytes) -> Checkpoint:
        try:
            return journal.open_checkpoint(signed, self._public_key)
        except JournalError as error:
            raise JournalError(f"anchor {self.path} is not to be trusted: {error}") from None

    def advance(self, to: Checkpoint, *, anew: bool = False) -> None:
        """Show this line from now on, unless another process has shown a later one; `anew` replaces whatever is there.

        Raises:
            OSError: the file can't be written; what it showed before stands.
        """
        with self._locked():
            if not anew and self._shows_at_least(to.seq):
                return
            self._replace(to.envelope)
            self._last_read = (to.envelope, to)

    def _shows_at_least(self, seq: int) -> bool:
        try:
            return self.read().seq >= seq
        except JournalError:
            # Missing or forged: not ours to cover up. The next append finds it and puts it on record.
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the lock is beside the file, since the file itself is replaced."""
        descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, signed: bytes) -> None:
        temporary = self.path.with_name(f"{self.path.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, signed)
            # Without it a power cut can leave an empty file behind the rename, which reads as tampering.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(self.path)
