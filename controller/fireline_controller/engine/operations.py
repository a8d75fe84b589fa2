"""One operation from the wish to the last outcome: resolve, freeze, confirm, journal, fan out, journal.

The intent is on record before the first host is called (I6), and an operation goes on when whoever watched it leaves.
What a killed process left is settled. Leaves to others: what is done on a host (the work that is passed in).
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fireline_controller import fanout, targets
from fireline_controller.config import Settings
from fireline_controller.engine import entries, settling
from fireline_controller.engine.feed import Feed
from fireline_controller.engine.owners import Owners
from fireline_controller.engine.permits import Permit
from fireline_controller.engine.values import Finished, News, Progress, Started, TargetSpec, Wish
from fireline_controller.hosts import Command
from fireline_controller.model import (
    EmptyTarget,
    Host,
    HostOutcome,
    Operation,
    Outcome,
    PolicyError,
    Target,
)
from fireline_controller.profiles import Profile
from fireline_controller.store import Store, Transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Resolved:
    """What a target meant in this very fleet: a command asks twice, once to show it and once to do it."""

    spec: TargetSpec
    fleet: tuple[Host, ...]
    target: Target
    hosts: tuple[Host, ...]


@dataclass(frozen=True)
class _Order:
    """All that is decided before an operation is on record, and where it is told and stopped."""

    operation: Operation
    profile: Profile | None
    hosts: tuple[Host, ...]
    limits: fanout.Limits
    budget: fanout.Budget
    started_s: float
    permit: Permit
    parameters: Mapping[str, Any]
    request_id: str = ""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    feed: Feed = field(default_factory=Feed)


@dataclass(frozen=True)
class Running:
    """An operation under way: what the work on its hosts is told, and where it tells its progress."""

    operation: Operation
    command: Command
    journal_head: tuple[int, str]
    started_s: float
    feed: Feed = field(default_factory=Feed)
    still_running: list[str] = field(default_factory=list)

    def tell(self, progress: Progress) -> None:
        """Pass progress on to whoever watches."""
        self.feed.tell(progress)

    def elapsed_ms(self) -> int:
        """Milliseconds since the operator's command arrived."""
        return round((time.monotonic() - self.started_s) * 1000)


Work = Callable[[Running, Host], Awaitable[HostOutcome]]


