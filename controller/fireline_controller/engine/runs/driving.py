"""Which runs this process drives: it begins them, takes them up, keeps their leases, and parks them in good order.

Leaves to others: what a run does (working), how it is kept going (durable).
"""

import asyncio
import logging
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from fireline_controller.engine.owners import Owners
from fireline_controller.engine.runs import entries
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.starting import Starting
from fireline_controller.engine.runs.values import RunOrder
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.engine.runs.working import Overtaken, Work
from fireline_controller.model import FirelineError
from fireline_controller.runbooks.record import ENDED, Run, RunState
from fireline_controller.store import Transaction

if TYPE_CHECKING:
    from fireline_controller.engine.runs.durable import Durable

log = logging.getLogger(__name__)

_LEASE: Final = timedelta(seconds=30)  # a controller that was not heard of for so long is dead
_RENEW_S: Final = 8.0
_PARK_S: Final = 3.0  # what hosts' calls take to be let go of


class Driving:
    """The runs that are driven here.

    Args:
        rooms: what they work with.
        owners: of the lock files.
        url: of the database of DBOS.
        starting: puts runs on record.
    """

    def __init__(self, rooms: RunRooms, owners: Owners, url: str, starting: Starting) -> None:
        self._rooms = rooms
        self._owners = owners
        self._url = url
        self._starting = starting
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._durable: Durable | None = None
        self._works: dict[str, Work] = {}
        self._held: dict[str, int] = {}
        self._bells: dict[str, Bell] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self, run: Run, order: RunOrder) -> Run:
        """Put a prepared run on record and drive it.

        Raises:
            FirelineError: it could not be begun.
        """
        self._held[run.id] = await asyncio.to_thread(self._owners.hold, run.id)
        try:
            begun = await self._starting.begun(run, order, self._owner, self._rooms.now() + _LEASE)
        except BaseException:
            self._let_go(run.id)
            raise
        await self._drive(begun, is_new=True)
        return begun

    def is_here(self, run_id: str) -> bool:
        """Whether a run is driven by this process."""
        return run_id in self._works

    def wished(self, run: Run) -> bool:
        """Let a run that is driven here know that an operator wants its end; false for one that is not."""
        work = self._works.get(run.id)
        if work is None or run.owner != self._owner:
            return False
        work.wished()
        return True

    async def take_up(self, run: Run, by: str) -> Run | None:
        """Drive a run that no living process drives; None: there is one, or somebody else was faster.

        Raises:
            PolicyError: others change a host of it now.
            FirelineError: it could not be driven; it is parked.
        """
        if (work := self._works.get(run.id)) is not None:
            if run.owner == self._owner:
                return None
            await work.parked.wait()  # it has ended, or was parked, a moment ago
        with self._owners.inherited(run.id) as is_lost:
            if not (is_lost and self._was_here(run)) and not _is_free(run, self._rooms.now()):
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

    def _was_here(self, run: Run) -> bool:
        """Whether its owner's lock file would be in our folder; one that others took over may have left an old one."""
        return not self._owners.is_shared or run.owner.startswith(f"{socket.gethostname()}-")

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
        work = Work(self._rooms, run.id, self._owner, self.bell(run.id), self._starting.relock)
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
        self._let_go(work.run_id)
        work.parked.set()
        self.bell(work.run_id).ring()

    def _let_go(self, run_id: str) -> None:
        held = self._held.pop(run_id, None)
        if held is not None:
            self._owners.release(run_id, held, is_settled=True)

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


def _is_free(run: Run, now: datetime) -> bool:
    """Nobody owns it, or its owner was not heard of for too long."""
    return not run.owner or run.owned_until is None or run.owned_until <= now
