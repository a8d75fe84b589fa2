"""Isolate this host, or one peer of it, by tables in the network namespace that the agent lives in."""

from collections.abc import Iterator
from contextlib import contextmanager

from fireline_agent.hands.nft import Nft, NftError
from fireline_agent.isolation import cutting, facts, force, rules
from fireline_agent.isolation.force import is_as_rehearsed, rehearsed
from fireline_agent.isolation.means import Force, Harvest, MeansError
from fireline_agent.isolation.model import Capability, Identity, Plan, table_name
from fireline_agent.isolation.plan import plan
from fireline_wire.isolation import IsolationOrder


class HostNet:
    """`host` and `peer:`."""

    look_every_s = 10.0

    def __init__(self, nft: Nft | None, identity: Identity, capability: Capability) -> None:
        self._nft = nft
        self._identity = identity
        self._capability = capability
        self._rehearsed = ("", "")

    @property
    def capability(self) -> Capability:
        """Found by trial when the agent started."""
        return self._capability

    def plan(self, order: IsolationOrder, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """One nft transaction."""
        return plan(
            order,
            network=facts.network(),
            identity=self._identity,
            capability=self._capability,
            left_ms=left_ms,
            replaced=replaced,
        )

    def put(self, plan: Plan) -> None:
        """Apply it."""
        with self._program() as nft:
            nft.apply(plan.transaction)

    def look(self, order: IsolationOrder) -> Force:
        """The lease of the order's tables."""
        with self._program() as nft:
            return force.look(nft, table_name(order.order_id))

    def inspect(self, order: IsolationOrder) -> Force:
        """The order's tables as the kernel has them."""
        with self._program() as nft:
            return force.inspect(nft, table_name(order.order_id))

    def is_as_planned(self, plan: Plan, force: Force) -> bool:
        """Rehearsed once, and again when the plan is another one."""
        if self._rehearsed[0] != plan.transaction:
            with self._program() as nft:
                name = table_name(plan.order.order_id)
                self._rehearsed = (plan.transaction, rehearsed(nft, plan.transaction, name))
        return is_as_rehearsed(force.written, self._rehearsed[1], plan.interfaces)

    def make_permanent(self, order: IsolationOrder) -> None:
        """The same element without a time-out, in every table or in none."""
        name = table_name(order.order_id)
        with self._program() as nft:
            nft.apply(rules.make_permanent(name, (family for family, found in nft.tables() if found == name)))

    def lift(self, order: IsolationOrder) -> None:
        """Delete the order's tables."""
        self.lift_named({table_name(order.order_id)})

    def lift_named(self, names: set[str]) -> None:
        """Delete the tables of these names, in one transaction."""
        with self._program() as nft:
            found = [(family, name) for family, name in nft.tables() if name in names]
            if found:
                nft.apply("".join(rules.remove(name, [family]) for family, name in found))

    def own_names(self) -> set[str]:
        """The names of all tables here that an agent of ours made."""
        with self._program() as nft:
            return force.own_names(nft)

    def ruleset(self) -> str:
        """All rules of this namespace, without counters."""
        with self._program() as nft:
            return nft.ruleset()

    def cut(self, order: IsolationOrder) -> Harvest:
        """In every network namespace of this host."""
        return cutting.cut(order, self._identity)

    @contextmanager
    def _program(self) -> Iterator[Nft]:
        if self._nft is None:
            raise MeansError("nft is missing: install the package nftables")
        try:
            yield self._nft
        except (NftError, OSError) as error:
            raise MeansError(str(error)) from None
