"""Isolate the network of containers by tables inside their own network namespaces.

There is no controller inside a container, so nothing stays open but its loopback and what the order allows. Every
container that the scope selects is in it, those that are started later too: the watchdog finds them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from fireline_agent.hands import namespaces
from fireline_agent.hands.nft import Nft, NftError
from fireline_agent.isolation import cutting, facts, rules
from fireline_agent.isolation.containers import Container, Containers
from fireline_agent.isolation.force import inspect, is_as_rehearsed, rehearsed
from fireline_agent.isolation.means import Force, Harvest, MeansError
from fireline_agent.isolation.model import Capability, Place, Plan, table_name
from fireline_agent.isolation.plan import in_container, nameable
from fireline_wire.isolation import IsolationOrder

R = TypeVar("R")

_PROC: Final = Path("/proc")
_HERE: Final = Path("/proc/thread-self/ns/net")


class ContainerNet:
    """`container:`, `compose:` and `image:`."""

    look_every_s = 5.0

    def __init__(self, nft: Nft | None, capability: Capability, containers: Containers) -> None:
        self._nft = nft
        self._capability = capability
        self._containers = containers

    def plan(self, order: IsolationOrder, *, left_ms: int | None, replaced: tuple[str, ...] = ()) -> Plan:
        """One transaction for each container."""
        if self._capability.refusal:
            return Plan(order, refusal=self._capability.refusal)
        try:
            found = self._containers.selected(order.scope)
            refusal = _on_host_network(found)
            # One that is cut off for good may be stopped; a new order must find somebody.
            if not found and left_ms is not None:
                refusal = f"no running container is {order.scope}"
            if refusal:
                return Plan(order, refusal=refusal)
            places = [self._place(order, container, left_ms, replaced) for container in found]
        except MeansError as error:
            return Plan(order, refusal=str(error))
        return Plan(
            order,
            transaction="".join(f"# in container {p.label}\n{p.transaction}" for p in places),
            places=tuple(places),
            effects=tuple(_effects(order, found)),
            lacks=(*self._capability.lacks, *map(_weakness, (c for c in found if c.rules_itself))),
        )

    def put(self, plan: Plan) -> None:
        """In each container's namespace; where one refuses, those before it are let go."""
        done: list[Place] = []
        for place in plan.places:
            try:
                self._in(place.namespace, functools.partial(_apply, place.transaction))
            except MeansError as error:
                for other in done:
                    with suppress(MeansError):
                        self._in(other.namespace, functools.partial(_lift, table_name(plan.order.order_id)))
                raise MeansError(f"container {place.label}: {error}") from None
            done.append(place)

    def look(self, order: IsolationOrder) -> Force:
        """As `inspect`: the engine's answer takes longer than all the rest."""
        return self.inspect(order)

    def inspect(self, order: IsolationOrder) -> Force:
        """The weakest of them counts. Where no container runs, nothing is stopped and nothing is missing."""
        name = table_name(order.order_id)
        found = self._containers.selected(order.scope)
        seen = [self._in(container.namespace, lambda nft: inspect(nft, name)) for container in found]
        left = [one.lease_left_ms for one in seen if one.lease_left_ms is not None]
        return Force(
            is_there=all(one.is_there for one in seen),
            lease_left_ms=min(left, default=None),
            dropped_packets=sum(one.dropped_packets for one in seen),
            written="".join(one.written for one in seen),
        )

    def is_as_planned(self, plan: Plan, force: Force) -> bool:
        """Rehearsed for every container anew: there are few, and they come and go."""
        if self._nft is None:
            raise MeansError("nft is missing: install the package nftables")
        name = table_name(plan.order.order_id)
        seen = [self._in(place.namespace, lambda nft: inspect(nft, name).written) for place in plan.places]
        try:
            wanted = [rehearsed(self._nft, place.transaction, name) for place in plan.places]
        except (NftError, OSError) as error:
            raise MeansError(str(error)) from None
        return all(
            is_as_rehearsed(one, other, place.interfaces)
            for one, other, place in zip(seen, wanted, plan.places, strict=True)
        )

    def make_permanent(self, order: IsolationOrder) -> None:
        """In each container."""
        name = table_name(order.order_id)
        for container in self._containers.selected(order.scope):
            self._in(container.namespace, functools.partial(_make_permanent, name))

    def lift(self, order: IsolationOrder) -> None:
        """Wherever such a table is: a container may have got another name since."""
        name = table_name(order.order_id)
        refused = []
        for found, result in namespaces.in_each(_PROC, lambda _: self._lifted(name)):
            # One that ended meanwhile is no refusal, nor is one that nobody may enter.
            if isinstance(result, str) and result:
                refused.append(f"{found.path}: {result}")
        if refused:
            raise MeansError("; ".join(refused))

    def cut(self, order: IsolationOrder) -> Harvest:
        """In each container's namespace."""
        try:
            found = self._containers.selected(order.scope)
        except MeansError as error:
            return Harvest(lacks=[str(error)])
        return cutting.cut(order, None, [container.namespace for container in found])

    def _place(
        self, order: IsolationOrder, container: Container, left_ms: int | None, replaced: tuple[str, ...]
    ) -> Place:
        with _entered(container.namespace):
            network = facts.network()
        text = in_container(order, network=network, capability=self._capability, left_ms=left_ms, replaced=replaced)
        interfaces = nameable(network.links)
        return Place(f"{container.name} ({container.id[:12]})", container.namespace, text, interfaces)

    def _lifted(self, name: str) -> str:
        """Take the table away in this thread's namespace; why not, or empty."""
        try:
            if self._nft is not None:
                _lift(name, self._nft)
        except NftError as error:
            return str(error)
        return ""

    def _in(self, namespace: str, work: Callable[[Nft], R]) -> R:
        if self._nft is None:
            raise MeansError("nft is missing: install the package nftables")
        try:
            with _entered(namespace):
                return work(self._nft)
        except NftError as error:
            raise MeansError(str(error)) from None


