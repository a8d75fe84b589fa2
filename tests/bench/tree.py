"""What planning a full disk costs on a tree of very many files, beside du(1) and find(1) on the same tree."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.grounds import dies_with_us

_FOLDER_FILES: Final = 1000
_OLD_EVERY: Final = 10
_OLD_DAYS: Final = 30


@dataclass(frozen=True)
class Planned:
    """One plan in a process of its own: seconds, and the peak memory of its largest process."""

    seconds: float
    peak_bytes: int
    files: int


@contextmanager
def laid(files: int) -> Iterator[Path]:
    """A tree with so many files called `N.log`, every tenth of them old."""
    place = Path(tempfile.mkdtemp(prefix="fireline-bench-"))
    try:
        old = time.time() - _OLD_DAYS * 86400
        for folder in range(-(-files // _FOLDER_FILES)):
            path = place / f"{folder % 32}" / f"{folder}"
            path.mkdir(parents=True)
            descriptor = os.open(path, os.O_RDONLY)
            for number in range(min(_FOLDER_FILES, files - folder * _FOLDER_FILES)):
                os.close(os.open(f"{number}.log", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=descriptor))
                if number % _OLD_EVERY == 0:
                    os.utime(f"{number}.log", (old, old), dir_fd=descriptor)
            os.close(descriptor)
        yield place
    finally:
        shutil.rmtree(place)


def du_s(place: Path) -> float:
    """The sum alone."""
    return _timed(["du", "-sx", str(place)])


def find_s(place: Path) -> float:
    """The user's own line, without its -delete."""
    return _timed(["find", str(place), "-xdev", "-name", "*.log", "-mtime", "+7", "-printf", ""])


def planned(what: str, place: Path) -> Planned:
    """Plan one of the actions."""
    argv = [sys.executable, "-m", "tests.bench.planning", what, str(place)]
    done = subprocess.run(dies_with_us(argv), check=True, capture_output=True, text=True, timeout=600)
    return Planned(**json.loads(done.stdout))


def _timed(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(dies_with_us(argv), check=True, capture_output=True, timeout=600)
    return time.perf_counter() - began
