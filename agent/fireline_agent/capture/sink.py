"""Where a collector's bytes go: files in the capture's folder, hashed while they are written, under an output limit.

Every step is noted in a file of lines at once, so that whatever was written survives the death of the writer. Leaves
to others: files that were opened and never closed (seal).
"""

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fireline_agent.capture.collector import OutputLimit
from fireline_agent.capture.order import Folder, timestamp
from fireline_wire.manifest import MAX_FACTS_BYTES, SEVERITIES, is_artifact_name
from fireline_wire.transfer import CHUNK_BYTES

# How much is held back before it goes to the file, and for how long: the most that a killed collector loses. One that
# writes a word and then hangs loses nothing, since the first write after a pause goes through.
_FLUSH_BYTES: Final = 64 << 10
_FLUSH_S: Final = 0.05

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_encode: Final = json.JSONEncoder(separators=(",", ":"), default=repr).encode


class Digests:
    """SHA-256 of the whole and of each chunk, taken as the bytes come."""

    def __init__(self) -> None:
        self.size = 0
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunks: list[str] = []

    def update(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        self._whole.update(data)
        view = memoryview(data)
        while view:
            room = CHUNK_BYTES - self.size % CHUNK_BYTES
            part, view = view[:room], view[room:]
            self._chunk.update(part)
            self.size += len(part)
            if self.size % CHUNK_BYTES == 0:
                self._end_chunk()

    def finish(self) -> dict[str, Any]:
        """Size, hash and chunk hashes."""
        if self.size % CHUNK_BYTES:
            self._end_chunk()
        return {"size": self.size, "sha256": self._whole.hexdigest(), "chunks": self._chunks}

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk = hashlib.sha256()


class Allowance:
    """How many bytes a collector may still write, all its artifacts together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.left = limit_bytes

    def take(self, data: bytes) -> bytes:
        """As much of the data as is allowed."""
        allowed = data[: self.left]
        self.left -= len(allowed)
        return allowed

    def exhausted(self) -> OutputLimit:
        """The error for what was not allowed."""
        return OutputLimit(f"output limit of {self._limit_bytes} bytes reached; what was written is kept")


class FileWriter:
    """One artifact being written to its file. See collector.ArtifactWriter."""

    def __init__(self, path: Path, allowance: Allowance) -> None:
        self.facts: dict[str, Any] = {}
        self.is_truncated = False
        self._digests = Digests()
        self._allowance = allowance
        self._pending = bytearray()
        self._flushed_at = -math.inf
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OutputLimit: the limit is reached, or there is no space; what fitted is kept.
        """
        allowed = self._allowance.take(data)
        self._pending += allowed
        if len(self._pending) >= _FLUSH_BYTES or time.monotonic() - self._flushed_at >= _FLUSH_S:
            self._flush()
        if len(allowed) < len(data):
            self.is_truncated = True
            raise self._allowance.exhausted()

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one JSON object as a line."""
        self.write(_encode(record).encode() + b"\n")

    def close(self) -> dict[str, Any]:
        """End the file; returns its size and hashes."""
        try:
            self._flush()
        except OutputLimit:
            self.is_truncated = True
        os.close(self._descriptor)
        return {**self._digests.finish(), "facts": _bounded(self.facts), "truncated": self.is_truncated}

    def _flush(self) -> None:
        pending, self._pending = memoryview(bytes(self._pending)), bytearray()
        self._flushed_at = time.monotonic()
        try:
            while pending:
                written = os.write(self._descriptor, pending)
                self._digests.update(pending[:written])
                pending = pending[written:]
        except OSError as error:
            self.is_truncated = True
            if error.errno not in _NO_SPACE:
                raise
            raise OutputLimit(f"no space for the artifact: {error.strerror}; what was written is kept") from None


class FolderSink:
    """The sink of one collector; see collector.Sink. `index` is the collector's place in the order."""

    def __init__(self, folder: Folder, index: int, *, limit_bytes: int, max_artifacts: int, max_findings: int) -> None:
        self._folder = folder
        self._index = index
        self._allowance = Allowance(limit_bytes)
        self._max_artifacts = max_artifacts
        self._max_findings = max_findings
        self._names: set[str] = set()
        self._findings = 0
        self._notes = os.open(folder.notes(index), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @contextmanager
    def artifact(self, name: str, *, source: str, method: str) -> Iterator[FileWriter]:
        """Open an artifact. One that is left by an exception is kept as truncated.

        Raises:
            ValueError: the name is not allowed or was used before.
            OutputLimit: the collector has as many artifacts as it may.
        """
        self._admit(name)
        file = f"{self._index:03}-{len(self._names):05}"
        writer = FileWriter(self._folder.files / file, self._allowance)
        opened = {"artifact": name, "file": file, "source": clean(source, 4096), "method": clean(method, 200)}
        self.note("opened", **opened)
        try:
            yield writer
        except BaseException:
            writer.is_truncated = True
            raise
        finally:
            self.note("kept", file=file, **writer.close())

    def finding(self, severity: str, code: str, subject: str, summary: str) -> None:
        """Note something that stands out; those over the limit are counted by the caller's last one only."""
        if severity not in SEVERITIES:
            raise ValueError(f"severity {severity!r} is none of {', '.join(SEVERITIES)}")
        self._findings += 1
        if self._findings == self._max_findings:
            severity, code, subject = "warning", "too-many-findings", ""
            summary = f"more than {self._max_findings - 1} findings; the rest stands in the artifacts only"
        if self._findings <= self._max_findings:
            texts = {"code": clean(code, 100), "subject": clean(subject, 500), "summary": clean(summary, 1000)}
            self.note("finding", severity=severity, **texts)

    def note(self, event: str, **fields: Any) -> None:
        """Write one line of notes at once, with the time."""
        line = _encode({"event": event, "at": timestamp(time.time()), **fields}).encode() + b"\n"
        # One write for a line, so that a kill leaves whole lines; the sealer drops a torn last one.
        os.write(self._notes, line)

    def _admit(self, name: str) -> None:
        if not is_artifact_name(name):
            raise ValueError(f"artifact name {name!r} is not allowed: wanted lower-case path parts")
        if name in self._names:
            raise ValueError(f"artifact name {name!r} was used before in this collector")
        if len(self._names) >= self._max_artifacts:
            raise OutputLimit(f"limit of {self._max_artifacts} artifacts reached; those before are kept")
        self._names.add(name)


def clean(text: str, limit: int) -> str:
    """Text that every reader can encode, cut to the manifest's limit. Names from the host may hold any byte."""
    return text.encode("utf-8", "backslashreplace").decode()[:limit]


def _bounded(facts: dict[str, Any]) -> dict[str, Any]:
    size = len(_encode(facts))
    if size > MAX_FACTS_BYTES // 2:  # the manifest writes them with spaces
        return {"facts_left_out": f"{size} bytes of facts, at most {MAX_FACTS_BYTES // 2} are kept"}
    cleaned: dict[str, Any] = _cleaned(json.loads(_encode(facts)))
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, MAX_FACTS_BYTES)
    if isinstance(value, list):
        return [_cleaned(v) for v in value]
    return {clean(k, MAX_FACTS_BYTES): _cleaned(v) for k, v in value.items()} if isinstance(value, dict) else value
