"""What every step of an isolation stands on: the disk, the kernel, and how each isolation should look.

Blocking. Leaves to others: the steps (keeper, releasing, upkeep).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from fireline_agent.errors import RefusedError
from fireline_agent.isolation.force import without_ours
from fireline_agent.isolation.hostnet import HostNet
from fireline_agent.isolation.means import Force, Means, MeansError
from fireline_agent.isolation.model import Plan
from fireline_agent.isolation.orders import Orders
from fireline_agent.isolation.records import Record, Records
from fireline_wire.isolation import IsolationOrder

LAPSED: Final = "lease ran out"
BY_CODE: Final = "released on the console with the code"


@dataclass
class Ground:
    """The isolations of one host, in one process. `others` carry out scopes that are not the host's, by their kind."""

    records: Records
    orders: Orders
    host: HostNet
    others: Mapping[str, Means]
    now: Callable[[], datetime]
    # When leases end that this process began, by the monotonic clock: what a flush leaves of them.
    leases: dict[str, float] = field(default_factory=dict)

    def live(self) -> list[Record]:
        """The records whose rules are wanted now: not those that another took the place of, which may come back."""
        found = self.records.all()
        replaced = {order_id for record in found for order_id in record.replaces}
        return [record for record in found if record.order.order_id not in replaced]

    def means(self, order: IsolationOrder) -> Means:
        """What carries out orders of this scope."""
        return self.others.get(order.scope.kind, self.host)

    def look(self, record: Record, *, is_whole: bool = False) -> Force:
        """What is in force of a record; the whole of it takes longer.

        Raises:
            RefusedError: unsupported, where the kernel can't be asked.
        """
        means = self.means(record.order)
        try:
            return means.inspect(record.order) if is_whole else means.look(record.order)
        except MeansError as error:
            raise RefusedError("unsupported", str(error)) from None

    def put(self, record: Record, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """Put a record's order in force as it would be planned now.

        Raises:
            MeansError: it was refused, and what was there is there still.
        """
        means = self.means(record.order)
        planned = _feasible(means.plan(record.order, left_ms=left_ms, replaced=replaced))
        try:
            means.put(planned)
        except MeansError:
            # An interface that went away meanwhile is enough for a refusal: once more, as things are now.
            again = _feasible(means.plan(record.order, left_ms=left_ms, replaced=replaced))
            if again.transaction == planned.transaction:
                raise
            means.put(again)
            planned = again
        if left_ms is not None:
            self.leases[record.name] = time.monotonic() + left_ms / 1000
        return planned

    def note_ruleset_of(self, record: Record) -> None:
        """As `note_ruleset`, with the lock held."""
        if self.records.history.ruleset(record.name, "before") is None:
            try:
                during = self.host.ruleset()
                self.records.history.keep_ruleset(record.name, "during", during)
                self.records.history.keep_ruleset(record.name, "before", without_ours(during))
            except MeansError as error:
                self.note(record, "ruleset not kept", why=str(error))

    def note(self, record: Record, what: str, **more: object) -> None:
        """Add a line to the history."""
        self.records.history.note(record.order.order_id, what, at=self.now().isoformat(), **more)


def _feasible(plan: Plan) -> Plan:
    if plan.refusal:
        raise MeansError(plan.refusal)
    return plan
