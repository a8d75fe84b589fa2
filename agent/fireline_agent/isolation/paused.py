"""Isolate a container by pausing it: it keeps all it has and answers nobody. Blocking."""

from pathlib import Path

from fireline_agent.isolation import holds
from fireline_agent.isolation.containers import Containers
from fireline_agent.isolation.holds import Hold
from fireline_agent.isolation.means import Force, Harvest, MeansError
from fireline_agent.isolation.model import Plan, table_name
from fireline_agent.isolation.stopping import forget_replaced, lift, make_permanent, taken_over
from fireline_wire.isolation import IsolationOrder


class Paused:
    """`paused:`."""

    look_every_s = 5.0

    def __init__(self, folder: Path, containers: Containers) -> None:
        self._folder = folder
        self._containers = containers

    def plan(self, order: IsolationOrder, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """Which container would stand still."""
        try:
            found = self._containers.selected(order.scope)
        except MeansError as error:
            return Plan(order, refusal=str(error))
        refusal = f"no running container is {order.scope.value}" if not found and left_ms is not None else ""
        effects = tuple(f"container {c.name} ({c.id[:12]}) stands still and keeps all it has" for c in found)
        return Plan(order, left_ms=left_ms, replaced=replaced, effects=effects, refusal=refusal)

    def put(self, plan: Plan) -> None:
        """Pause it; one that was paused before stays so after the release."""
        name = table_name(plan.order.order_id)
        former = taken_over(self._folder, name, plan.replaced)
        running = [c.id for c in self._containers.selected(plan.order.scope) if not c.is_paused]
        held = (*(former.containers if former else ()), *running)
        hold = Hold(
            holds.boot_id(),
            holds.until(plan.left_ms),
            containers=tuple(dict.fromkeys(held)),
            socket=str(self._containers.socket),
        )
        holds.save(self._folder, name, hold)
        for container_id in running:
            self._containers.pause(container_id)
        forget_replaced(self._folder, plan.replaced)
        if plan.left_ms is not None:
            holds.guard(self._folder, name)

    def look(self, order: IsolationOrder) -> Force:
        """Whether the engine says that it is paused."""
        hold = holds.load(self._folder, table_name(order.order_id))
        if hold is None:
            return Force()
        is_stopped = all(container.is_paused for container in self._containers.selected(order.scope))
        return Force(is_there=is_stopped or hold.left_ms == 0, lease_left_ms=hold.left_ms, written="paused")

    def inspect(self, order: IsolationOrder) -> Force:
        """The same: there are no packets to count."""
        return self.look(order)

    def is_as_planned(self, plan: Plan, force: Force) -> bool:
        """Who stands still, does."""
        return force.is_there

    def make_permanent(self, order: IsolationOrder) -> None:
        """End the lease."""
        make_permanent(self._folder, order)

    def lift(self, order: IsolationOrder) -> None:
        """Let it go on."""
        lift(self._folder, order)

    def cut(self, order: IsolationOrder) -> Harvest:
        """Nothing: a connection is a part of what is kept."""
        return Harvest()
