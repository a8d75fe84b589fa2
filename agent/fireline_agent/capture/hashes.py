"""SHA-256 of running programs, each file hashed once however many processes run it."""

import hashlib
import os

from fireline_agent.hands.procfs import Process


class ExecutableHashes:
    """Hashes by device and inode for the time of one collection."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str | None] = {}

    def of(self, process: Process) -> str | None:
        """The hash of what this process runs, also when the file was deleted; None when it can't be read."""
        try:
            descriptor = os.open("exe", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process.directory)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found = os.fstat(descriptor)
            key = (found.st_dev, found.st_ino)
            if key not in self._known:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            return self._known[key]
