"""File systems of a test's own: real mounts in a mount namespace that only a forked child is in."""

import ctypes
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fireline_agent.hands import children

_CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def alone(work: Callable[[], Any], *, timeout_s: float = 50) -> Any:
    """Do the work where its mounts are seen by nobody else and end with it; returns its answer as JSON values."""

    def inside() -> bytes:
        if _libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        mount("--make-rprivate", "/")
        return json.dumps(work()).encode()

    return json.loads(children.output_of(inside, timeout_s=timeout_s))


def mount(*words: str | Path) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


def tmpfs(place: Path, options: str) -> Path:
    """A file system in memory at a place."""
    place.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "none", place)
    return place


def ext4(image: Path, place: Path, size_bytes: int) -> Path:
    """A file system on a disk that is a file."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    place.mkdir(parents=True, exist_ok=True)
    mount("-o", "loop", image, place)
    return place


def fill(place: Path, *, names: int = 1) -> None:
    """Write files called `fill-N.log` until nothing more fits."""
    for number in range(names):
        with (place / f"fill-{number}.log").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16 if number == 0 else 512)):
                    pass
            except OSError:
                continue
