"""Durable runs of runbooks: started, gone on with after any crash, cancelled, rolled back, watched.

Which process drives a run is on record, with a lease, and a lock file of that process tells others on the same machine
at once when it is gone. Leaves to others: what comes next (runbooks.course), what is done on hosts (deeds), one run
(working).
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.operations import Operations
from fireline_controller.engine.owners import Owners
from fireline_controller.engine.runs import entries, people
from fireline_controller.engine.runs.following import follow, shown
from fireline_controller.engine.runs.foreseeing import foreseen
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.starting import Starting
from fireline_controller.engine.runs.values import RunNews, RunOrder, RunPlan, RunShown
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.engine.runs.working import Overtaken, Work
from fireline_controller.model import FirelineError, Outcome, PolicyError
from fireline_controller.runbooks.record import ENDED, HostEnd, Run, RunState, RunWish
from fireline_controller.store import Transaction

if TYPE_CHECKING:
    from fireline_controller.engine.runs.durable import Durable

__all__ = ["RunNews", "RunOrder", "RunRooms", "Runs"]

log = logging.getLogger(__name__)

_LEASE: Final = timedelta(seconds=30)  # a controller that was not heard of for so long is dead
_RENEW_S: Final = 8.0
_PARK_S: Final = 3.0  # what hosts' calls take to be let go of
# In WORD of `fireline runbook done`: what it means.
SAID: Final = {"done": Outcome.OK, "failed": Outcome.FAILED, "skipped": Outcome.SKIPPED}


class Runs:
    """Runs, driven by this process or by others.

    Args:
        rooms: what they work with.
        folder: for the lock files of the runs that are driven here.
        url: of the database of DBOS.
        is_shared: the record has controllers with folders of their own too.
        operations, approvals: for what is to be so before a run begins.
    """

    def __init__(
        self, rooms: RunRooms, folder: Path, url: str, *, is_shared: bool, operations: Operations, approvals: Approvals
    ) -> None:
        self._rooms = rooms
        self._approvals = approvals
        self._owners = Owners(folder, is_shared=is_shared)
        self._url = url
        self._starting = Starting(rooms, operations, approvals)
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._durable: Durable | None = None
        self._works: dict[str, Work] = {}
        self._held: dict[str, int] = {}
        self._bells: dict[str, Bell] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, order: RunOrder) -> Run:
        """Put a run on record and begin to drive it.

        Raises:
            FirelineError: nothing was begun: the runbook, its parameters, the target, a precondition, a locked host,
                an approval that is needed.
        """
        run = await self._starting.prepared(order)
        self._held[run.id] = await asyncio.to_thread(self._owners.hold, run.id)
        try:
            begun = await self._starting.begun(run, order, self._owner, self._rooms.now() + _LEASE)
        except BaseException:
            self._let_go(run.id, is_settled=True)
            raise
        await self._drive(begun, is_new=True)
        return begun

    async def resume(self, run_id: str, operator: str) -> Run:
        """Go on with a run that no living process drives; one that is driven is left to its process.

        Raises:
            NotFound: it is not known.
            PolicyError: it has ended.
        """
        run = await self._rooms.store.read(lambda tx: tx.run(run_id))
        if run.state in ENDED:
            raise PolicyError(f"{run_id} has ended: {run.state}; run it anew", reason="invalid_request")
        return await self._taken_up(run, operator) or run

    async def take_up_lost(self) -> Sequence[str]:
        """Go on with every run whose process was lost or stopped in good order; not with those that failed here."""
        states = {RunState.RUNNING, RunState.WAITING, RunState.PARKED}
        left = await self._rooms.store.read(lambda tx: tx.runs(1000, states=states))
        wanted = [run for run in left if run.id not in self._works and not (run.state is RunState.PARKED and run.why)]
        taken = []
        for run in wanted:
            try:
                if await self._taken_up(run, "controller"):
                    taken.append(run.id)
            except FirelineError as error:  # others change its hosts now, or its runbook is not understood any more
                log.warning("%s is not gone on with: %s", run.id, error)
        return taken

    async def wish(self, run_id: str, wish: RunWish, *, operator: str, reason: str) -> Run:
        """Cancel a run, or have it rolled back, which a run that has ended can be too.

        Raises:
            NotFound: it is not known.
            PolicyError: it has ended, or was rolled back before.
        """
        now = self._rooms.now()

        def record(tx: Transaction) -> Run | PolicyError:
            run = tx.run(run_id)
            if why := _no_wish(run, wish):
                return PolicyError(f"{run_id}: {why}", reason="invalid_request")
            wished = replace(run, wish=wish, wished_by=operator)
            if run.state in ENDED:
                wished = replace(wished, state=RunState.PARKED, why="", finished_at=None)
            tx.put_run(wished)
            tx.append(entries.wished(wished, now, reason))
            return wished

        found = await self._rooms.store.run(record)
        if isinstance(found, PolicyError):
            raise found
        if found.owner == self._owner and run_id in self._works:
            self._works[run_id].wished()
            return found
        return await self._taken_up(found, operator) or found

    async def say(self, run_id: str, step_id: str, word: str, *, operator: str, note: str) -> Run:
        """Say of a step that is done by hand that it is done, failed or skipped.

        Raises:
            NotFound: the run or the step is not known.
            PolicyError: the step does not wait for that.
        """
        now = self._rooms.now()

        def record(tx: Transaction) -> Run:
            run = tx.run(run_id)
            step = self._starting.step_of(run, step_id)
            move = people.by_hand(run, tx.moves(run_id), step)
            detail = f"{operator} says {word}{f': {note}' if note else ''}"
            tx.end_move(run_id, move.key, [HostEnd("", SAID[word], detail)], now)
            tx.append(entries.said(run, step, operator, now, word, note))
            return run

        run = await self._rooms.store.run(record)
        self.bell(run_id).ring()
        return run

    async def show(self, run_id: str) -> RunShown:
        """A run with its moves.

        Raises:
            NotFound: it is not known.
        """
        run, record = await self._rooms.store.read(lambda tx: (tx.run(run_id), tx.moves(run_id)))
        return shown(self._rooms, run, record)

    async def plan(self, order: RunOrder) -> RunPlan:
        """What a run would do, step by step. Changes nothing.

        Raises:
            FirelineError: the runbook, a parameter, the target or a precondition is not right.
        """
        return await foreseen(self._rooms, self._approvals, await self._starting.prepared(order))

    async def newest(self, limit: int) -> Sequence[Run]:
        """The newest runs first."""
        return await self._rooms.store.read(lambda tx: tx.runs(limit))

    def follow(self, run_id: str) -> AsyncIterator[RunNews]:
        """How a run goes, from its beginning until it has ended or nobody drives it.

        Raises:
            NotFound: it is not known.
        """
        return follow(self._rooms, run_id, self.bell(run_id))

    def now(self) -> datetime:
        """The time by which leases count."""
        return self._rooms.now()

    def bell(self, run_id: str) -> Bell:
        """What is rung when something changes in a run that is driven here."""
        return self._bells.setdefault(run_id, Bell())

    async def close(self) -> None:
        """Park what is driven here: the hosts go on with what they do, and whoever goes on hears of it."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        for work in list(self._works.values()):
            work.park()
        for work in list(self._works.values()):
            with suppress(TimeoutError):
                await asyncio.wait_for(work.parked.wait(), _PARK_S)
        for work in list(self._works.values()):  # its workflow was not begun here
            await self._ended(work, "")
        if self._durable is not None:
            await self._durable.close()

    async def _drive(self, run: Run, *, is_new: bool) -> None:
        work = Work(self._rooms, run.id, self._owner, self.bell(run.id))
        self._works[run.id] = work
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew_all())
        workflow_id = f"{run.id}.{run.tenure}"
        try:
            durable = await self._launched()
            if is_new:
                await durable.start(workflow_id, run.id)
            else:
                await durable.take_over(workflow_id)
        except BaseException as error:
            await asyncio.shield(self._ended(work, f"it could not be driven: {type(error).__name__}"))
            raise

    async def _launched(self) -> "Durable":
        if self._durable is None:
            from fireline_controller.engine.runs.durable import Durable  # noqa: PLC0415 - 0.4 s that others don't pay

            self._durable = Durable(self._url, self._owner, self._advance)
        return self._durable

    async def _advance(self, run_id: str) -> bool:
        """One durable step. Never raises: an error that DBOS kept would be that run's end for good."""
        work = self._works.get(run_id)
        if work is None:
            return False
        why = ""
        try:
            if await work.advance():
                return True
        except Overtaken as error:
            log.warning("%s", error)
        except FirelineError as error:
            why = str(error)
        except Exception as error:
            log.exception("a run failed", extra={"run": run_id})
            why = f"a fault in the controller, its log explains it: {type(error).__name__}"
        await self._ended(work, why)
        return False

    async def _ended(self, work: Work, why: str) -> None:
        """Give a run up: it has ended, or is parked."""
        if not work.is_over:
            with suppress(FirelineError):
                await work.give_up(why)
        self._works.pop(work.run_id, None)
        self._let_go(work.run_id, is_settled=True)
        work.parked.set()
        self.bell(work.run_id).ring()

    def _let_go(self, run_id: str, *, is_settled: bool) -> None:
        self._owners.release(run_id, self._held.pop(run_id), is_settled=is_settled)

    async def _taken_up(self, run: Run, by: str) -> Run | None:
        """Drive a run that no living process drives; None: there is one, or somebody else was faster."""
        if (work := self._works.get(run.id)) is not None:
            if run.owner == self._owner:
                return None
            await work.parked.wait()  # it has ended, or was parked, a moment ago
        with self._owners.inherited(run.id) as is_lost:
            if not is_lost and not _is_free(run, self._rooms.now()):
                return None
        durable = await self._launched()
        # One that was given up in good order has no workflow to be gone on with, whatever DBOS has written by now.
        is_new = not run.owner or not await durable.is_unfinished(f"{run.id}.{run.tenure}")
        held = await asyncio.to_thread(self._owners.hold, run.id)
        claimed = None
        try:
            claimed = await self._claimed(run, by, is_new=is_new)
        finally:
            if claimed is None:
                self._owners.release(run.id, held, is_settled=False)
        if claimed is None:
            return None
        self._held[run.id] = held
        await self._drive(claimed, is_new=is_new)
        return claimed

    async def _claimed(self, run: Run, by: str, *, is_new: bool) -> Run | None:
        now = self._rooms.now()

        def record(tx: Transaction) -> Run | None:
            current = tx.run(run.id)
            if (current.owner, current.tenure) != (run.owner, run.tenure) or current.state in ENDED:
                return None
            mine = replace(
                current,
                owner=self._owner,
                owned_until=now + _LEASE,
                tenure=current.tenure + is_new,
                state=RunState.RUNNING,
                why="",
            )
            tx.put_run(mine)
            tx.append(entries.taken_up(mine, now, by=by, lost=current.owner))
            tx.append(*self._starting.edits(mine, now))
            self._starting.relock(tx, mine)
            return mine

        return await self._rooms.store.run(record)

    async def _renew_all(self) -> None:
        """Keep the leases, and hear what operators say to other controllers."""
        while True:
            await asyncio.sleep(_RENEW_S)
            for work in list(self._works.values()):
                try:
                    await work.renew(_LEASE)
                except Overtaken:
                    work.park()
                except FirelineError as error:
                    log.warning("the lease of %s could not be renewed: %s", work.run_id, error)


def _no_wish(run: Run, wish: RunWish) -> str:
    """Why a run can't be cancelled or rolled back; empty when it can."""
    if run.state is RunState.ROLLED_BACK or run.wish is RunWish.ROLL_BACK:
        return f"it is {run.state}, and {run.wished_by or 'its runbook'} had it rolled back before"
    if wish is RunWish.CANCEL and run.state in ENDED:
        return f"it has ended: {run.state}"
    return ""


def _is_free(run: Run, now: datetime) -> bool:
    """Nobody owns it, or its owner was not heard of for too long."""
    return not run.owner or run.owned_until is None or run.owned_until <= now
