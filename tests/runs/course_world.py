"""A run played in memory: its course is asked what comes next, and a table says how hosts answer.

An interruption loses nothing but the moves that were under way: they are on record as begun, and asked for again.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fireline_controller.model import Outcome
from fireline_controller.runbooks.course import next_moves
from fireline_controller.runbooks.ground import Ground, all_steps
from fireline_controller.runbooks.model import Runbook
from fireline_controller.runbooks.record import Ended, HostEnd, Move, Part, RunWish, Taken
from tests.runs.books import Tiny, risk_of

Answer = Callable[[Move, str], HostEnd]

MOST_MOVES = 2000
_THEN = datetime(2026, 1, 1, tzinfo=UTC)


def fine(move: Move, host: str) -> HostEnd:
    """Everything goes well: each plan changes something, and each application can be taken back."""
    plan = f"plan-{host}" if move.part in (Part.PLAN, Part.BACK_PLAN) else ""
    can_undo = move.part is Part.DO
    return HostEnd(host, Outcome.OK, plan_sha256=plan, can_undo=can_undo, request_id=f"{move.key}@{host}")


@dataclass
class Play:
    """One run. `interrupt_at`: the number of the move, from 0, that is begun and lost with its process once."""

    runbook: Runbook
    hosts: tuple[str, ...] = ("a", "b", "c")
    answer: Answer = fine
    wish: RunWish = RunWish.GO_ON
    wish_after: int = 0
    interrupt_at: int = -1
    record: list[Taken] = field(default_factory=list)
    acted: Counter[str] = field(default_factory=Counter)

    def run(self) -> Ended:
        """Play to the end."""
        for number in range(MOST_MOVES):
            wish = self.wish if number >= self.wish_after else RunWish.GO_ON
            found = next_moves(self._ground(), wish)
            if isinstance(found, Ended):
                return found
            assert found, "nothing is to be done and the run has not ended"
            self._make(found[0], lost=number == self.interrupt_at)
        raise AssertionError(f"no end after {MOST_MOVES} moves")

    def moves(self, *parts: Part) -> list[str]:
        """The keys of the moves in the order in which they were begun; of these parts, or all."""
        return [t.move.key for t in self.record if not parts or t.move.part in parts]

    def hosts_of(self, key: str) -> tuple[str, ...]:
        """The hosts of a move."""
        return next(t.move.hosts for t in self.record if t.move.key == key)

    def _ground(self) -> Ground:
        hosts = {step.id: self.hosts for step in all_steps(self.runbook)}
        labels = {host: {"role": host} for host in self.hosts}
        return Ground(
            self.runbook, hosts, labels, {"yes": True}, {"severity": "P1"}, Tiny(), risk_of, tuple(self.record)
        )

    def _make(self, move: Move, *, lost: bool) -> None:
        keys = [t.move.key for t in self.record]
        if move.key in keys:
            assert self.record[keys.index(move.key)].move == move, "a move that was begun came back as another one"
        else:
            self.record.append(Taken(move, _THEN))
        if lost:
            return
        ends = [*move.known, *(self._answered(move, host) for host in move.hosts if move.part is not Part.BEGIN)]
        if move.part in (Part.APPROVE, Part.MANUAL):
            ends = [self.answer(move, "")]
        at = [t.move.key for t in self.record].index(move.key)
        self.record[at] = replace(self.record[at], ends=tuple(ends))

    def _answered(self, move: Move, host: str) -> HostEnd:
        self.acted[f"{move.key}@{host}"] += 1
        return self.answer(move, host)
