"""The isolations of this host on its disk: the truth for the agent, for the console and for the unit that runs at boot.

One folder, 0700: a JSON file for each isolation with the signed order and how far it has come, `fence`,
`history.jsonl`, and what goes into evidence. All of it is changed under one lock, and before the kernel is (invariant
I6), so that a crash leaves an isolation that is finished or one that never was. Leaves to others: what follows from it
(keeper).
"""

import base64
import errno
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.model import Cut, Phase, table_name
from fireline_agent.isolation.orders import Orders, Signed
from fireline_wire import durable
from fireline_wire.isolation import IsolationOrder

log = logging.getLogger(__name__)

_LOCK_S: Final = 15.0  # longer than any holder takes: a transaction and its listing
_PAUSE_S: Final = 0.02
_MAX_HISTORY_BYTES: Final = 1 << 20
_SPARE_BYTES: Final = 64 << 10  # given up when the disk is full, so that a release can be written
_KEPT_FILES: Final = 60  # of isolations that ended: rulesets and cut connections, for evidence


@dataclass(frozen=True)
class Record:
    """One isolation as it stands on the disk. `replaces` are orders of the same scope whose rules it took the place of.

    They come back where this one ends before it was committed.
    """

    order: IsolationOrder
    signed: Signed
    phase: Phase
    nonce: bytes
    peer: str
    armed_at: str
    drifts: int = 0
    replaces: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its tables, and of its files."""
        return table_name(self.order.order_id)

    def to_json(self) -> bytes:
        """As it is written."""
        document = {
            "order_id": self.order.order_id,
            "phase": self.phase,
            "nonce_hex": self.nonce.hex(),
            "peer": self.peer,
            "armed_at": self.armed_at,
            "drifts": self.drifts,
            "replaces": list(self.replaces),
            "envelope_base64": base64.b64encode(self.signed.envelope).decode(),
            "chain_pem": self.signed.chain_pem.decode(errors="replace"),
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def from_json(cls, raw: bytes, orders: Orders) -> Self:
        """Back from `to_json`, once the signature was verified again.

        Raises:
            ValueError: it is none.
            RefusedError: its order is not believed.
        """
        try:
            document = json.loads(raw)
            signed = Signed(base64.b64decode(document["envelope_base64"]), document["chain_pem"].encode())
            return cls(
                order=orders.opened(signed, is_kept=True),
                signed=signed,
                phase=Phase(document["phase"]),
                nonce=bytes.fromhex(document["nonce_hex"]),
                peer=str(document["peer"]),
                armed_at=str(document["armed_at"]),
                drifts=int(document["drifts"]),
                replaces=tuple(map(str, document["replaces"])),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no record of an isolation: {type(error).__name__}") from None


class Records:
    """The folder. Every method but `locked` and `spare` wants the lock held, and blocks on the disk."""

    def __init__(self, folder: Path, orders: Orders) -> None:
        self._folder = folder
        self._orders = orders

    @property
    def is_there(self) -> bool:
        """Whether this host was ever isolated."""
        return self._folder.is_dir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against every other process and thread while the block lasts.

        Raises:
            RefusedError: busy, or disk_full.
        """
        descriptor = self._open_lock()
        try:
            _wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def all(self) -> list[Record]:
        """Every isolation, the oldest order first. One that can't be believed any more is left out and logged."""
        found = []
        for path in sorted(self._folder.glob("fireline_*.json")):
            try:
                found.append(Record.from_json(path.read_bytes(), self._orders))
            except (ValueError, RefusedError) as error:
                log.error("record of an isolation is damaged", extra={"path": str(path), "why": str(error)})
        return sorted(found, key=lambda record: (record.armed_at, record.name))

    def keep(self, record: Record) -> None:
        """Write a record, durably.

        Raises:
            RefusedError: disk_full; the former one stands.
        """
        with _explained(self._folder):
            durable.replace(self._path(record.name, "json"), record.to_json())

    def forget(self, name: str) -> None:
        """Remove a record, durably; needs no space."""
        self._path(name, "json").unlink(missing_ok=True)
        durable.sync_folder(self._folder)

    def names(self) -> set[str]:
        """The names of all records, damaged ones too."""
        return {path.stem for path in self._folder.glob("fireline_*.json")}

    def fence(self) -> int:
        """The newest token of an order or a release."""
        with suppress(OSError, ValueError):
            return int((self._folder / "fence").read_text())
        return 0

    def raise_fence(self, token: int) -> None:
        """Remember a token where it is newer.

        Raises:
            RefusedError: disk_full.
        """
        if token > self.fence():
            with _explained(self._folder):
                durable.replace(self._folder / "fence", str(token).encode())

    def note(self, order_id: str, what: str, *, at: str, **more: Any) -> None:
        """Add a line to the history. A full disk loses the line, not the deed."""
        entry = {"id": secrets.token_hex(4), "at": at, "order_id": order_id, "what": what, **more}
        line = json.dumps(entry).encode() + b"\n"
        path = self._folder / "history.jsonl"
        try:
            if path.exists() and path.stat().st_size > _MAX_HISTORY_BYTES:
                durable.replace(path, b"".join(path.read_bytes().splitlines(keepends=True)[-1000:]))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("history of isolations could not be written", extra={"path": str(path), "why": str(error)})

    def history(self) -> list[Mapping[str, Any]]:
        """What was noted, the oldest first; a torn line is left out."""
        found = []
        with suppress(OSError):
            for line in (self._folder / "history.jsonl").read_bytes().splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return [entry for entry in found if isinstance(entry, dict)]

    def unreported(self, wanted: Collection[str]) -> list[Mapping[str, Any]]:
        """What was noted of these kinds since this was asked last, by whichever process."""
        entries, path = self.history(), self._folder / "reported"
        last = path.read_text() if path.exists() else ""
        known = next((n for n, entry in enumerate(entries) if entry.get("id") == last), -1)
        fresh = [entry for entry in entries[known + 1 :] if entry.get("what") in wanted]
        if fresh:
            with suppress(OSError):  # told twice is better than never
                durable.replace(path, str(fresh[-1].get("id")).encode())
        return fresh

    def keep_ruleset(self, name: str, when: str, text: str) -> None:
        """Keep a ruleset as evidence; `when` is `before` or `during`. A full disk loses it."""
        try:
            durable.replace(self._path(name, when), text.encode())
        except OSError as error:
            log.warning("ruleset could not be kept", extra={"table": name, "why": str(error)})

    def ruleset(self, name: str, when: str) -> str | None:
        """A kept ruleset, or None."""
        try:
            return self._path(name, when).read_text()
        except OSError:
            return None

    def keep_cut(self, name: str, cut: Sequence[Cut]) -> None:
        """Keep who was cut off, for evidence; what an earlier Arm of the order cut stays. A full disk loses it."""
        try:
            with self._path(name, "cut").open("ab") as file:
                file.writelines(json.dumps(asdict(one)).encode() + b"\n" for one in cut)
        except OSError as error:
            log.warning("cut connections could not be kept", extra={"table": name, "why": str(error)})

    def prune(self) -> None:
        """Remove what is left of isolations that ended long ago."""
        living = self.names()
        old = [p for p in self._folder.glob("fireline_*.*") if p.suffix != ".json" and p.stem not in living]
        for path in sorted(old, key=lambda p: p.stat().st_mtime)[:-_KEPT_FILES]:
            path.unlink(missing_ok=True)

    def make_room(self) -> None:
        """Give up the spare bytes."""
        (self._folder / "spare").unlink(missing_ok=True)

    def save_room(self) -> None:
        """Set bytes aside for a day when the disk is full.

        Raises:
            RefusedError: disk_full.
        """
        path = self._folder / "spare"
        if not path.exists():
            with _explained(self._folder):
                durable.replace(path, os.urandom(_SPARE_BYTES))

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{name}.{kind}"

    def _open_lock(self) -> int:
        with _explained(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def advanced(record: Record, phase: Phase) -> Record:
    """The record one step further."""
    return replace(record, phase=phase)


def _wait_for(descriptor: int) -> None:
    until = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise RefusedError(
                    "busy", f"another change of this host's isolation takes over {_LOCK_S:g} s"
                ) from None
            time.sleep(_PAUSE_S)
        else:
            return


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RefusedError("disk_full", f"{folder}: no space for the state of an isolation; free some") from None
        raise
