"""What isolating would do, before it is done: on each host, and to groups whose hosts stand in for one another."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fireline_controller import isolation as judging
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.grounds import Ground, is_own, said_own
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.values import IsolationWish
from fireline_controller.hosts import Fleet, IsolationPlan, vantage
from fireline_controller.isolation import IN_FORCE
from fireline_controller.model import Host, HostError, Outcome, PolicyError, Target
from fireline_controller.store import Transaction

# Whether somebody who would stand in is healthy must not hold up an isolation for long.
_HEALTHY_S = 2.0


@dataclass(frozen=True)
class Planned:
    """What isolating one host would do; `plan` is there for the outcome ok."""

    host: str
    outcome: Outcome
    detail: str
    open: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()
    plan: IsolationPlan | None = None


class Foresight:
    """Asks hosts what would be, and changes nothing."""

    def __init__(self, rooms: Rooms, fleet: Fleet, orders: Orders) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._orders = orders

    async def plan(self, ground: Ground, host: Host, how: IsolationWish) -> Planned:
        """What isolating one host would do there."""
        timeout_s = self._rooms.settings.fanout.command_deadline_s
        try:
            draft = await self._orders.draft(host, how, now=self._rooms.now())
            order = self._orders.sign(draft, self._rooms.now())
            plan = await self._fleet.client(host).plan_isolation(order, timeout_s=timeout_s)
        except HostError as error:
            return Planned(host.name, error.outcome, str(error))
        way = await vantage.way_to(host.address)
        if is_own(way):
            plan = replace(plan, refusal="it is this controller's own host: it is never isolated")
        elif (why := said_own(plan, way)) and not how.force:
            plan = replace(plan, refusal=f"{why}; to isolate it all the same: --force REASON")
        opened = {*draft.controllers, *(opening.address for opening in how.allowances)}
        candidates = judging.candidates(host.name, ground.hosts, spared=ground.spared, open_addresses=opened)
        witnesses = tuple(c.name for c in candidates[: self._rooms.settings.isolation.witnesses])
        return Planned(host.name, Outcome.OK, "", (*draft.controllers, *draft.allowances), witnesses, plan)

    async def require_harmless(self, target: Target, how: IsolationWish) -> None:
        """Refuse what a group would not survive, unless it is forced.

        Raises:
            PolicyError: a group would lose its last healthy member.
        """
        hurt = await self.hurt(target, how)
        if hurt and not how.force:
            raise PolicyError(f"{'; '.join(hurt)}; to do it all the same: --force REASON", reason="policy_denied")

    async def hurt(self, target: Target, how: IsolationWish) -> Sequence[str]:
        """The groups that would lose their last healthy member, each as a sentence."""
        if how.scope.kind != "host":
            return ()
        hosts = await self._rooms.store.hosts()
        isolated = await self._rooms.store.read(isolated_hosts)
        label = self._rooms.settings.isolation.group_label
        groups = judging.groups_hurt(hosts, targeted=target.hosts, isolated=isolated, label=label)
        by_name = {host.name: host for host in hosts}
        sentences = await asyncio.gather(*(self._group_hurt(group, by_name) for group in groups))
        return [sentence for sentence in sentences if sentence]

    async def _group_hurt(self, group: judging.Group, hosts: Mapping[str, Host]) -> str:
        """Asks the others until one answers."""
        asking = [asyncio.ensure_future(self._is_healthy(hosts[name])) for name in group.others]
        try:
            for answer in asyncio.as_completed(asking):
                if await answer:
                    return ""
            return group.hurt(())
        finally:
            for one in asking:
                one.cancel()

    async def _is_healthy(self, host: Host) -> bool:
        try:
            await self._fleet.client(host).describe(timeout_s=_HEALTHY_S)
        except HostError:
            return False
        return True


def isolated_hosts(tx: Transaction) -> frozenset[str]:
    """The hosts that are cut off as a whole, or may be."""
    return frozenset(one.host for one in tx.isolations(IN_FORCE) if one.scope == "host")
