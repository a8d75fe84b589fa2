"""What a host is owed that comes into sight: its isolations looked at, new controllers let in, waiting orders done."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from fireline_controller.engine import isolation_entries as entries
from fireline_controller.engine import standing
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.operations import new_operation_id
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.values import IsolationWish, News, TargetSpec, Wish
from fireline_controller.hosts import Command, Fleet
from fireline_controller.isolation import STANDING, Isolation, Phase
from fireline_controller.model import FirelineError, Host
from fireline_controller.store import Transaction
from fireline_wire.isolation import MAX_ADDRESSES, Opening, Scope

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 10.0


class Isolate(Protocol):
    """`Isolations.isolate`."""

    def __call__(self, wish: Wish, how: IsolationWish, *, waiting: frozenset[str]) -> AsyncIterator[News]:
        """See there."""


class Returning:
    """Looks after the isolations of hosts that are seen again. Belongs to one event loop."""

    def __init__(self, rooms: Rooms, fleet: Fleet, orders: Orders, isolate: Isolate) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._orders = orders
        self._isolate = isolate
        self._carrying: dict[str, asyncio.Task[None]] = {}

    async def seen(self, host: Host) -> None:
        """Do what a host is owed; a waiting order is carried out beside, for that takes its time."""
        try:
            if await self._rooms.store.read(lambda tx: tx.isolations(STANDING, host.name)):
                await self._seen(host)
        except FirelineError as error:
            log.warning("isolation of %s not looked after: %s", host.name, error)

    async def close(self) -> None:
        """Stop carrying out."""
        for task in self._carrying.values():
            task.cancel()
        await asyncio.gather(*self._carrying.values(), return_exceptions=True)

    async def _seen(self, host: Host) -> None:
        asked_at = self._rooms.now()
        status = await self._fleet.client(host).isolation_status(timeout_s=_TIMEOUT_S)
        now = self._rooms.now()

        def settled(tx: Transaction) -> tuple[Isolation, ...]:
            standing.expire(tx, now)
            standing.reconcile(tx, host.name, status, asked_at=asked_at, now=now)
            return tx.isolations(STANDING, host.name)

        left = await self._rooms.store.run(settled)
        for isolation in left:
            if isolation.phase is Phase.COMMITTED:
                await self._let_controllers_in(host, isolation)
        waiting = [isolation for isolation in left if isolation.phase is Phase.PENDING]
        if waiting and host.name not in self._carrying:
            task = asyncio.create_task(self._carry_out(host, waiting))
            self._carrying[host.name] = task
            task.add_done_callback(lambda _: self._carrying.pop(host.name))

    async def _let_controllers_in(self, host: Host, isolation: Isolation) -> None:
        """Leave the addresses of today's controllers open, before one of them needs it; none is closed by that."""
        wanted = tuple(dict.fromkeys((*await self._orders.controllers(host), *isolation.controllers)))
        if set(wanted) <= set(isolation.controllers) or len(wanted) > MAX_ADDRESSES:
            return
        now = self._rooms.now()

        def intend(tx: Transaction) -> Isolation:
            changed = replace(isolation, controllers=wanted, fence_token=tx.next_fence_token())
            tx.append(entries.amending(changed, now))
            return changed

        changed = await self._rooms.store.run(intend)
        order = self._orders.sign(changed, now)
        await self._fleet.client(host).amend(_command(changed, now), order, timeout_s=_TIMEOUT_S)

        def done(tx: Transaction) -> None:
            if tx.isolation(changed.order_id).phase is Phase.COMMITTED:
                tx.put_isolation(changed)
                tx.append(entries.amended(changed, now))

        await self._rooms.store.run(done)

    async def _carry_out(self, host: Host, waiting: Sequence[Isolation]) -> None:
        for order in waiting:
            wish = Wish(order.operator, TargetSpec((host.name,)), order.reason, order.incident_id)
            how = IsolationWish(
                scope=Scope.parse(order.scope),
                allowances=tuple(Opening.parse(text) for text in order.allowances),
                lease_s=order.lease_s,
                now=order.without_evidence,
                force=order.force,
                unproved=order.unproved,
            )
            try:
                async for news in self._isolate(wish, how, waiting=frozenset({order.order_id})):
                    log.info("%s: %s", host.name, news)
            except FirelineError as error:
                await self._refused(order, str(error))

    async def _refused(self, order: Isolation, why: str) -> None:
        """It goes on waiting: what refuses it may be another once the host is seen the next time."""
        now = self._rooms.now()
        summary = f"the order that waits for {order.host} is not carried out: {why}"
        await self._rooms.store.run(lambda tx: tx.append(entries.noticed(order, now, summary)))


def _command(isolation: Isolation, now: datetime) -> Command:
    operation_id = new_operation_id(now)
    return Command(
        request_id=operation_id,
        operation_id=operation_id,
        incident_id=isolation.incident_id,
        operator="controller",
        reason="other controllers",
        deadline=now + timedelta(seconds=_TIMEOUT_S),
        fence_token=isolation.fence_token,
    )
