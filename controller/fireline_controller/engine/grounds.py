"""What the isolation of one host starts from: what holds for the whole operation, and this host's part of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from fireline_controller import isolation as judging
from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine.collect import Collection, Rooms
from fireline_controller.engine.looking import Witnesses
from fireline_controller.engine.operations import Running
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.values import IsolationWish, Progress
from fireline_controller.hosts import Fleet, HostClient, IsolationPlan, Released, vantage
from fireline_controller.isolation import IN_FORCE, Isolation, Phase
from fireline_controller.model import Denied, Host, HostFailed, HostOutcome
from fireline_controller.profiles import Profile
from fireline_controller.store import Transaction

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ground:
    """What holds for all hosts of an operation. `spared` are isolated, or about to be: they are nobody's witnesses.

    `volatile` is captured first, `cut` after: who was connected. `waiting` are orders that are carried out now, after
    they have waited for their hosts.
    """

    fleet: Fleet
    orders: Orders
    hosts: tuple[Host, ...]
    spared: frozenset[str]
    volatile: Profile
    cut: Profile
    waiting: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Subject:
    """One host of an operation that isolates."""

    rooms: Rooms
    ground: Ground
    running: Running
    host: Host
    wish: IsolationWish

    @property
    def client(self) -> HostClient:
        """The way to the host."""
        return self.ground.fleet.client(self.host)

    @property
    def command_s(self) -> float:
        """What one short call may take, seconds."""
        return self.rooms.settings.fanout.command_deadline_s

    @property
    def is_whole(self) -> bool:
        """Whether the whole host is cut off. Of a part only the host's own kernel knows: its ports go on answering."""
        return self.wish.scope.kind == "host"

    def tell(self, doing: str) -> None:
        """Tell the watcher what is done here."""
        self.running.tell(Progress(self.host.name, doing))

    def failed(self, what: str, reason: str) -> HostFailed:
        """The error to raise, which names the host."""
        return HostFailed(f"{self.host.name}: {what}", reason=reason, retry_helps=reason == "not_proved")

    def require_others(self, tx: Transaction) -> None:
        """Refuse what somebody else's isolation has made the last member of a group, since this operation began.

        Raises:
            Denied: it is, and that is not forced.
        """
        label = self.rooms.settings.isolation.group_label
        if not self.is_whole or self.wish.force or not self.host.labels.get(label):
            return
        isolated = {one.host for one in tx.isolations(IN_FORCE) if one.scope == "host"} - {self.host.name}
        for group in judging.groups_hurt(self.ground.hosts, targeted={self.host.name}, isolated=isolated, label=label):
            if not group.others:
                message = f"{self.host.name}: {group.hurt(())}; to do it all the same: --force REASON"
                raise Denied(message, reason="policy_denied")

    def require_alone(self, tx: Transaction) -> None:
        """Refuse what somebody else is at work on: of two at once, each would take the other's proof away.

        Raises:
            HostFailed: somebody is.
        """
        for other in tx.isolations(IN_FORCE, self.host.name):
            is_at_work = tx.operation(other.operation_id).finished_at is None
            if other.scope == str(self.wish.scope) and is_at_work:
                raise self.failed(f"{other.operator} is isolating it too (order {other.order_id})", "busy")

    def witnesses(self, open_addresses: set[str]) -> Witnesses:
        """Those who may look at the host."""
        candidates = judging.candidates(
            self.host.name, self.ground.hosts, spared=self.ground.spared, open_addresses=open_addresses
        )
        return Witnesses(self.ground.fleet, candidates, self.rooms.settings.isolation)

    async def capture(self, profile: Profile) -> HostOutcome:
        """Seal evidence as a part of this operation."""
        request_id = f"{self.running.operation.id}-{profile.name}"
        return await Collection(self.rooms, self.running, self.host, self.client, profile, request_id, ()).run()

    async def record(self, work: Callable[[Transaction], _T]) -> _T:
        """Do work in one transaction."""
        return await self.rooms.store.run(work)


def said_own(plan: IsolationPlan, way: vantage.Way | None) -> str:
    """Why the planned host may be this controller's own, by its own word, or nothing.

    Only the address that this controller has on the way there counts: those of container bridges are on many machines.
    """
    return judging.own_host(
        machine_id=plan.machine_id,
        addresses=plan.addresses,
        own_machine_id=vantage.machine_id(),
        own_addresses=() if way is None or way.is_loopback else (way.local,),
    )


def is_own(way: vantage.Way | None) -> bool:
    """Whether the way to a host ends on this very machine; over loopback that can't be told."""
    return way is not None and not way.is_loopback and way.remote in vantage.own_addresses()


def require_enrolled(tx: Transaction, host: Host) -> None:
    """Refuse a host that was removed, or enrolled anew, since it was looked up.

    Raises:
        Denied: it was.
    """
    known = tx.host(host.name)
    if known.removed or known.generation != host.generation:
        raise Denied(f"{host.name}: it was removed from the fleet", reason="certificate_revoked")


def withdraw_waiting(tx: Transaction, by: Isolation, why: str) -> None:
    """End the orders that wait for the same thing as this one."""
    for waiting in tx.isolations({Phase.PENDING}, by.host):
        if waiting.scope == by.scope:
            withdraw(tx, waiting, by.committed_at or by.ordered_at, why)


def withdraw(tx: Transaction, order: Isolation, at: datetime, why: str) -> None:
    """End an order that waits for its host, or whose host is no more."""
    ended = replace(order, phase=Phase.WITHDRAWN, ended_at=at)
    tx.put_isolation(ended)
    tx.append(entries.ended(ended, at, f"the order for {order.host} is {why}"))


def how_restored(back: Released) -> str:
    """Whether a host is as it was, in words."""
    return "restored" if back.restored else f"not as before: {back.difference or 'the host does not say how'}"
