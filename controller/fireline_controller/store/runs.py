"""Verbs for runs of runbooks and their moves."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, insert, select, update

from fireline_controller.model import NotFound, Outcome
from fireline_controller.runbooks.record import Filled, HostEnd, Move, Part, Run, RunState, Taken
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of

_USUAL: Final = {f.name: None if f.default is MISSING else f.default for f in fields(HostEnd)} | {"result": {}}


class RunVerbs(Verbs):
    """Runs."""

    def put_run(self, run: Run) -> None:
        """Keep a run as it is now, in place of what was kept under its id."""
        self._put(schema.runs, columns_of(run))

    def run(self, run_id: str) -> Run:
        """The run with this id.

        Raises:
            NotFound: there is none.
        """
        row = self._connection.execute(select(schema.runs).where(schema.runs.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFound(f"run {run_id!r} is not known; `fireline runbook status` shows those that are")
        return _run_of(row)

    def runs(self, limit: int = 100, *, states: Collection[RunState] = ()) -> tuple[Run, ...]:
        """The latest runs, newest first; those in one of these states, or all."""
        table = schema.runs
        query = select(table).order_by(table.c.started_at.desc(), table.c.id.desc()).limit(limit)
        if states:
            query = query.where(table.c.state.in_(states))
        return tuple(_run_of(row) for row in self._connection.execute(query))

    def begin_move(self, run_id: str, move: Move, now: datetime) -> bool:
        """Put a move on record that is to be made now; false when it is there."""
        table = schema.run_moves
        known = select(table.c.seq).where(table.c.run_id == run_id, table.c.key == move.key)
        if self._connection.execute(known).first() is not None:
            return False
        last = select(func.max(table.c.seq)).where(table.c.run_id == run_id)
        seq = (self._connection.execute(last).scalar_one() or 0) + 1
        row = {"run_id": run_id, "seq": seq, "key": move.key, "move": _move_document(move), "started_at": now}
        self._connection.execute(insert(table).values(row))
        return True

    def end_move(self, run_id: str, key: str, ends: Sequence[HostEnd], now: datetime) -> bool:
        """Keep what came of a move, once; false when it had ended before."""
        table = schema.run_moves
        this = (table.c.run_id == run_id, table.c.key == key, table.c.finished_at.is_(None))
        values = {"ends": [_end_document(end) for end in ends], "finished_at": now}
        return self._connection.execute(update(table).where(*this).values(values)).rowcount == 1

    def moves(self, run_id: str) -> tuple[Taken, ...]:
        """The record of a run, in the order in which its moves were begun."""
        table = schema.run_moves
        rows = self._connection.execute(select(table).where(table.c.run_id == run_id).order_by(table.c.seq))
        return tuple(_taken_of(row) for row in rows)


def _run_of(row: Row[Any]) -> Run:
    values = row._asdict()
    hosts = {spelled: tuple(names) for spelled, names in values["hosts"].items()}
    return Run(**{**values, "hosts": hosts, "content": bytes(values["content"])})


def _move_document(move: Move) -> dict[str, Any]:
    known = [_end_document(end) for end in move.known]
    filled = [columns_of(one) for one in move.filled]
    return columns_of(move) | {"known": known, "filled": filled}


def _taken_of(row: Row[Any]) -> Taken:
    ends = None if row.ends is None else tuple(map(_end_of, row.ends))
    return Taken(_move_of(row.move), row.started_at, ends, row.finished_at)


def _move_of(document: Mapping[str, Any]) -> Move:
    read = {
        "part": Part(document["part"]),
        "hosts": tuple(document["hosts"]),
        "filled": tuple(Filled(one["given"], tuple(one["hosts"])) for one in document["filled"]),
        "known": tuple(map(_end_of, document["known"])),
    }
    return Move(**{**document, **read})


def _end_document(end: HostEnd) -> dict[str, Any]:
    """The fields that are not as usual."""
    return {name: value for name, value in columns_of(end).items() if value != _USUAL[name]}


def _end_of(document: Mapping[str, Any]) -> HostEnd:
    return HostEnd(**{**_USUAL, **document, "outcome": Outcome(document["outcome"])})
