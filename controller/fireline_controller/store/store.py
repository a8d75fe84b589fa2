"""The store: opens a database, runs work in transactions, and signs what the work journaled."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fireline_controller import journal
from fireline_controller.model import Checkpoint, Host, JournalError, StoreError
from fireline_controller.store.anchor import Anchor
from fireline_controller.store.database import CommitUnknown, Database, Retry
from fireline_controller.store.transaction import Transaction
from fireline_controller.store.verbs import raising
from fireline_controller.store.writer import Job, Writer

ATTEMPTS: Final = 5  # of one piece of work that lost against another writer
READERS: Final = 4  # a look at the whole journal leaves three for short questions
_PAUSE_S: Final = 0.05  # before the second attempt; doubled for each one after, and spread
_EPOCH: Final = datetime.fromtimestamp(0, UTC)  # the time in the anchor of an empty journal

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept(Generic[Result]):
    """What a committed transaction's work gave, and the journal's head that it signed, if it wrote a line."""

    result: Result
    signed: Checkpoint | None
    found_damage: bool


class Store:
    """The controller's memory. Made by `open`; safe to use from any thread and from one event loop."""

    def __init__(self, database: Database, *, journal_key: EllipticCurvePrivateKey, anchor: Anchor | None) -> None:
        self._database = database
        self._key = journal_key
        self._anchor = anchor
        self._fleet: tuple[int, tuple[Host, ...]] | None = None
        self._writer = Writer(self._write)
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    @classmethod
    def open(cls, url: str, *, journal_key: EllipticCurvePrivateKey, anchor_path: Path | None) -> Self:
        """Open the store behind a URL (sqlite:////PATH, postgresql://…) and bring its tables to head.

        Raises:
            StoreError: it can't be opened, written, or was written by a later Fireline; says what to do.
        """
        database = Database(url)
        try:
            _retried(database.prepare)
            anchor = None if anchor_path is None else Anchor(anchor_path, journal_key)
            store = cls(database, journal_key=journal_key, anchor=anchor)
            store._adopt_anchor()
        except BaseException:
            database.close()
            raise
        return store

    def _adopt_anchor(self) -> None:
        """Begin an anchor for an empty journal, or on a controller that is new to a shared database.

        Beside a file of its own, lines without an anchor mean that somebody took it away: the next append says so.
        """
        if self._anchor is None or self._anchor.exists():
            return
        head = self.read_now(lambda tx: tx.lines(tx.head()[0], limit=1))
        if head and self._database.is_sqlite:
            return
        seq, line_hash, at = (head[0].seq, head[0].hash, head[0].entry.at) if head else (0, journal.GENESIS, _EPOCH)
        try:
            self._anchor.advance(journal.checkpoint(seq, line_hash, at=at, key=self._key), anew=True)
        except OSError as error:
            raise StoreError(f"anchor {self._anchor.path} can't be written: {error.strerror}") from None

    async def run(self, work: Callable[[Transaction], Result]) -> Result:
        """Do this work in one transaction, off the event loop, after the work that was handed in before it.

        The work may be done more than once until it is committed, so it changes nothing but the transaction. What it
        raises undoes it, alone. It is done even when its caller is cancelled. Works that wait share a commit.

        Raises:
            StoreError: the transaction could not be committed; nothing of it was kept.
        """
        return await self._writer.run(work)

    def _write(self, jobs: Sequence[Job]) -> None:
        if len(jobs) == 1 or not self._together(jobs):
            for job in jobs:
                self._alone(job)

    def _alone(self, job: Job) -> None:
        try:
            kept = _retried(partial(self._once, job.work))
        except Exception as error:  # noqa: BLE001 - not handled here: it is raised again where the work came from
            job.settle(raising(error))
        else:
            self._settle([job], [lambda: kept.result], kept)

    def _together(self, jobs: Sequence[Job]) -> bool:
        """Do these jobs in one commit; false when nothing was kept and each is to be tried for itself."""
        try:
            kept = self._once(lambda tx: [tx.attempt(job.work) for job in jobs])
        except CommitUnknown as error:
            for job in jobs:
                job.settle(raising(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, each job meets it again, and its caller hears of it
            log.info("store transactions are done one by one", extra={"count": len(jobs), "cause": str(error)})
            return False
        else:
            self._settle(jobs, kept.result, kept)
        return True

    def _settle(self, jobs: Sequence[Job], outcomes: Sequence[Callable[[], Any]], kept: "_Kept[Any]") -> None:
        """Tell the callers first, for their work is on disk; nothing is written before the anchor has followed."""
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.settle(outcome)
        self._show(kept)

    async def read(self, work: Callable[[Transaction], Result]) -> Result:
        """Like `run` for work that only reads: a snapshot that never waits for a writer, nor holds one up."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self.read_now, work)

    def run_now(self, work: Callable[[Transaction], Result]) -> Result:
        """`run` for programs without an event loop.

        Raises:
            StoreError: as for `run`.
        """
        kept = _retried(partial(self._once, work))
        self._show(kept)
        return kept.result

    def _once(self, work: Callable[[Transaction], Result]) -> "_Kept[Result]":
        with self._database.transaction() as connection:
            transaction = Transaction(connection, key=self._key, anchor=self._anchor)
            result = work(transaction)
            signed = transaction.sign()
        return _Kept(result, signed, transaction.found_damage)

    def _show(self, kept: "_Kept[Any]") -> None:
        """Let the anchor follow. The lines are committed: its failure is told, but undoes and stops nothing."""
        if self._anchor is None or kept.signed is None:
            return
        try:
            self._anchor.advance(kept.signed, anew=kept.found_damage)
        except OSError as error:
            log.error(
                "journal anchor can't be written: until it can, lines cut off the journal's end would not be noticed",
                extra={"path": str(self._anchor.path), "cause": error.strerror, "seq": kept.signed.seq},
            )

    async def hosts(self) -> tuple[Host, ...]:
        """The enrolled hosts by name, read anew only when one has changed: every command asks for all of them."""
        return await self.read(self._current_hosts)

    def _current_hosts(self, tx: Transaction) -> tuple[Host, ...]:
        version = tx.fleet_version()
        if self._fleet is None or self._fleet[0] != version:
            self._fleet = (version, tx.hosts())
        return self._fleet[1]

    def read_now(self, work: Callable[[Transaction], Result]) -> Result:
        """`read` for programs without an event loop.

        Raises:
            StoreError: the database can't be read.
        """
        return _retried(partial(self._look, work))

    def _look(self, work: Callable[[Transaction], Result]) -> Result:
        with self._database.transaction(read_only=True) as connection:
            return work(Transaction(connection, key=self._key, anchor=None))

    async def verify(self) -> journal.JournalReport:
        """Check the whole journal, its checkpoints and its anchor; writers go on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self.verify_now)

    def verify_now(self) -> journal.JournalReport:
        """`verify` for programs without an event loop."""
        # The anchor first: lines that are written from here on are not missing from what it shows.
        problems, anchors = self._anchored()
        report = self.read_now(
            lambda tx: journal.verify(
                tx.stored_lines(), tx.checkpoints(), public_key=self._key.public_key(), anchors=anchors
            )
        )
        return replace(report, problems=(*problems, *report.problems))

    def _anchored(self) -> tuple[tuple[str, ...], tuple[tuple[int, str], ...]]:
        if self._anchor is None:
            return (), ()
        try:
            shown = self._anchor.read()
        except JournalError as error:
            return (str(error),), ()
        return (), ((shown.seq, shown.hash),)

    def close(self) -> None:
        """Wait for the work that was handed in, then close."""
        with closing(self._database):
            self._writer.close()
            self._reader.shutdown()


def _retried(work: Callable[[], Result]) -> Result:
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except Retry as error:
            log.info("store transaction is tried again", extra={"attempt": attempt + 1, "cause": str(error)})
            time.sleep(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - spreads attempts, guards nothing
    return work()
