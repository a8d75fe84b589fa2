"""See that what is on the disk is in the kernel and the other way round: after a start, and whenever something changed.

Committed and not in force: put back. Under a lease that ran out: ended, and told. Being released: released. Blocking;
leaves to others: when to look (watchdog).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.ground import BY_CODE, LAPSED, Ground
from fireline_agent.isolation.means import Force, MeansError
from fireline_agent.isolation.model import Ended, Phase
from fireline_agent.isolation.records import Record
from fireline_agent.isolation.releasing import let_go

_MAX_ENDED: Final = 100
_SPARE_S: Final = 0.3  # a lease is over for sure


class Kind(StrEnum):
    """What is told."""

    CHANGED = "changed"
    DRIFT = "drift"
    BROKEN = "broken"


@dataclass(frozen=True)
class News:
    """Something that happened to an isolation, as a sentence."""

    kind: Kind
    detail: str


class Upkeep:
    """Looks after the isolations of one agent. One thread at a time."""

    def __init__(self, ground: Ground, tell: Callable[[News], None]) -> None:
        self._ground = ground
        self._tell = tell
        self._ended: list[Ended] = []

    @property
    def ended(self) -> tuple[Ended, ...]:
        """Isolations that ended otherwise than by Release and were first seen by this process, the newest 100."""
        return tuple(self._ended)

    def recover(self) -> tuple[str, ...]:
        """Take up what a crash, a power cut or a restart left. Returns the scopes that are isolated now.

        Raises:
            RefusedError: busy, or the kernel refuses to put one back; the others are in force.
        """
        ground = self._ground
        if not ground.records.is_there:
            return ()
        with ground.records.locked():
            refused = self._each(ground.live(), self._tidy)
            refused += self._each(ground.live(), self._recovered)
            standing = tuple(str(record.order.scope) for record in ground.live())
        self._report()
        if refused:
            raise RefusedError("unsupported", f"not put back: {'; '.join(refused)}")
        return standing

    def check(self) -> float | None:
        """Look once. Returns after how many seconds to look again at the latest; None where nothing is isolated.

        Raises:
            RefusedError: busy, or the kernel can't be asked.
        """
        ground = self._ground
        if not ground.records.is_there:
            return None
        recut: list[Record] = []
        with ground.records.locked():
            refused = self._each(ground.live(), self._tidy)
            refused += self._each(ground.live(), lambda record: recut.extend(self._checked(record)))
            due = [self._due_s(record) for record in ground.live()]
        for record in recut:
            ground.records.history.keep_cut(record.name, ground.means(record.order).cut(record.order).cut)
        self._report()
        if refused:
            raise RefusedError("unsupported", "; ".join(refused))
        return min(due, default=None)

    def _each(self, records: list[Record], work: Callable[[Record], object]) -> list[str]:
        """Do it for every record, and return why not where it could not be done: one must not hold up the others."""
        refused = []
        for record in records:
            try:
                work(record)
            except (MeansError, RefusedError) as error:
                refused.append(f"{record.order.scope} (order {record.order.order_id}): {error}")
        return refused

    def _tidy(self, record: Record) -> None:
        """Finish what is being released; end what is under a lease that ran out: what it replaced is live again."""
        if record.phase is Phase.RELEASING:
            let_go(self._ground, [record], "released")
        elif record.phase is not Phase.COMMITTED:
            self._end_lapsed(record)

    def _end_lapsed(self, record: Record) -> None:
        ground = self._ground
        force = ground.look(record)
        if force.is_there and force.lease_left_ms != 0:
            return
        left_s = ground.leases.get(record.name, 0.0) - time.monotonic()
        if not force.is_there and left_s > 0:
            return  # somebody flushed it while the lease ran: a drift
        ground.means(record.order).lift(record.order)
        ground.records.forget(record.name)
        ground.leases.pop(record.name, None)
        ground.records.history.note(record.order.order_id, LAPSED, at=ground.now().isoformat())

    def _recovered(self, record: Record) -> None:
        if record.phase is not Phase.COMMITTED:
            return
        self._ground.put(record, left_ms=None)
        self._ground.records.history.note(record.order.order_id, "put back at start", at=self._ground.now().isoformat())

    def _checked(self, record: Record) -> Iterator[Record]:
        """Put a record back where it drifted; yields it then, since connections may have been made meanwhile."""
        ground = self._ground
        force = ground.look(record, is_whole=True)
        why = self._drift(record, force)
        if not why:
            return
        left_ms = None if record.phase is Phase.COMMITTED else self._left_ms(record, force)
        drifted = replace(record, drifts=record.drifts + 1)
        try:
            ground.records.keep(drifted)
        except RefusedError:
            ground.records.make_room()
        try:
            ground.put(drifted, left_ms=left_ms)
        except MeansError as error:
            raise RefusedError(
                "unsupported", f"{record.order.scope} drifted ({why}) and can't be put back: {error}"
            ) from None
        ground.records.history.note(record.order.order_id, "drift", at=ground.now().isoformat(), why=why)
        self._tell(News(Kind.DRIFT, f"{record.order.scope} (order {record.order.order_id}): {why}; put back"))
        yield drifted

    def _drift(self, record: Record, force: Force) -> str:
        ground = self._ground
        if not force.is_there:
            return "it was not in force, or not all of it"
        if record.phase is Phase.COMMITTED and force.lease_left_ms is not None:
            return "the drops had an end"
        means = ground.means(record.order)
        plan = means.plan(record.order, left_ms=None)
        if plan.refusal:
            raise MeansError(plan.refusal)
        return "" if means.is_as_planned(plan, force) else "the rules, or the network that they are for, were changed"

    def _left_ms(self, record: Record, force: Force) -> int:
        if force.lease_left_ms:
            return force.lease_left_ms
        return max(1, int((self._ground.leases.get(record.name, 0.0) - time.monotonic()) * 1000))

    def _due_s(self, record: Record) -> float:
        every_s = self._ground.means(record.order).look_every_s
        if record.phase is Phase.COMMITTED:
            return every_s
        left_s = self._ground.leases.get(record.name, 0.0) - time.monotonic()
        return min(every_s, max(_SPARE_S, left_s + _SPARE_S))

    def _report(self) -> None:
        """Tell what ended in the history since it was last told, whoever ended it."""
        records = self._ground.records
        for entry in records.history.unreported({LAPSED, BY_CODE}):
            how, order_id = str(entry["what"]), str(entry.get("order_id", ""))
            self._ended = [*self._ended, Ended(order_id, how, str(entry.get("at", "")))][-_MAX_ENDED:]
            kind = Kind.BROKEN if how == BY_CODE else Kind.CHANGED
            self._tell(News(kind, f"order {order_id}: {how}"))
