"""Isolations as operators ask for them: isolate, release, plan, look, show a code."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from fireline_controller import targets
from fireline_controller.engine import standing
from fireline_controller.engine.approvals import Approvals
from fireline_controller.engine.collect import Rooms
from fireline_controller.engine.foresight import Foresight, Planned, isolated_hosts
from fireline_controller.engine.grounds import Ground, Subject
from fireline_controller.engine.isolating import HostIsolation
from fireline_controller.engine.operations import Operations, Running
from fireline_controller.engine.orders import Orders
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.releasing import HostRelease
from fireline_controller.engine.values import IsolationWish, News, TargetSpec, Wish
from fireline_controller.hosts import Fleet, IsolationStatus
from fireline_controller.isolation import IN_FORCE, STANDING, Isolation
from fireline_controller.model import (
    Entry,
    Host,
    HostError,
    HostOutcome,
    NotFound,
    Outcome,
    PolicyError,
    Target,
)
from fireline_controller.profiles import Profile
from fireline_controller.store import Transaction


@dataclass(frozen=True)
class Plan:
    """What isolating would do on each host, by name; which groups it would hurt; which approval it would need."""

    hosts: tuple[Planned, ...]
    hurts: tuple[str, ...]
    approval: str


@dataclass(frozen=True)
class HostIsolations:
    """What is in force on one host: by its kernel, for the outcome ok, and by the record."""

    host: str
    outcome: Outcome
    detail: str
    records: tuple[Isolation, ...]
    status: IsolationStatus | None = None


class Isolations:
    """What operators may ask about isolation. `profile` gives a capture profile by its name."""

    def __init__(
        self,
        rooms: Rooms,
        fleet: Fleet,
        operations: Operations,
        approvals: Approvals,
        orders: Orders,
        profile: Callable[[str], Profile],
    ) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._operations = operations
        self._approvals = approvals
        self._profile = profile
        self._orders = orders
        self._foresight = Foresight(rooms, fleet, orders)

    async def isolate(
        self, wish: Wish, how: IsolationWish, *, waiting: frozenset[str] = frozenset()
    ) -> AsyncIterator[News]:
        """Cut hosts off, each one proved dark from outside or let back.

        `waiting` are orders that waited for their hosts: they were approved when they were given.

        Raises:
            PolicyError: no reason, a group would lose its last healthy member, approval is needed; or as `run` says.
            FirelineError: nothing was sent: the target, the incident, a missing confirmation, the store.
        """
        _require_reason(wish, "isolate")
        await self._require_known(wish, "isolate")
        target, _ = await self._operations.resolve(wish.target)
        ground = await self._ground(target, waiting)

        async def ask(resolved: Target) -> Permit:
            await self._foresight.require_harmless(resolved, how)
            if waiting:
                return Permit()
            summary = f"isolate {resolved.folded} ({how.scope})"
            return await self._approvals.require("isolate", resolved, how.parameters(), wish, summary=summary)

        async def work(running: Running, host: Host) -> HostOutcome:
            return await HostIsolation(Subject(self._rooms, ground, running, host, how)).run()

        whole = replace(wish, concurrency=wish.concurrency or (len(target.hosts) if how.now else 0))
        run = self._operations.run("isolate", whole, work, commands_only=False, parameters=how.parameters(), ask=ask)
        async for news in run:
            yield news

    async def release(self, wish: Wish) -> AsyncIterator[News]:
        """Let hosts back, with everything that is isolated on them.

        Raises:
            PolicyError: no reason, approval is needed; or as `run` says.
            FirelineError: nothing was sent: the target, the incident, a missing confirmation, the store.
        """
        _require_reason(wish, "release")
        await self._require_known(wish, "release")
        target, _ = await self._operations.resolve(wish.target)
        ground = await self._ground(target, frozenset())

        async def ask(resolved: Target) -> Permit:
            return await self._approvals.require("release", resolved, {}, wish, summary=f"release {resolved.folded}")

        async def work(running: Running, host: Host) -> HostOutcome:
            return await HostRelease(Subject(self._rooms, ground, running, host, IsolationWish())).run()

        whole = replace(wish, concurrency=wish.concurrency or len(target.hosts))
        async for news in self._operations.run("release", whole, work, commands_only=False, ask=ask):
            yield news

    async def plan(self, spec: TargetSpec, how: IsolationWish, *, operator: str) -> Plan:
        """What isolating would do. Changes nothing.

        Raises:
            FirelineError: the target does not parse or matches nothing.
        """
        target, hosts = await self._operations.resolve(spec)
        ground = await self._ground(target, frozenset())
        planned = await asyncio.gather(*(self._foresight.plan(ground, host, how) for host in hosts))
        approval = await self._approvals.outlook("isolate", target, how.parameters(), operator)
        hurts = await self._foresight.hurt(target, how)
        return Plan(tuple(sorted(planned, key=lambda p: p.host)), tuple(hurts), approval)

    async def status(self, spec: TargetSpec) -> Sequence[HostIsolations]:
        """What is in force on these hosts, or on all, by name: asked of each host's kernel.

        Raises:
            FirelineError: the target does not parse or matches nothing.
        """
        hosts = (await self._operations.resolve(spec))[1] if spec.terms else await self._rooms.store.hosts()
        asked_at = self._rooms.now()
        asked = await asyncio.gather(*(self._asked(host) for host in hosts))
        now = self._rooms.now()

        def settled(tx: Transaction) -> tuple[Isolation, ...]:
            standing.expire(tx, now)
            for host, answer in zip(hosts, asked, strict=True):
                if not isinstance(answer, HostError):
                    standing.reconcile(tx, host.name, answer, asked_at=asked_at, now=now)
            return tx.isolations(STANDING)

        records = await self._rooms.store.run(settled)
        return [_shown(host, answer, records) for host, answer in zip(hosts, asked, strict=True)]

    async def codes(self, name: str, wish: Wish) -> tuple[Sequence[Isolation], str]:
        """The isolations in force on a host, with their codes, and what they are shown against; it is on record.

        Raises:
            PolicyError: no reason was given; or approval is needed, as for a release.
            NotFound: the host is not known, or nothing is in force on it.
        """
        if not wish.reason.strip():
            raise PolicyError("a code lets a host back without this controller: say --reason", reason="invalid_request")
        await self._rooms.store.read(lambda tx: _coded(tx, name))
        target = targets.freeze([name], spelled=name)
        summary = f"show the code that lets {name} back"
        permit = await self._approvals.require("release", target, {"code": True}, wish, summary=summary)
        now = self._rooms.now()

        def record(tx: Transaction) -> Sequence[Isolation]:
            found = _coded(tx, name)
            data = {"orders": [one.order_id for one in found], "reason": wish.reason}
            words = f"the one-time code of {name} was shown to {wish.operator}"
            tx.append(Entry("isolation.code", wish.operator, now, words, found[-1].incident_id, host=name, data=data))
            permit.spend(tx, used_by=f"isolation code {name}", at=now)
            return found

        return await self._rooms.store.run(record), permit.warning

    async def _ground(self, target: Target, waiting: frozenset[str]) -> Ground:
        hosts = await self._rooms.store.hosts()
        isolated = await self._rooms.store.read(isolated_hosts)
        return Ground(
            self._fleet,
            self._orders,
            hosts,
            isolated | set(target.hosts),
            self._profile("volatile"),
            self._profile("isolation"),
            waiting,
        )

    async def _require_known(self, wish: Wish, kind: str) -> None:
        def check(tx: Transaction) -> None:
            if wish.incident_id:
                tx.incident(wish.incident_id)
            if wish.target.retry_of and (prior := tx.operation(wish.target.retry_of)).kind != kind:
                raise NotFound(f"operation {prior.id} is no {kind} but of kind {prior.kind}")

        await self._rooms.store.read(check)

    async def _asked(self, host: Host) -> IsolationStatus | HostError:
        timeout_s = self._rooms.settings.fanout.command_deadline_s
        try:
            return await self._fleet.client(host).isolation_status(timeout_s=timeout_s)
        except HostError as error:
            return error


def _shown(host: Host, answer: IsolationStatus | HostError, records: Sequence[Isolation]) -> HostIsolations:
    own = tuple(one for one in records if one.host == host.name)
    if isinstance(answer, HostError):
        return HostIsolations(host.name, answer.outcome, str(answer), own)
    return HostIsolations(host.name, Outcome.OK, "", own, answer)


def _coded(tx: Transaction, name: str) -> Sequence[Isolation]:
    tx.host(name)
    found = tx.isolations(IN_FORCE, name)
    if not found:
        raise NotFound(f"{name}: nothing is in force there by this controller's record, so there is no code")
    return found


def _require_reason(wish: Wish, verb: str) -> None:
    if not wish.reason.strip():
        raise PolicyError(f"{verb} needs a reason for the record: say --reason", reason="invalid_request")