class Operations:
    """Starts operations, knows those under way, cancels them, and settles those of killed processes."""

    def __init__(self, store: Store, settings: Settings, owners: Owners, now: Callable[[], datetime]) -> None:
        self._store = store
        self._settings = settings
        self._owners = owners
        self._now = now
        self._running: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: _Resolved | None = None

    async def resolve(self, spec: TargetSpec) -> tuple[Target, tuple[Host, ...]]:
        """Which hosts a target means now.

        Raises:
            TargetError: there is none, or it does not parse.
            EmptyTarget: no host matches (I10).
            NotFound: a host or a group that it names, or the operation to retry, is not known.
            PolicyError: the operation to retry has not ended.
        """
        if spec.retry_of:
            await self.settle_interrupted()
        hosts = await self._store.hosts()
        if spec.retry_of:
            prior = await self._store.read(lambda tx: tx.operation(spec.retry_of))
            return _retried(prior, hosts)
        last = self._last
        if last is None or last.spec != spec or last.fleet is not hosts:
            target = targets.resolve(spec.terms, spec.excluded, hosts, self._settings.groups)
            wanted = set(target.hosts)
            last = self._last = _Resolved(spec, hosts, target, tuple(h for h in hosts if h.name in wanted))
        return last.target, last.hosts

    def needs_confirmation(self, target: Target) -> bool:
        """Whether a target is so wide that the operator must confirm it."""
        return len(target.hosts) > self._settings.fanout.confirm_above

    async def run(
        self,
        kind: str,
        wish: Wish,
        work: Work,
        *,
        profile: Profile | None = None,
        commands_only: bool,
        parameters: Mapping[str, Any] | None = None,
        ask: Callable[[Target], Awaitable[Permit]] | None = None,
    ) -> AsyncIterator[News]:
        """Run an operation and tell how it goes; the first news is `Started`, the last one `Finished`.

        Args:
            kind: what the journal calls it: `ping`, `capture`.
            wish: whose, which hosts, why, how far.
            work: what is done on one host.
            profile: of a capture.
            commands_only: the work is one short call, so every host is called at once and the short deadline holds.
            parameters: what changes what happens on a host, for the journal.
            ask: what asks for leave to do it on these very hosts; see `Approvals.require`.

        Raises:
            PolicyError: a wide target not confirmed, or changed since; a retry beside another one; or no leave.
            FirelineError: as `resolve`, or the store fails.
        """
        started_s = time.monotonic()
        target, hosts = await self.resolve(wish.target)
        self.require_confirmed(target, wish)
        limits = self._limits(wish, len(hosts), commands_only=commands_only)
        budget = fanout.Budget.parse(wish.max_fail, len(hosts))
        permit = await ask(target) if ask else Permit()
        operation = self._operation(kind, wish, target, profile.name if profile else "")
        order = _Order(operation, profile, hosts, limits, budget, started_s, permit, parameters or {}, wish.request_id)
        # From here on it is a task of its own: it goes on, to its record's end, when whoever asked hangs up.
        self._running[operation.id] = order.cancel
        task = asyncio.create_task(self._owned(order, work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: order.feed.close())
        async for news in order.feed.until_finished(task):
            yield news

    async def cancel(self, operation_id: str) -> bool:
        """Stop an operation under way on its hosts; false when it is not running here."""
        cancel = self._running.get(operation_id)
        if cancel is not None:
            cancel.set()
        return cancel is not None

    async def close(self) -> None:
        """Cancel what still runs, and wait until it is on record."""
        for cancel in self._running.values():
            cancel.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle_interrupted(self) -> Sequence[str]:
        """Give every host of an operation that lost its process its outcome (I1).

        What was sealed before counts. The other captures go on or lie sealed on the hosts; `--retry-of` fetches them.

        Returns:
            The ids of the operations.
        """
        left = await self._store.read(lambda tx: [o.id for o in tx.operations(unfinished=True)])
        candidates = sorted({*left, *self._owners.known()})
        return [operation_id for operation_id in candidates if await self._settle(operation_id)]

    async def _settle(self, operation_id: str) -> bool:
        with self._owners.inherited(operation_id) as is_lost:
            now = self._now()
            return is_lost and await self._store.run(lambda tx: settling.settle(tx, operation_id, now))

    def require_confirmed(self, target: Target, wish: Wish) -> None:
        """Refuse a wide target that the operator has not seen and said yes to.

        Raises:
            PolicyError: it was not confirmed, or has changed since.
        """
        if wish.confirmed_sha256 and wish.confirmed_sha256 != target.sha256:
            message = f"the target has changed since it was shown: it is now {len(target.hosts)} hosts: {target.folded}"
            raise PolicyError(message, reason="unconfirmed_target")
        if self.needs_confirmation(target) and not wish.confirmed_sha256:
            above = self._settings.fanout.confirm_above
            message = f"{len(target.hosts)} hosts ({target.folded}): more than {above} need a confirmation; say --yes"
            raise PolicyError(message, reason="unconfirmed_target")

    def _limits(self, wish: Wish, hosts: int, *, commands_only: bool) -> fanout.Limits:
        configured = self._settings.fanout
        host_deadline_s = configured.command_deadline_s if commands_only else configured.host_deadline_s
        return fanout.Limits(
            host_deadline_s=wish.host_deadline_s or host_deadline_s,
            overall_deadline_s=wish.overall_deadline_s or configured.overall_deadline_s,
            concurrency=wish.concurrency or (hosts if commands_only else configured.concurrency),
        )

    def _operation(self, kind: str, wish: Wish, target: Target, profile: str) -> Operation:
        now = self._now()
        return Operation(
            new_operation_id(now), kind, wish.incident_id, wish.operator, wish.reason, target, now,
            profile=profile, retry_of=wish.target.retry_of,
        )  # fmt: skip

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an operation failed: %s", error)

    async def _owned(self, order: _Order, work: Work) -> None:
        operation_id = order.operation.id
        held, is_settled = -1, False
        try:
            held = await asyncio.to_thread(self._owners.hold, operation_id)
            running = await self._intend(order)
            order.feed.tell(_started(order))
            failure = await self._operate(order, running, work)
            is_settled = True
            if failure is not None:
                raise failure
        finally:
            del self._running[operation_id]
            if held >= 0:
                self._owners.release(operation_id, held, is_settled=is_settled)

    async def _intend(self, order: _Order) -> Running:
        operation = order.operation

        def record(tx: Transaction) -> tuple[int, tuple[int, str]]:
            _require_alone(tx, operation)
            fence = tx.next_fence_token()
            tx.put_operation(operation)
            tx.append(entries.intent(operation, order.limits, order.profile, order.parameters))
            order.permit.spend(tx, used_by=operation.id, at=operation.started_at)
            return fence, tx.head()

        fence, head = await self._store.run(record)
        command = Command(
            request_id=order.request_id or operation.id,
            operation_id=operation.id,
            incident_id=operation.incident_id,
            operator=operation.operator,
            reason=operation.reason,
            deadline=operation.started_at + timedelta(seconds=order.limits.overall_deadline_s),
            fence_token=fence,
        )
        return Running(operation, command, head, order.started_s, order.feed)

    async def _operate(self, order: _Order, running: Running, work: Work) -> Exception | None:
        """Returns: why the controller itself failed; by then every host has its outcome all the same."""
        outcomes: list[HostOutcome] = []
        failure: Exception | None = None

        def ended(outcome: HostOutcome) -> None:
            outcomes.append(outcome)
            order.feed.tell(outcome)

        try:
            await fanout.fan_out(
                order.hosts,
                lambda host: work(running, host),
                limits=order.limits,
                budget=order.budget,
                cancel=order.cancel,
                on_outcome=ended,
            )
        except Exception as error:  # noqa: BLE001 - the controller itself failed: raised again once all is on record
            failure = error
        how = entries.End(self._now(), running.elapsed_ms(), tuple(running.still_running))
        await self._store.run(lambda tx: settling.finish(tx, running.operation, outcomes, how))
        if failure is not None:
            return failure
        finished = Finished(entries.counts(outcomes), running.elapsed_ms(), tuple(running.still_running))
        order.feed.tell(finished)
        return None


def _started(order: _Order) -> Started:
    operation = order.operation
    worst_case = order.budget.worst_case(order.limits.concurrency)
    return Started(operation.id, operation.incident_id, operation.target, worst_case, order.permit.warning)


def new_operation_id(now: datetime) -> str:
    """An id that sorts by time and can't be guessed: op-019b0f3c2a1-5e6f7a8b."""
    return f"op-{int(now.timestamp() * 1000):011x}-{secrets.token_hex(4)}"


def _retried(prior: Operation, hosts: Sequence[Host]) -> tuple[Target, tuple[Host, ...]]:
    if prior.finished_at is None:
        raise _still_runs(prior)
    ended_ok = {o.host for o in prior.outcomes if o.outcome is Outcome.OK}
    wanted = set(prior.target.hosts) - ended_ok
    here = tuple(h for h in hosts if h.name in wanted)
    if not here:
        raise EmptyTarget(f"every host of {prior.id} ended ok, or is no longer in the fleet: nothing to retry")
    return targets.freeze((h.name for h in here), spelled=f"retry of {prior.id}"), here


def _require_alone(tx: Transaction, operation: Operation) -> None:
    """Two retries of one operation would fetch the same captures at once."""
    mine = _origin(tx, operation)
    for other in tx.operations(unfinished=True) if operation.retry_of else ():
        if _origin(tx, other) == mine:
            raise _still_runs(other)


def _origin(tx: Transaction, operation: Operation) -> str:
    return (operation, *settling.lineage(tx, operation))[-1].id


def _still_runs(operation: Operation) -> PolicyError:
    since = f"{operation.operator}'s since {operation.started_at:%H:%M:%S} UTC"
    message = f"{operation.id} still runs ({since}): a retry would do the same again; wait for its end, or interrupt it"
    return PolicyError(message, reason="policy_denied")
