"""The durable record of one application or undo: what will be done, what is being done, what was done, how it ended.

A file of lines beside the order. A line is on the disk before what it announces is
done; a line that a crash tore is dropped. On a full disk the work goes on, since it may be what frees the disk: lines
then wait in memory until there is room. Leaves to others: where records lie (records).

Invariants I2 and I6.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fireline_agent.hands.printable import printable
from fireline_agent.remediation.action import Change, Plan
from fireline_agent.remediation.applying import Done
from fireline_agent.remediation.order import Order
from fireline_agent.remediation.records import NO_SPACE, order_of


class RecordFile:
    """A record that is being written. One process writes it at a time; see applying.Record for the order of calls."""

    def __init__(self, folder: Path, *, is_bulk: bool = False) -> None:
        self._descriptor = os.open(folder / "record", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._is_bulk = is_bulk
        self._waiting = bytearray()

    def planned(self, plan: Plan) -> None:
        """See Record."""
        self.write({"event": "planned", "count": len(plan.changes), "summary": plan.summary}, is_synced=True)

    def starting(self, index: int, change: Change) -> None:
        """See Record."""
        self.write({"event": "starting", "index": index, "change": asdict(change)})

    def done(self, index: int, kept: Mapping[str, Any]) -> None:
        """See Record."""
        self.write({"event": "done", "index": index, "kept": dict(kept)})

    def failed(self, index: int, why: str) -> None:
        """See Record."""
        self.write({"event": "failed", "index": index, "why": why})

    def undone(self, index: int, sentence: str) -> None:
        """A change was taken back; written into the record of the application."""
        self.write({"event": "undone", "index": index, "sentence": sentence})

    def ended(self, ending: Mapping[str, Any]) -> None:
        """Nothing more will be done."""
        self.write({"event": "ended", "ending": dict(ending)}, is_synced=True)

    def write(self, event: Mapping[str, Any], *, is_synced: bool = False) -> None:
        """Add a line. What finds no room waits for the next one.

        Raises:
            OSError: the disk fails in another way.
        """
        self._waiting += json.dumps(event, separators=(",", ":")).encode() + b"\n"
        try:
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, self._waiting)]
            if is_synced or not self._is_bulk:
                os.fdatasync(self._descriptor)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


@dataclass
class Written:
    """What stands on record. `done` are the changes that were done and not taken back, by their number."""

    order: Order
    is_planned: bool = False
    count: int = 0
    done: dict[int, Done] = field(default_factory=dict)
    undone: int = 0
    ending: Mapping[str, Any] | None = None
    _started: dict[int, Change] = field(default_factory=dict)

    @property
    def in_doubt(self) -> list[str]:
        """Subjects of changes that were begun and of which nothing more is known, fit to be told."""
        return [printable(change.subject) for change in self._started.values()]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What a folder holds.

        Raises:
            OSError, ValueError: it holds no record.
        """
        found = cls(order_of(folder))
        for event in _lines(folder / "record"):
            found._take(event)
        return found

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, index = event["event"], event.get("index", -1)
        if kind == "planned":
            self.is_planned, self.count = True, event["count"]
        elif kind == "starting":
            self._started[index] = Change(**event["change"])
        elif kind == "done":
            self.done[index] = Done(self._started.pop(index), event["kept"])
        elif kind == "failed":
            self._started.pop(index, None)
        elif kind == "undone":
            self.undone += self.done.pop(index, None) is not None
        elif kind == "ended":
            self.ending = event["ending"]


def ending(written: Written, status: str, detail: str, **more: Any) -> dict[str, Any]:
    """How an application ended, as JSON values, by its record. `status` is that of the wire in lower case.

    An undo's own record counts the changes that it took back as its done ones.
    """
    return {
        "status": status,
        "detail": detail,
        "changes_done": len(written.done),
        "change_count": written.count,
        "verified": "",
        "result": {},
        "can_undo": written.order.is_undoable and bool(written.done),
        "in_doubt": written.in_doubt,
        "refusal": "",
        **more,
    }


def close_cut_short(folder: Path, status: str, detail: str, refusal: str = "") -> Mapping[str, Any]:
    """Put the end of what was cut short on record, by what stands there; returns it.

    `refusal` is why nothing was done at all.

    Raises:
        OSError, ValueError, KeyError, TypeError: the record can't be read or written.
    """
    written = Written.read(folder)
    if written.ending is not None:
        return written.ending
    record = RecordFile(folder)
    try:
        # A torn line of the crash must not run into the next one.
        _drop_torn(folder / "record")
        end = ending(written, status, detail, refusal=refusal)
        record.ended(end)
    finally:
        record.close()
    return end


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            event: dict[str, Any] = json.loads(raw)
            yield event


def _drop_torn(path: Path) -> None:
    with path.open("r+b") as file:
        raw = file.read()
        file.truncate(raw.rfind(b"\n") + 1)
