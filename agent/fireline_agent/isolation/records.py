"""The isolations of this host on its disk: the truth for the agent, for the console and for the unit that runs at boot.

One folder, 0700: a JSON file for each isolation with the signed order and how far it has come, and `fence`. All of it
is changed under one lock, and before the kernel is (invariant I6), so that a crash leaves an isolation that is finished
or one that never was. Leaves to others: what follows from it (keeper).
"""

import base64
import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.history import History
from fireline_agent.isolation.model import Phase, table_name
from fireline_agent.isolation.orders import Orders, Signed
from fireline_wire import durable
from fireline_wire.isolation import IsolationOrder

log = logging.getLogger(__name__)

_LOCK_S: Final = 15.0  # longer than any holder takes: a transaction and its listing
_PAUSE_S: Final = 0.02
_SPARE_BYTES: Final = 64 << 10  # given up when the disk is full, so that a release can be written


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
        self.history = History(folder)

    @property
    def is_there(self) -> bool:
        """Whether this host was ever isolated."""
        return self._folder.is_dir()

    @contextmanager
    def locked(self, *, breaks: bool = False) -> Iterator[None]:
        """Hold the folder against every other process and thread while the block lasts.

        Args:
            breaks: go on all the same where the holder lets nobody in: it may be an agent that was stopped.

        Raises:
            RefusedError: busy, or disk_full.
        """
        descriptor = self._open_lock()
        try:
            if not _is_held(descriptor):
                if not breaks:
                    raise RefusedError("busy", f"another change of this host's isolation takes over {_LOCK_S:g} s")
                log.warning("another holds the isolations of this host and lets nobody in; going on without it")
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


def _is_held(descriptor: int) -> bool:
    """Take the lock within its time; whether it was to be had."""
    until = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RefusedError("disk_full", f"{folder}: no space for the state of an isolation; free some") from None
        raise
