"""Looks for secrets where others can see them: command lines, environments and files, while an action is at work."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Watch:
    """What was seen of every process that started since the watch began."""

    seen: set[bytes] = field(default_factory=set)
    command_lines: set[bytes] = field(default_factory=set)
    looks: int = 0

    def has(self, secret: str) -> bool:
        """Whether a secret was on a command line or in an environment."""
        return any(secret.encode() in words for words in self.seen | self.command_lines)

    def has_on_command_line(self, secret: str) -> bool:
        """Whether it was on a command line, which everybody may read."""
        return any(secret.encode() in words for words in self.command_lines)


@contextmanager
def processes_watched() -> Iterator[Watch]:
    """Read /proc/PID/cmdline and environ of all processes over and over while the block lasts."""
    watch, over = Watch(), threading.Event()

    def look() -> None:
        while not over.is_set():
            for process in Path("/proc").iterdir():
                if process.name.isdecimal():
                    with suppress(OSError):
                        watch.command_lines.add((process / "cmdline").read_bytes())
                    with suppress(OSError):
                        watch.seen.add((process / "environ").read_bytes())
            watch.looks += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Files below these folders that hold a secret."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                found.append(path)
    return sorted(found)
