"""Verbs for the journal: append lines, sign them, read them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from sqlalchemy import Connection, Row, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from fireline_controller import journal
from fireline_controller.model import Checkpoint, Entry, JournalError, Line
from fireline_controller.store import schema
from fireline_controller.store.anchor import Anchor
from fireline_controller.store.verbs import Verbs, raising

CHECKPOINT_LINES = 64  # at most this many lines hang on the anchor alone
Result = TypeVar("Result")
_PAGE = 1000  # lines in memory at once while the whole journal is read


@dataclass(frozen=True)
class _Recorded:
    """What a transaction did to the journal so far; a value, so that undoing a part is putting the old one back."""

    last: Line | None = None
    is_anchor_compared: bool = False
    found_damage: bool = False
    is_asked: bool = False


class RecordVerbs(Verbs):
    """The journal."""

    def __init__(self, connection: Connection, *, key: EllipticCurvePrivateKey, anchor: Anchor | None) -> None:
        super().__init__(connection)
        self._key = key
        self._anchor = anchor
        self._recorded = _Recorded()

    def append(self, *entries: Entry) -> tuple[Line, ...]:
        """Journal these entries; they are on record when the transaction is committed.

        The first append of a transaction compares the journal with its anchor. Lines that are gone do not stop the
        work: a line that says so, with the signed proof, is written before the entries.

        Raises:
            ValueError: an entry holds what a line can't; nothing of the call is kept.
        """
        if not entries:
            return ()
        seq, previous = self.head()
        damage = self._damage(entries[0].at, seq, previous)
        lines = []
        for number, entry in enumerate((*damage, *entries), start=seq + 1):
            lines.append(journal.line(entry, seq=number, previous_hash=previous))
            previous = lines[-1].hash
        self._connection.execute(insert(schema.lines), [_line_row(line) for line in lines])
        # Only now: an entry that was refused above leaves the damage to be found by the next append.
        found = self.found_damage or bool(damage)
        self._recorded = replace(self._recorded, last=lines[-1], is_anchor_compared=True, found_damage=found)
        return tuple(lines[len(damage) :])

    def _damage(self, at: datetime, seq: int, line_hash: str) -> tuple[Entry, ...]:
        if self._recorded.is_anchor_compared or self._anchor is None:
            return ()
        problem, proof = _compare(self._anchor, self, seq, line_hash)
        if not problem:
            return ()
        data = {"found_seq": seq, "found_hash": line_hash, "anchor": proof}
        return (Entry(kind=journal.DAMAGED, actor="fireline", at=at, summary=problem, data=data),)

    def head(self) -> tuple[int, str]:
        """Number and hash of the last line; (0, 64 zeros) before the first."""
        if self._recorded.last is not None:
            return self._recorded.last.seq, self._recorded.last.hash
        table = schema.lines
        query = select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        return (0, journal.GENESIS) if row is None else (int(row.seq), str(row.hash))

    def hash_at(self, seq: int) -> str:
        """The hash of line `seq`; of line 0 the one that stands before the first; empty when there is no such line."""
        if seq == 0:
            return journal.GENESIS
        table = schema.lines
        return str(self._connection.execute(select(table.c.hash).where(table.c.seq == seq)).scalar_one_or_none() or "")

    def lines(self, from_seq: int = 1, incident_id: str = "", *, limit: int | None = None) -> tuple[Line, ...]:
        """Lines in order from this number on, at most `limit`; of one incident, or all.

        Raises:
            JournalError: what is kept as a line is none; names its number.
        """
        table = schema.lines
        query = select(table).where(table.c.seq >= from_seq).order_by(table.c.seq).limit(limit)
        if incident_id:
            query = query.where(table.c.incident_id == incident_id)
        return tuple(_line_of(row) for row in self._connection.execute(query))

    def stored_lines(self) -> Iterator[journal.StoredLine]:
        """All lines as they lie there, in order and page by page, for `journal.verify`."""
        table = schema.lines
        seq = -(1 << 62)
        while True:
            query = select(table).where(table.c.seq > seq).order_by(table.c.seq).limit(_PAGE)
            rows = self._connection.execute(query).all()
            for row in rows:
                yield journal.StoredLine(row.seq, bytes(row.canonical), row.hash, row.incident_id)
            if len(rows) < _PAGE:
                return
            seq = rows[-1].seq

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All checkpoints, in order."""
        table = schema.checkpoints
        rows = self._connection.execute(select(table).order_by(table.c.seq))
        return tuple(Checkpoint(row.seq, row.hash, bytes(row.envelope)) for row in rows)

    def checkpoint(self) -> None:
        """Sign the journal as it is at the end of this transaction, however few lines that are."""
        self._recorded = replace(self._recorded, is_asked=True)

    @property
    def found_damage(self) -> bool:
        """Whether this transaction found, and journaled, that lines which the anchor shows are not there."""
        return self._recorded.found_damage

    def attempt(self, work: Callable[[Self], Result]) -> Callable[[], Result]:
        """Do work that is undone alone when it fails; gives its outcome, to be called for. For the store alone.

        Raises:
            SQLAlchemyError: the database failed, and with it the transaction.
        """
        before = self._recorded
        savepoint = self._connection.begin_nested()
        try:
            result = work(self)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - not handled here: raised again where the work came from
            savepoint.rollback()
            self._recorded = before
            return raising(error)
        savepoint.commit()
        return lambda: result

    def sign(self) -> Checkpoint | None:
        """End the transaction's journal: the signed head, kept as a checkpoint when it is time. For the store alone."""
        last = self._recorded.last or (self._last_line() if self._recorded.is_asked else None)
        if last is None:
            return None
        signed = journal.checkpoint(last.seq, last.hash, at=last.entry.at, key=self._key)
        if self._is_time(last.seq):
            row = {"seq": signed.seq, "hash": signed.hash, "envelope": signed.envelope}
            self._connection.execute(insert(schema.checkpoints).values(row))
        return signed

    def _is_time(self, seq: int) -> bool:
        """Whether this last line wants a checkpoint of its own."""
        if self._recorded.is_asked and self._recorded.last is not None:
            return True  # the line is new, so it has none
        before = self._connection.execute(select(func.max(schema.checkpoints.c.seq))).scalar_one() or 0
        return seq - before >= (1 if self._recorded.is_asked else CHECKPOINT_LINES)

    def _last_line(self) -> Line | None:
        seq, _ = self.head()
        return self.lines(seq)[0] if seq else None


