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
from fireline_agent.isolation.keeper import BY_CODE, LAPSED, Keeper
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

    def __init__(self, keeper: Keeper, tell: Callable[[News], None]) -> None:
        self._keeper = keeper
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
        keeper = self._keeper
        if not keeper.records.is_there:
            return ()
        with keeper.records.locked():
            refused = self._each(keeper.live(), self._tidy)
            refused += self._each(keeper.live(), self._recovered)
            standing = tuple(str(record.order.scope) for record in keeper.live())
        self._report()
        if refused:
            raise RefusedError("unsupported", f"not put back: {'; '.join(refused)}")
        return standing

    def check(self) -> float | None:
        """Look once. Returns after how many seconds to look again at the latest; None where nothing is isolated.

        Raises:
            RefusedError: busy, or the kernel can't be asked.
        """
        keeper = self._keeper
        if not keeper.records.is_there:
            return None
        recut: list[Record] = []
        with keeper.records.locked():
            refused = self._each(keeper.live(), self._tidy)
            refused += self._each(keeper.live(), lambda record: recut.extend(self._checked(record)))
            due = [self._due_s(record) for record in keeper.live()]
        for record in recut:
            keeper.records.keep_cut(record.name, keeper.means(record.order).cut(record.order).cut)
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
            let_go(self._keeper, [record], "released")
        elif record.phase is not Phase.COMMITTED:
            self._end_lapsed(record)

    def _end_lapsed(self, record: Record) -> None:
        keeper = self._keeper
        force = keeper.look(record)
        if force.is_there and force.lease_left_ms != 0:
            return
        expected = keeper.expected.get(record.name)
        left_s = (expected.lease_until or 0) - time.monotonic() if expected else 0.0
        if not force.is_there and left_s > 0:
            return  # somebody flushed it while the lease ran: a drift
        keeper.means(record.order).lift(record.order)
        keeper.records.forget(record.name)
        keeper.expected.pop(record.name, None)
        keeper.records.note(record.order.order_id, LAPSED, at=keeper.now().isoformat())

    def _recovered(self, record: Record) -> None:
        if record.phase is not Phase.COMMITTED:
            return
        self._keeper.put(record, left_ms=None)
        self._keeper.records.note(record.order.order_id, "put back at start", at=self._keeper.now().isoformat())

    def _checked(self, record: Record) -> Iterator[Record]:
        """Put a record back where it drifted; yields it then, since connections may have been made meanwhile."""
        keeper = self._keeper
        force = keeper.look(record)
        why = self._drift(record, force)
        if not why:
            return
        left_ms = None if record.phase is Phase.COMMITTED else self._left_ms(record, force)
        drifted = replace(record, drifts=record.drifts + 1)
        try:
            keeper.records.keep(drifted)
        except RefusedError:
            keeper.records.make_room()
        try:
            keeper.put(drifted, left_ms=left_ms)
        except MeansError as error:
            raise RefusedError(
                "unsupported", f"{record.order.scope} drifted ({why}) and can't be put back: {error}"
            ) from None
        keeper.records.note(record.order.order_id, "drift", at=keeper.now().isoformat(), why=why)
        self._tell(News(Kind.DRIFT, f"{record.order.scope} (order {record.order.order_id}): {why}; put back"))
        yield drifted

    def _drift(self, record: Record, force: Force) -> str:
        keeper = self._keeper
        if not force.is_there:
            return "it was not in force, or not all of it"
        if record.phase is Phase.COMMITTED and force.lease_left_ms is not None:
            return "the drops had an end"
        shape = keeper.shape(record)
        expected = keeper.expected.get(record.name)
        if expected is None or not expected.written:
            # First look after it was put in force: the kernel's own words for it.
            keeper.adopt(record, shape, force)
            return ""
        if shape != expected.shape:
            return "the network changed: an interface, a bridge or an address"
        return "the rules were changed" if force.written != expected.written else ""

    def _left_ms(self, record: Record, force: Force) -> int:
        expected = self._keeper.expected.get(record.name)
        if force.lease_left_ms:
            return force.lease_left_ms
        return max(1, int(((expected.lease_until if expected else None) or 0) - time.monotonic()) * 1000)

    def _due_s(self, record: Record) -> float:
        every_s = self._keeper.means(record.order).look_every_s
        if record.phase is Phase.COMMITTED:
            return every_s
        expected = self._keeper.expected.get(record.name)
        left_s = (expected.lease_until or 0) - time.monotonic() if expected else 0.0
        return min(every_s, max(_SPARE_S, left_s + _SPARE_S))

    def _report(self) -> None:
        """Tell what ended in the history since it was last told, whoever ended it."""
        records = self._keeper.records
        for entry in records.unreported({LAPSED, BY_CODE}):
            how, order_id = str(entry["what"]), str(entry.get("order_id", ""))
            self._ended = [*self._ended, Ended(order_id, how, str(entry.get("at", "")))][-_MAX_ENDED:]
            kind = Kind.BROKEN if how == BY_CODE else Kind.CHANGED
            self._tell(News(kind, f"order {order_id}: {how}"))
