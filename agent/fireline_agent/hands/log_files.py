"""Reads logs as one stream of whole lines in large blocks, with little memory: plain, compressed, rotated, containers'.

A container's lines come as `TIME TEXT`, from Docker's own file or, with another driver, through the engine. Files are
read, not mapped: a mapped file that logrotate truncates would end the process (SIGBUS, mmap(2)).
Leaves to others: what is looked for.

Sources: docker "JSON File logging driver"; logrotate(8) for the names of rotated files.
"""

import bz2
import errno
import glob
import gzip
import io
import json
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from fireline_agent.hands import docker
from fireline_agent.hands.printable import printable
from fireline_agent.hands.roots import Roots

BLOCK_BYTES: Final = 1 << 20
MAX_FILES: Final = 2000
_SPARE_BYTES: Final = 1 << 20  # for the rest of a line and lines before it; a longer line comes in pieces
_MAX_BEFORE_BYTES: Final = 1 << 18
_HOLLOW_BYTES: Final = 1 << 28
_HOLLOW: Final = 100  # parts of which at most one is there; no file system compresses logs so well
_ENGINE_LINES: Final = 100_000  # the newest, where the engine must be asked
_ROTATED: Final = re.compile(r"[.-]\d[\d-]*(?:\.(?:gz|bz2|xz))?\Z")
_COMPRESSED: Final = (".gz", ".bz2", ".xz")

# What damaged files and lying engines make the readers raise.
READ_ERRORS: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, docker.EngineError)


@dataclass(frozen=True)
class Source:
    """One log, or one rotated part of it. `name` is the same for all parts; `where` is this one's, as a person sees it.

    `opened` raises one of READ_ERRORS.
    """

    name: str
    where: str
    opened: Callable[[], AbstractContextManager[IO[bytes]]]
    size_bytes: int = 0


def files(
    patterns: Sequence[str],
    *,
    is_rotated: bool,
    since: float = 0.0,
    allows: Callable[[str], bool] = lambda _path: True,
) -> list[Source]:
    """The regular files that fit: patterns of glob(7), and all files below a folder; the oldest part of a log first.

    Args:
        patterns: absolute paths.
        is_rotated: also parts that were rotated away.
        since: only files that were written after this time (seconds since 1970).
        allows: whether a file may be read; others are passed by.
    """
    found: dict[tuple[int, int], tuple[str, float, Source]] = {}
    for path in sorted({path for pattern in patterns for path in _paths(pattern, is_rotated=is_rotated)}):
        if not allows(path):
            continue
        try:
            seen = Path(path).stat()
        except OSError:
            continue
        if _is_log(seen) and seen.st_mtime >= since and len(found) < MAX_FILES:
            source = Source(printable(_base(path)), printable(path), partial(_opened, path), seen.st_size)
            found.setdefault((seen.st_dev, seen.st_ino), (source.name, seen.st_mtime, source))
    return [source for _, _, source in sorted(found.values(), key=lambda one: one[:2])]


def containers(roots: Roots, names: Sequence[str]) -> list[Source]:
    """The logs of the containers with these names or of these Compose services, running or not.

    Raises:
        EngineAbsent, EngineError: there is no engine, or it does not answer.
    """
    found = []
    with docker.connect(roots.docker_socket) as engine:
        for container in engine.containers():
            called = docker.called(container)
            if called & set(names) and docker.is_id(container.get("Id")):
                found += _contained(roots, engine.inspect(container["Id"]))
    return found


def blocks(file: IO[bytes], *, lines_before: int = 0) -> Iterator[tuple[bytearray, int, int]]:
    """Blocks of whole lines as (buffer, begin, end); the buffer is the same each time, and overwritten for the next.

    Before `begin` stand up to so many lines of the block before. Only the last line of all may lack its line break.
    """
    buffer = bytearray(BLOCK_BYTES + _SPARE_BYTES)
    view = memoryview(buffer)
    begin = kept = 0
    while count := file.readinto(view[kept:]):  # type: ignore[attr-defined]  # of RawIOBase and BufferedIOBase
        end = kept + count
        cut = buffer.rfind(b"\n", begin, end) + 1 or (end if end == len(buffer) else 0)
        if cut > begin:
            yield buffer, begin, cut
            front = _before(buffer, cut, lines_before)
            if end - front == len(buffer):
                front = cut  # a very long line leaves no room to read on: rather without the lines before it
            buffer[: end - front] = buffer[front:end]
            begin, kept = cut - front, end - front
        else:
            kept = end
    if kept > begin:
        yield buffer, begin, kept


def _before(buffer: bytearray, cut: int, lines: int) -> int:
    """Where so many lines before a place begin."""
    front = cut
    for _ in range(lines):
        if front == 0 or cut - front > _MAX_BEFORE_BYTES:
            break
        front = buffer.rfind(b"\n", 0, front - 1) + 1
    return front if cut - front <= _MAX_BEFORE_BYTES else cut