def _compare(anchor: Anchor, record: RecordVerbs, seq: int, line_hash: str) -> tuple[str, str]:
    """What is wrong between the anchor and the journal, which ends with this line, and the anchor's envelope as proof.

    Empty when nothing is.
    """
    try:
        shown = anchor.read()
    except JournalError as error:
        return str(error), ""
    found = line_hash if shown.seq == seq else record.hash_at(shown.seq)
    if found == shown.hash:
        return "", ""
    if not found:
        problem = (
            f"lines {seq + 1} to {shown.seq} were cut off the journal: its anchor was signed over line {shown.seq}"
        )
    else:
        problem = f"line {shown.seq} is not the line that the journal's anchor was signed over: lines were replaced"
    return problem, shown.envelope.decode()


def _line_row(line: Line) -> dict[str, object]:
    return {
        "seq": line.seq,
        "hash": line.hash,
        "incident_id": line.entry.incident_id,
        "canonical": line.canonical,
    }


def _line_of(row: Row[tuple[int, str, str, bytes]]) -> Line:
    try:
        line = journal.parse(bytes(row.canonical))
    except JournalError as error:
        raise JournalError(f"line {row.seq} of the journal was changed: {error}") from None
    return Line(seq=row.seq, entry=line.entry, canonical=line.canonical, hash=row.hash)
