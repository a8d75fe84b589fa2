"""Durable memory of request ids: a command is applied at most once on this host, and a repeat gets the first answer.

An append-only file of lines, each with a check sum. `begin` is on the disk before the command acts; a line torn by a
crash is dropped at the next start. Every method blocks on the disk and may be called from any thread. Leaves to
others: what counts as the same content (server).

Invariant I2.
"""

import base64
import binascii
import errno
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.errors import RefusedError
from fireline_wire import durable

log = logging.getLogger(__name__)

MAX_REQUEST_ID: Final = 100  # characters
_SPARE: Final = 0.25  # the file is rewritten when it holds so much more than its limit
_SET_ASIDE_BYTES: Final = 64 << 10  # on the disk, for some hundred commands on a day when it is full


@dataclass(frozen=True)
class Command:
    """What the ledger remembers of a request. `content` is a digest: the same id must come with the same one.

    `fence_token` is None for a command that only observes: such commands may overtake one another, and nothing that
    a newer one decided is undone by an older one.
    """

    request_id: str
    content: bytes
    fence_token: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.request_id) <= MAX_REQUEST_ID or not self.request_id.isprintable():
            raise RefusedError(
                "invalid_request",
                f"context.request_id: wanted 1 to {MAX_REQUEST_ID} printable characters, "
                f"found {self.request_id[: MAX_REQUEST_ID + 1]!r}",
            )


@dataclass(frozen=True)
class Known:
    """The request id was used before. `result` is None while the first answer is not there (in work, or crashed)."""

    result: bytes | None


@dataclass
class _Entry:
    content: bytes
    # Results stay on the disk, so that a long memory costs little.
    place: int = -1
    length: int = 0


