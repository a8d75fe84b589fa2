"""Durable runs of runbooks: started, gone on with after any crash, cancelled, rolled back, watched.

Which process drives a run is on record, with a lease, and a lock file of that process tells others on the same machine
at once when it is gone (driving). Leaves to others: what comes next (runbooks.course), what is done on hosts (deeds),
one run (working).
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from fireline_controller.engine import by_hand
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.operations import Operations
from fireline_controller.engine.owners import Owners
from fireline_controller.engine.runs import entries, people
from fireline_controller.engine.runs.driving import Driving
from fireline_controller.engine.runs.following import follow, shown
from fireline_controller.engine.runs.foreseeing import foreseen
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.starting import Starting
from fireline_controller.engine.runs.values import RunNews, RunOrder, RunPlan, RunShown
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.model import FirelineError, Outcome, PolicyError
from fireline_controller.runbooks.record import ENDED, HostEnd, Run, RunState, RunWish
from fireline_controller.store import Transaction

__all__ = ["RunNews", "RunOrder", "RunRooms", "Runs"]

log = logging.getLogger(__name__)

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
        self._starting = Starting(rooms, operations, approvals)
        self._driving = Driving(rooms, Owners(folder, is_shared=is_shared), url, self._starting)

    async def start(self, order: RunOrder) -> Run:
        """Put a run on record and begin to drive it.

        Raises:
            FirelineError: nothing was begun: the runbook, its parameters, the target, a precondition, a locked host,
                an approval that is needed.
        """
        return await self._driving.start(await self._starting.prepared(order), order)

    async def resume(self, run_id: str, operator: str) -> Run:
        """Go on with a run that no living process drives; one that is driven is left to its process.

        Raises:
            NotFound: it is not known.
            PolicyError: it has ended.
        """
        run = await self._rooms.store.read(lambda tx: tx.run(run_id))
        if run.state in ENDED:
            raise PolicyError(f"{run_id} has ended: {run.state}; run it anew", reason="invalid_request")
        return await self._driving.take_up(run, operator) or run

    async def take_up_lost(self) -> Sequence[str]:
        """Go on with every run whose process was lost or stopped in good order; not with those that failed here."""
        states = {RunState.RUNNING, RunState.WAITING, RunState.PARKED}
        left = await self._rooms.store.read(lambda tx: tx.runs(1000, states=states))
        wanted = [
            run for run in left if not self._driving.is_here(run.id) and not (run.state is RunState.PARKED and run.why)
        ]
        taken = []
        for run in wanted:
            try:
                if await self._driving.take_up(run, "controller"):
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
        if self._driving.wished(found):
            return found
        return await self._driving.take_up(found, operator) or found

    async def say(self, run_id: str, step_id: str, word: str, *, operator: str, note: str) -> Run:
        """Say of a step that is done by hand that it is done, failed or skipped.

        Raises:
            NotFound: the run or the step is not known.
            PolicyError: the step does not wait for that; host_locked: what it asked for is still at work on a host.
        """
        now = self._rooms.now()

        def record(tx: Transaction) -> Run:
            run = tx.run(run_id)
            step = self._starting.step_of(run, step_id)
            move = people.by_hand(run, tx.moves(run_id), step)
            by_hand.require_idle(tx, move.hosts)
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
        return self._driving.bell(run_id)

    async def close(self) -> None:
        """Park what is driven here: the hosts go on with what they do, and whoever goes on hears of it."""
        await self._driving.close()


def _no_wish(run: Run, wish: RunWish) -> str:
    """Why a run can't be cancelled or rolled back; empty when it can."""
    if run.state is RunState.ROLLED_BACK or run.wish is RunWish.ROLL_BACK:
        said = f"it is {run.state}, and {run.wished_by or 'its runbook'} had it rolled back before"
        return said if run.state in ENDED else f"{said}: go on with it: fireline runbook resume {run.id}"
    if wish is RunWish.CANCEL and run.state in ENDED:
        return f"it has ended: {run.state}"
    return ""
