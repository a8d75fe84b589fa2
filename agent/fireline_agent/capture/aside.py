"""Bytes of the disk that are held for captures of the day when it is full: a file that is deleted to make room.

Leaves to others: when a capture needs them (spool).
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_STEP_BYTES: Final = 1 << 20
SEALING_SHARE: Final = 8  # one part in so many is left for the order, the notes and the manifest


class Aside:
    """The file that holds the bytes. Every method blocks on the disk."""

    def __init__(self, path: Path, *, wanted_bytes: int) -> None:
        self._path = path
        self._wanted_bytes = wanted_bytes
        self._is_lent = False
        if self.held_bytes() > wanted_bytes:  # the setting was changed
            self._path.unlink(missing_ok=True)

    def held_bytes(self) -> int:
        """How many bytes would be free without the file."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def room_bytes(self, *, used_bytes: int, free_bytes: int) -> int:
        """What captures may write when nothing else may be written any more.

        Args:
            used_bytes: what captures hold already; it counts once the bytes are given up.
            free_bytes: what the file system has left.
        """
        left = self.held_bytes() or min(self._wanted_bytes - used_bytes, free_bytes)
        return max(0, left - left // SEALING_SHARE)

    def give_up(self) -> None:
        """Make the room that a capture needs."""
        if self.held_bytes():
            self._path.unlink(missing_ok=True)
            self._is_lent = True
            log.warning("the disk is full: the bytes that were set aside for captures are given to one")

    def take_back(self, *, spare_bytes: int, free_bytes: int) -> None:
        """Set the bytes aside if that leaves others enough.

        Those that were lent to a capture which is gone again are taken back in any case, as far as they are there.

        Args:
            spare_bytes: what is free beyond the reserve.
            free_bytes: what the file system has left.
        """
        held = self.held_bytes()
        if held < self._wanted_bytes <= held + spare_bytes:
            self._allocate(self._wanted_bytes)
        elif self._is_lent and not held:
            size = min(self._wanted_bytes, free_bytes) // _STEP_BYTES * _STEP_BYTES
            if size:
                self._allocate(size)

    def _allocate(self, size: int) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
            self._is_lent = False
        except OSError as error:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            log.warning("no bytes are set aside for captures", extra={"path": str(self._path), "why": str(error)})