def _is_log(seen: os.stat_result) -> bool:
    """A regular file that is more than holes: lastlog(5) may seem to have terabytes, and would take all the time."""
    is_hollow = seen.st_size > _HOLLOW_BYTES and seen.st_blocks * 512 < seen.st_size // _HOLLOW
    return stat.S_ISREG(seen.st_mode) and not is_hollow


def _paths(pattern: str, *, is_rotated: bool) -> Iterator[str]:
    for found in Path("/").glob(pattern.lstrip("/")):
        if found.is_dir():
            yield from (f"{folder}/{name}" for folder, _, names in os.walk(found) for name in names)
            continue
        yield str(found)
        if is_rotated:
            others = found.parent.glob(f"{glob.escape(found.name)}[.-]*")
            yield from (str(other) for other in others if _base(str(other)) == str(found))


def _base(path: str) -> str:
    """The log that a rotated file was a part of."""
    return _ROTATED.sub("", path) or path


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    # A name may have become a pipe since it was looked at: opening one would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    # Unbuffered: the blocks are larger than any buffer.
    with io.FileIO(descriptor) as file, _unpacked(file) as unpacked:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file any more", path)
        yield unpacked


def _unpacked(file: io.FileIO) -> IO[bytes]:
    """What the file's first bytes say it is; names of rotated files are everybody's own."""
    head = os.pread(file.fileno(), 6, 0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # it is one in all that is used here
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise ValueError("is compressed with zstd, which this agent can't read: search it with zstdgrep(1)")
    return file


def _contained(roots: Roots, inspected: dict[str, Any]) -> list[Source]:
    name = "container " + printable(str(inspected.get("Name", "")).lstrip("/"))
    path, identity = str(inspected.get("LogPath") or ""), str(inspected["Id"])
    driver = inspected.get("HostConfig", {}).get("LogConfig", {}).get("Type")
    # The path is the engine's word; nothing but this container's own log in the engine's own folder is read for it.
    if driver == "json-file" and path.endswith(f"/containers/{identity}/{identity}-json.log"):
        parts = files([str(roots.root / path.lstrip("/"))], is_rotated=True)
        if parts:
            return [Source(name, f"{name} ({p.where})", partial(_unwrapped, p), p.size_bytes) for p in parts]
    is_tty = bool(inspected.get("Config", {}).get("Tty"))
    return [Source(name, f"{name} (engine)", partial(_streamed, roots, identity, is_tty=is_tty))]


def _unwrapped(part: Source) -> AbstractContextManager[IO[bytes]]:
    return _read(_texts(part))


def _texts(part: Source) -> Generator[bytes, None, None]:
    """Docker's records as the lines that were written; a line over 16 KiB comes in several records of its stream."""
    halves: dict[str, str] = {}
    with part.opened() as file:
        for buffer, begin, end in blocks(file):
            texts = []
            for line in bytes(memoryview(buffer)[begin:end]).splitlines():
                try:
                    record = json.loads(line)
                    text, moment, stream = str(record["log"]), str(record["time"]), str(record["stream"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last record of a killed engine is half there
                text = (halves.pop(stream, None) or f"{moment} ") + text
                if text.endswith("\n") or len(text) > _SPARE_BYTES:
                    texts.append(text)
                else:
                    halves[stream] = text
            yield "".join(texts).encode(errors="backslashreplace")
    yield "".join(half + "\n" for half in halves.values()).encode(errors="backslashreplace")


def _streamed(roots: Roots, container: str, *, is_tty: bool) -> AbstractContextManager[IO[bytes]]:
    return _read(_asked(roots, container, is_tty=is_tty))


def _asked(roots: Roots, container: str, *, is_tty: bool) -> Generator[bytes, None, None]:
    """The engine's copy; the two streams are kept apart, since a piece may end in the middle of a line.

    A line over 16 KiB has the engine's time in it again, once for each part.
    """
    halves = {"stdout": b"", "stderr": b""}
    with docker.connect(roots.docker_socket) as engine:
        for stream, piece in engine.logs(container, since=0, lines=_ENGINE_LINES, is_tty=is_tty):
            whole, line_break, halves[stream] = (halves[stream] + piece).rpartition(b"\n")
            yield whole + line_break
    yield b"".join(half + b"\n" for half in halves.values() if half)


@contextmanager
def _read(pieces: Generator[bytes, None, None]) -> Iterator[IO[bytes]]:
    with closing(pieces), io.BufferedReader(_Pieces(pieces)) as file:
        yield file


class _Pieces(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: Any) -> int:
        """See io.RawIOBase."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