@contextmanager
def _entered(namespace: str) -> Iterator[None]:
    """Stay in a container's namespace.

    Raises:
        MeansError: it ended, or it is the one that the agent lives in.
    """
    try:
        if Path(namespace).stat().st_ino == _HERE.stat().st_ino:
            raise MeansError(f"{namespace} is the host's own network")
        with namespaces.entered(namespace):
            yield
    except OSError as error:
        raise MeansError(f"{namespace} can't be entered: {error.strerror or error}") from None


def _on_host_network(containers: Sequence[Container]) -> str:
    here = _HERE.stat().st_ino
    for container in containers:
        with suppress(OSError):
            if Path(container.namespace).stat().st_ino == here:
                return (
                    f"container {container.name} is on the host's network: isolate the host, "
                    f"or stop its processes with the scope paused:{container.name}"
                )
    return ""


def _weakness(container: Container) -> str:
    return (
        f"container {container.name} may change its own rules (NET_ADMIN): what it undoes is put back within seconds; "
        f"the scope paused:{container.name} leaves it no say"
    )


def _effects(order: IsolationOrder, containers: Sequence[Container]) -> Iterator[str]:
    for container in containers:
        yield f"everything in and out of container {container.name} ({container.id[:12]}) is dropped; loopback goes on"
    yield f"a container that is started later and is {order.scope} is cut off too, within seconds"
    for opening in order.allowances:
        yield f"{opening} stays reachable, both ways"


def _apply(transaction: str, nft: Nft) -> None:
    nft.apply(transaction)


def _lift(name: str, nft: Nft) -> None:
    found = [family for family, other in nft.tables() if other == name]
    if found:
        nft.apply(rules.remove(name, found))


def _make_permanent(name: str, nft: Nft) -> None:
    nft.apply(rules.make_permanent(name, [family for family, other in nft.tables() if other == name]))
