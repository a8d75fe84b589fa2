"""Verbs for isolations: what was ordered for which host, and how far it has come."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Row, select

from fireline_controller.isolation import Isolation, Phase
from fireline_controller.model import NotFound
from fireline_controller.store import schema
from fireline_controller.store.verbs import Verbs, columns_of


class IsolationVerbs(Verbs):
    """Isolations."""

    def put_isolation(self, isolation: Isolation) -> None:
        """Keep an isolation as it is now; it takes the place of what was known of the same order."""
        self._put(schema.isolations, columns_of(isolation))

    def isolation(self, order_id: str) -> Isolation:
        """The isolation of an order.

        Raises:
            NotFound: there is none.
        """
        query = select(schema.isolations).where(schema.isolations.c.order_id == order_id)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"isolation {order_id!r} is not known; `fireline isolation status` shows those that are")
        return _isolation_of(row)

    def isolations(self, phases: Collection[Phase], host: str = "") -> tuple[Isolation, ...]:
        """Isolations that are in one of these phases, in the order in which they were ordered; of all hosts, or one."""
        table = schema.isolations
        query = select(table).where(table.c.phase.in_(phases)).order_by(table.c.ordered_at, table.c.order_id)
        if host:
            query = query.where(table.c.host == host)
        return tuple(_isolation_of(row) for row in self._connection.execute(query))


def _isolation_of(row: Row[Any]) -> Isolation:
    values = row._asdict()
    places = tuple((address, port) for address, port in values["places"])
    listed = {name: tuple(values[name]) for name in ("controllers", "allowances")}
    return Isolation(**{**values, **listed, "places": places})