class Ledger:
    """The open ledger of one host; exactly one process may hold it."""

    def __init__(self, path: Path, descriptor: int, *, limit: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = 0
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._fence_token = 0

    @classmethod
    def open(cls, path: Path, *, limit: int) -> Self:
        """Open or create the file; what a crash left half-written is dropped, and at most `limit` ids are kept."""
        ledger = cls(path, _open(path), limit=limit)
        ledger._load()
        ledger._set_aside()
        return ledger

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def make_room(self) -> bool:
        """Give up the bytes that are set aside for a full disk; False where they were given up before."""
        try:
            self._aside.unlink()
        except OSError:
            return False
        return True

    @property
    def fence_token(self) -> int:
        """The highest fence token seen."""
        return self._fence_token

    def find(self, command: Command) -> Known | None:
        """What is known of the request id, without noting anything.

        Raises:
            RefusedError: request_mismatch.
        """
        with self._lock:
            return self._find(command)

    def begin(self, command: Command) -> Known | None:
        """Note a command durably before it acts; None means that it is new and may act.

        Raises:
            RefusedError: request_mismatch, or fenced when the command is new and its token is older than one seen.
        """
        with self._lock:
            known = self._find(command)
            if known is None:
                self._refuse_fenced(command)
                self._append(_begun(command))
                self._set_aside()
            return known

    def finish(self, request_id: str, result: bytes) -> None:
        """Note the answer of a command that was begun, durably. A second answer changes nothing."""
        with self._lock:
            if self._entries[request_id].place < 0:
                self._append({"id": request_id, "result": _text(result)})

    def settle(self, command: Command, result: bytes) -> bytes:
        """Note a command that changes nothing that could not be repeated, with its answer, in one durable write.

        Returns: the answer that counts: the given one, or the first one where the id was known.

        Raises:
            RefusedError: as `begin`.
        """
        with self._lock:
            known = self._find(command)
            if known is not None and known.result is not None:
                return known.result
            if known is None:
                self._refuse_fenced(command)
            self._append({**_begun(command), "result": _text(result)})
            return result

    def unfinished(self) -> tuple[str, ...]:
        """The request ids that were begun and have no answer."""
        with self._lock:
            return tuple(i for i, entry in self._entries.items() if entry.place < 0)

    @property
    def _aside(self) -> Path:
        return self._path.with_suffix(".spare")

    def _set_aside(self) -> None:
        if self._aside.exists():
            return
        try:
            self._aside.write_bytes(os.urandom(_SET_ASIDE_BYTES))  # random: no disk stores it as a hole
        except OSError as error:
            self._aside.unlink(missing_ok=True)
            log.warning("no bytes are set aside for a full disk", extra={"path": str(self._aside), "why": str(error)})

    def _find(self, command: Command) -> Known | None:
        entry = self._entries.get(command.request_id)
        if entry is None:
            return None
        if entry.content != command.content:
            raise RefusedError(
                "request_mismatch",
                f"request id {command.request_id} was used before for another request; nothing was done",
            )
        return Known(self._result(entry))

    def _refuse_fenced(self, command: Command) -> None:
        if command.fence_token is not None and command.fence_token < self._fence_token:
            raise RefusedError(
                "fenced",
                f"fence token {command.fence_token} is older than {self._fence_token}, which this host has seen",
            )

    def _result(self, entry: _Entry) -> bytes | None:
        if entry.place < 0:
            return None
        raw = os.pread(self._descriptor, entry.length, entry.place)
        line = _parse(raw)
        if line is None:
            raise OSError(f"{self._path}: the line at byte {entry.place} is damaged")
        return base64.b64decode(line["result"])

    def _append(self, fields: dict[str, Any]) -> None:
        line = _line(fields)
        try:
            if os.pwrite(self._descriptor, line, self._end) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fdatasync(self._descriptor)
        except OSError:
            # Half a line must not stand before the next one: the disk may have space again by then.
            os.ftruncate(self._descriptor, self._end)
            raise
        self._take(fields, self._end, len(line))
        self._end += len(line)
        if len(self._entries) > self._limit * (1 + _SPARE):
            self._compact()

    def _take(self, fields: dict[str, Any], place: int, length: int) -> None:
        self._fence_token = max(self._fence_token, fields.get("fence", 0))
        if "id" not in fields:
            return
        if "content" in fields:
            self._entries.setdefault(fields["id"], _Entry(bytes.fromhex(fields["content"])))
        entry = self._entries.get(fields["id"])
        if entry is not None and "result" in fields:
            entry.place, entry.length = place, length

    def _load(self) -> None:
        with self._path.open("rb") as file:
            for raw in file:
                fields = _parse(raw)
                if fields is not None:
                    self._take(fields, self._end, len(raw))
                elif raw.endswith(b"\n"):
                    log.error("ledger line is damaged and left out", extra={"path": str(self._path)})
                else:
                    break
                self._end += len(raw)
        os.ftruncate(self._descriptor, self._end)
        if len(self._entries) > self._limit:
            self._compact()

    def _compact(self) -> None:
        """Write a new file with the newest entries, and put it in the old one's place."""
        kept = list(self._entries.items())[-self._limit :]
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            # The token on a line of its own: the entry that carried it may be among those left out.
            file.write(_line({"fence": self._fence_token}))
            file.writelines(self._rewritten(request_id, entry) for request_id, entry in kept)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._path)
        durable.sync_folder(self._path.parent)
        os.close(self._descriptor)
        self._descriptor, self._end, self._entries = _open(self._path), 0, {}
        self._load()

    def _rewritten(self, request_id: str, entry: _Entry) -> bytes:
        result = self._result(entry)
        answer = {} if result is None else {"result": _text(result)}
        return _line({"id": request_id, "content": entry.content.hex(), **answer})


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _begun(command: Command) -> dict[str, Any]:
    return {"id": command.request_id, "content": command.content.hex(), "fence": command.fence_token or 0}


def _text(result: bytes) -> str:
    return base64.b64encode(result).decode()


def _line(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %s\n" % (binascii.crc32(body), body)


def _parse(raw: bytes) -> dict[str, Any] | None:
    check, _, body = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or check != b"%08x" % binascii.crc32(body):
        return None
    fields: dict[str, Any] = json.loads(body)
    return fields
