"""One run, driven by this process: asks what comes next, puts it on record, does it, puts on record what came of it.

All that decides is on record, so this can be cut off anywhere and begun again by another process. A move that was begun
is made again under its own request ids, which the hosts' ledgers answer (I2); its intent is journaled first (I6).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

from fireline_controller.engine.locks import LEASE as LOCK_LEASE
from fireline_controller.engine.runs import entries, people
from fireline_controller.engine.runs.moving import Mover
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.model import FirelineError, Outcome
from fireline_controller.runbooks.course import next_moves
from fireline_controller.runbooks.filling import Expressions
from fireline_controller.runbooks.ground import Ground
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.record import Ended, HostEnd, Move, Part, Run, RunState, RunWish, Taken
from fireline_controller.store import Transaction

_T = TypeVar("_T")

_PEOPLE: Final = frozenset({Part.APPROVE, Part.MANUAL})
_LOOK_S: Final = 1.0  # between two looks whether somebody spoke to another controller


Due = tuple[Move, ...] | Ended


class Overtaken(FirelineError):
    """Another process goes on with the run: this one must not touch it any more."""

    reason = "superseded"


class Work:
    """The work on one run.

    `owner`: this process's name on it. `bell`: rung whenever its record changes. `relock`: keeps its locks, or raises.
    """

    def __init__(
        self, rooms: RunRooms, run_id: str, owner: str, bell: Bell, relock: Callable[[Transaction, Run], None]
    ) -> None:
        self.run_id = run_id
        self.stop = asyncio.Event()
        self.parked = asyncio.Event()
        self.is_over = False
        self._parking = asyncio.Event()
        self._rooms = rooms
        self._owner = owner
        self._bell = bell
        self._relock = relock
        self._compiled: tuple[Runbook, Expressions] | None = None

    async def advance(self) -> bool:
        """One durable step: make the moves that come next until none is at work. False: the run is over, or parked.

        Raises:
            FirelineError: the controller itself failed, or somebody else has the run. It can be gone on with.
        """
        at_work: dict[asyncio.Task[Sequence[HostEnd]], Move] = {}
        parking = asyncio.create_task(self._parking.wait())
        try:
            while not self._parking.is_set():
                run, ground = await self._look()
                ground, decided, found = _due(ground, run.wish, self._rooms.now())
                if isinstance(found, Ended):
                    await self._begin(ground, decided)
                    await self._finish(found)
                    return False
                keys = {move.key for move in at_work.values()}
                fresh = [move for move in found if move.key not in keys]
                begun = await self._begin(ground, [*decided, *fresh])
                at_work |= {asyncio.create_task(self._make(run, ground, move)): move for move in begun}
                await asyncio.wait([*at_work, parking], return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in at_work if task.done()]:
                    await self._end(ground, at_work.pop(task), task.result())
                if not at_work:
                    return True
            return False
        finally:
            parking.cancel()
            if at_work:
                self.park()  # also where the controller failed, or another has the run by now
            for left in at_work:
                left.cancel()
            await asyncio.wait([*at_work, parking])

    def wished(self) -> None:
        """An operator wants it to end: what is at work on hosts is stopped between two changes."""
        self.stop.set()
        self._bell.ring()

    def park(self) -> None:
        """Leave off: what is at work on hosts goes on there, and is asked for by whoever takes the run up."""
        self._parking.set()

    async def renew(self, lease: timedelta) -> None:
        """Stay the owner for another lease, and hear what operators said to other controllers.

        Raises:
            Overtaken: somebody else drives the run by now.
        """
        now = self._rooms.now()

        def record(tx: Transaction, run: Run) -> RunWish:
            tx.put_run(replace(run, owned_until=now + lease))
            tx.renew_locks(run.id, now + LOCK_LEASE)
            return run.wish

        if await self._record(record) is not RunWish.GO_ON:
            self.wished()

    async def give_up(self, why: str) -> None:
        """Park the run on record, unless it has ended. `why`: what failed here; empty for a good order.

        Raises:
            Overtaken: somebody else drives the run by now.
        """
        now = self._rooms.now()

        def record(tx: Transaction, run: Run) -> None:
            parked = replace(run, state=RunState.PARKED, why=why, owner="", owned_until=None)
            tx.put_run(parked)
            tx.append(entries.parked(parked, now))
            tx.release_locks(run.id)

        await self._record(record)

    async def _look(self) -> tuple[Run, Ground]:
        def read(tx: Transaction) -> tuple[Run, Ground]:
            run = tx.run(self.run_id)
            if self._compiled is None:
                self._compiled = self._rooms.compiled(run)
            return run, self._rooms.ground(tx, run, self._compiled, tx.moves(self.run_id))

        run, ground = await self._rooms.store.read(read)
        if run.wish is not RunWish.GO_ON:
            self.stop.set()
        return run, ground

    async def _begin(self, ground: Ground, moves: Sequence[Move]) -> Sequence[Move]:
        """Put the intents on record, while the hosts are locked; the moves that are left to be made."""
        now = self._rooms.now()

        def record(tx: Transaction, run: Run) -> list[Move]:
            self._relock(tx, run)  # this process may have stood still for longer than its locks held
            left = []
            for move in moves:
                step, again = ground.steps[move.step], move.part is not Part.BEGIN and move.key in ground.taken
                if move.part is Part.APPROVE and not again:
                    move = people.asked(tx, run, ground, move, now)
                tx.begin_move(run.id, move, now)
                tx.append(entries.begun(run, step, move, now, is_again=again))
                if move.part is Part.BEGIN:
                    tx.end_move(run.id, move.key, move.known, now)
                else:
                    left.append(move)
            waits = bool(left) and all(move.part in _PEOPLE for move in left)
            position = ", ".join(dict.fromkeys(move.step for move in moves)) or run.position
            state = RunState.WAITING if waits else RunState.RUNNING
            tx.put_run(replace(run, state=state, position=position))
            return left

        if not moves:
            return ()
        left = await self._record(record)
        self._bell.ring()
        return left

    async def _make(self, run: Run, ground: Ground, move: Move) -> Sequence[HostEnd]:
        if move.part in _PEOPLE:
            return (await self._heard(ground, move),)
        mover = Mover(self._rooms, run, ground, stop=self.stop, is_left=self._parking.is_set, bell=self._bell)
        ends = await mover.make(move)
        named = sorted(end.host for end in ends)
        if named != sorted({*move.hosts, *(end.host for end in move.known)}):
            raise RuntimeError(f"{run.id}: {move.key}: ends of {named}, wanted one for each host of the move")
        return ends

    async def _heard(self, ground: Ground, move: Move) -> HostEnd:
        """What people say, once they have; or that their time is over, or that nobody needs to know any more."""
        while (end := await self._record(lambda tx, run: self._said(tx, run, ground, move))) is None:
            await self._bell.wait(_LOOK_S)
        return end

    def _said(self, tx: Transaction, run: Run, ground: Ground, move: Move) -> HostEnd | None:
        now, step = self._rooms.now(), ground.steps[move.step]
        if self.stop.is_set() and step not in ground.runbook.finally_:
            if move.part is Part.APPROVE:
                people.withdrawn(tx, run, move, now)
            return HostEnd("", Outcome.CANCELLED, f"no longer waited for: {run.wished_by} wants an end")
        if move.part is Part.MANUAL:
            return people.done(tx, run, step, move, now)
        return people.heard(tx, run, move, self._rooms.operators(tx, now), now)

    async def _end(self, ground: Ground, move: Move, ends: Sequence[HostEnd]) -> None:
        now = self._rooms.now()

        def record(tx: Transaction, run: Run) -> None:
            if tx.end_move(run.id, move.key, ends, now):
                tx.append(*entries.ended(run, ground.steps[move.step], move, ends, now))

        await self._record(record)
        self._bell.ring()

    async def _finish(self, ended: Ended) -> None:
        now = self._rooms.now()

        def record(tx: Transaction, run: Run) -> None:
            done = replace(
                run, state=ended.state, why=ended.why, finished_at=now, position="", owner="", owned_until=None
            )
            tx.put_run(done)
            tx.append(entries.finished(done, now))
            tx.release_locks(run.id)
            tx.checkpoint()

        await self._record(record)
        self.is_over = True
        self._bell.ring()

    async def _record(self, work: Callable[[Transaction, Run], _T]) -> _T:
        """Do this work on the record, unless somebody else drives the run by now."""

        def owned(tx: Transaction) -> _T:
            run = tx.run(self.run_id)
            if run.owner != self._owner:
                raise Overtaken(f"{self.run_id} is driven by {run.owner or 'nobody'} by now, not by {self._owner}")
            return work(tx, run)

        return await self._rooms.store.run(owned)


def _due(ground: Ground, wish: RunWish, now: datetime) -> tuple[Ground, list[Move], Due]:
    """What comes next, with the beginnings that lead there: they are decided at once, and cost no commit of their own.

    Returns:
        the ground with these beginnings in its record, the beginnings, and what comes next.
    """
    decided: list[Move] = []
    while True:
        found = next_moves(ground, wish)
        begins = () if isinstance(found, Ended) else tuple(move for move in found if move.part is Part.BEGIN)
        if not begins:
            return ground, decided, found
        decided.extend(begins)
        ground = replace(ground, record=(*ground.record, *(Taken(move, now, move.known, now) for move in begins)))
