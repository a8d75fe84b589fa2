"""What somebody who watches a run is told, from its record: the same whether it is driven here or elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from fireline_controller.engine.runs import entries, people
from fireline_controller.engine.runs.rooms import RunRooms
from fireline_controller.engine.runs.values import HostDoing, MoveBegun, MoveEnded, RunNews, RunSeen, RunShown
from fireline_controller.engine.runs.watching import Bell
from fireline_controller.model import Outcome
from fireline_controller.runbooks.ground import all_steps
from fireline_controller.runbooks.model import Manual, Step
from fireline_controller.runbooks.record import ENDED, HostEnd, Part, Run, Taken

_LOOK_S: Final = 1.0  # a run that is driven elsewhere rings no bell here


async def follow(rooms: RunRooms, run_id: str, bell: Bell) -> AsyncIterator[RunNews]:
    """News of a run until it has ended, is parked, or its owner is lost.

    Raises:
        NotFound: it is not known.
    """
    run = await rooms.store.read(lambda tx: tx.run(run_id))
    runbook, _ = await asyncio.to_thread(rooms.compiled, run)
    watcher = _Watcher({step.id: step for step in all_steps(runbook)})
    while True:
        run, record = await rooms.store.read(lambda tx: (tx.run(run_id), tx.moves(run_id)))
        for news in watcher.news(run, record, bell.doing):
            yield news
        if run.state in ENDED or not is_driven(run, rooms.now()):
            return
        await bell.wait(_LOOK_S)


class _Watcher:
    """What one watcher knows already."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = steps
        self._stood: tuple[object, ...] = ()
        self._told = set[str]()
        self._doing: dict[tuple[str, str], str] = {}

    def news(self, run: Run, record: tuple[Taken, ...], doing: Mapping[tuple[str, str], str]) -> Iterator[RunNews]:
        """What is new to him, in the order in which it happened."""
        if not self._stood:
            self._stood = (run.state, run.why, run.wish, "")
            yield RunSeen(run)
        for taken in record:
            yield from self._move(taken)
        note = waits_for(run, self._steps, record)
        if (stands := (run.state, run.why, run.wish, note)) != self._stood:
            self._stood = stands
            yield RunSeen(run, note)
        yield from (HostDoing(*key, text) for key, text in dict(doing).items() if self._doing.get(key) != text)
        self._doing = dict(doing)

    def _move(self, taken: Taken) -> Iterator[RunNews]:
        move, ended = taken.move, f"{taken.move.key} ended"
        if move.key not in self._told:
            self._told.add(move.key)
            yield MoveBegun(move, in_words(self._steps, taken), taken.since)
        if taken.ends is not None and taken.until is not None and ended not in self._told:
            self._told.add(ended)
            yield _ended(self._steps, taken)


def in_words(steps: Mapping[str, Step], taken: Taken) -> str:
    """What a move is about."""
    return f"{entries.spoken(taken.move)} {entries.what(steps[taken.move.step], taken.move)}"


def _ended(steps: Mapping[str, Step], taken: Taken) -> MoveEnded:
    """A move with what came of it; one that is at work has no ends, and the time at which it was begun."""
    if taken.ends is None or taken.until is None:
        return MoveEnded(taken.move, f"{in_words(steps, taken)} …", (), taken.since, is_over=False)
    said = f": {entries.summed(taken.ends)}" if taken.ends else ""
    back = _can_go_back(steps[taken.move.step], taken.move.part, taken.ends)
    return MoveEnded(taken.move, f"{in_words(steps, taken)}{said}", taken.ends, taken.until, can_go_back=back)


def _can_go_back(step: Step, part: Part, ends: Sequence[HostEnd]) -> bool:
    own = step.rollback is not None and any(end.outcome is Outcome.OK for end in ends)
    return part is Part.DO and (own or any(end.can_undo for end in ends))


def shown(rooms: RunRooms, run: Run, record: tuple[Taken, ...]) -> RunShown:
    """A run with its moves, for people."""
    steps = {step.id: step for step in all_steps(rooms.compiled(run)[0])}
    moves = [_ended(steps, taken) for taken in record]
    waiting = [t.move.plans[people.REQUEST] for t in record if t.move.part is Part.APPROVE and t.ends is None]
    return RunShown(run, waits_for(run, steps, record), tuple(moves), waiting[0] if waiting else "")


def is_driven(run: Run, now: datetime) -> bool:
    """Whether a process says that it drives it."""
    return bool(run.owner) and run.owned_until is not None and run.owned_until > now


def waits_for(run: Run, steps: Mapping[str, Step], record: tuple[Taken, ...]) -> str:
    """What a run waits for, and what to do then, a line each; empty for nothing."""
    notes = []
    for taken in record:
        step = steps[taken.move.step]
        if taken.ends is not None:
            continue
        if taken.move.part is Part.APPROVE:
            request = taken.move.plans[people.REQUEST]
            notes.append(f"step {step.id} needs approval: fireline runbook approve {run.id} ({request})")
        elif isinstance(step.do, Manual):
            done = f"fireline runbook done {run.id} {step.id} --note TEXT"
            notes.append(f"step {step.id} is done by hand: {step.do.instructions} -- then: {done}")
    return "\n".join(notes)
