"""One operation from the wish to the last outcome: resolve, freeze, confirm, journal, fan out, journal.

The intent is on record before the first host is called (I6), and an operation goes on when whoever watched it leaves.
Leaves to others: what is done on a host (the work that is passed in).
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from fireline_controller import fanout, targets
from fireline_controller.config import Settings
from fireline_controller.engine.values import Finished, News, Progress, Started, TargetSpec, Wish
from fireline_controller.hosts import Command
from fireline_controller.model import (
    EmptyTarget,
    Entry,
    FirelineError,
    Host,
    HostOutcome,
    Operation,
    Outcome,
    PolicyError,
    Target,
)
from fireline_controller.store import Store, Transaction

log = logging.getLogger(__name__)

# A watcher that reads slowly loses progress, never an outcome.
_NEWS_KEPT = 1000


@dataclass
class Running:
    """An operation under way: what the work on its hosts is told, and where it tells its progress."""

    operation: Operation
    hosts: tuple[Host, ...]
    command: Command
    started_s: float
    journal_head: tuple[int, str]
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    still_running: list[str] = field(default_factory=list)

    def tell(self, progress: Progress) -> None:
        """Pass progress on to whoever watches."""
        if self.news.qsize() < _NEWS_KEPT:
            self.news.put_nowait(progress)

    def elapsed_ms(self) -> int:
        """Milliseconds since the operator's command arrived."""
        return round((time.monotonic() - self.started_s) * 1000)


Work = Callable[[Running, Host], Awaitable[HostOutcome]]


class Operations:
    """Starts operations, knows those under way, and cancels them."""

    def __init__(self, store: Store, settings: Settings, now: Callable[[], datetime]) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def resolve(self, spec: TargetSpec) -> tuple[Target, tuple[Host, ...]]:
        """Which hosts a target means now.

        Raises:
            TargetError: it does not parse, or names a host that is not known.
            EmptyTarget: no host matches (I10).
            NotFound: the operation to retry is not known.
        """
        hosts = await self._store.run(lambda tx: tx.hosts())
        if spec.retry_of:
            prior = await self._store.run(lambda tx: tx.operation(spec.retry_of))
            return _retried(prior, hosts)
        target = targets.resolve(spec.terms, spec.excluded, hosts, self._settings.groups)
        wanted = set(target.hosts)
        return target, tuple(h for h in hosts if h.name in wanted)

    def needs_confirmation(self, target: Target) -> bool:
        """Whether a target is so wide that the operator must confirm it."""
        return len(target.hosts) > self._settings.fanout.confirm_above

    async def run(
        self, kind: str, wish: Wish, work: Work, *, profile: str = "", commands_only: bool
    ) -> AsyncIterator[News]:
        """Run an operation and tell how it goes; the last news is `Finished`.

        Args:
            kind: what the journal calls it: `ping`, `capture`.
            wish: whose, which hosts, why, how far.
            work: what is done on one host.
            profile: of a capture.
            commands_only: the work is one short call, so every host is called at once and the short deadline holds.

        Raises:
            PolicyError: a wide target that was not confirmed, or changed since.
            FirelineError: as `resolve`, or the store fails.
        """
        started_s = time.monotonic()
        target, hosts = await self.resolve(wish.target)
        self.require_confirmed(target, wish)
        limits = self._limits(wish, len(hosts), commands_only=commands_only)
        budget = fanout.Budget.parse(wish.max_fail, len(hosts))
        running = await self._intend(kind, wish, target, hosts, limits, profile, started_s)
        yield Started(running.operation.id, wish.incident_id, target, budget.worst_case(limits.concurrency))
        task = asyncio.create_task(self._operate(running, work, limits, budget))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        async for news in _until_finished(running, task):
            yield news

    async def cancel(self, operation_id: str) -> bool:
        """Stop an operation under way on its hosts; false when it is not running here."""
        running = self._running.get(operation_id)
        if running is not None:
            running.cancel.set()
        return running is not None

    async def close(self) -> None:
        """Cancel what still runs, and wait until it is on record."""
        for running in self._running.values():
            running.cancel.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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

    async def _intend(
        self, kind: str, wish: Wish, target: Target, hosts: tuple[Host, ...], limits: fanout.Limits, profile: str,
        started_s: float,
    ) -> Running:  # fmt: skip
        now = self._now()
        operation = Operation(
            new_operation_id(now), kind, wish.incident_id, wish.operator, wish.reason, target, now,
            profile=profile, retry_of=wish.target.retry_of,
        )  # fmt: skip

        def record(tx: Transaction) -> tuple[int, tuple[int, str]]:
            fence = tx.next_fence_token()
            tx.put_operation(operation)
            tx.append(_intent(operation, limits))
            return fence, tx.head()

        fence, head = await self._store.run(record)
        command = Command(
            request_id=operation.id,
            operation_id=operation.id,
            incident_id=wish.incident_id,
            operator=wish.operator,
            reason=wish.reason,
            deadline=now + timedelta(seconds=limits.overall_deadline_s),
            fence_token=fence,
        )
        running = Running(operation, hosts, command, started_s, head)
        self._running[operation.id] = running
        return running

    async def _operate(self, running: Running, work: Work, limits: fanout.Limits, budget: fanout.Budget) -> None:
        try:
            outcomes = await fanout.fan_out(
                running.hosts,
                lambda host: work(running, host),
                limits=limits,
                budget=budget,
                cancel=running.cancel,
                on_outcome=running.news.put_nowait,
            )
            await self._finish(running, outcomes)
        finally:
            del self._running[running.operation.id]

    async def _finish(self, running: Running, outcomes: Sequence[HostOutcome]) -> None:
        now = self._now()
        counts = dict(Counter(str(o.outcome) for o in outcomes))

        def record(tx: Transaction) -> None:
            tx.finish_operation(running.operation.id, outcomes, now)
            tx.append(*_outcome_entries(running, outcomes, counts, now))
            tx.checkpoint()

        await self._store.run(record)
        running.news.put_nowait(Finished(counts, running.elapsed_ms(), tuple(running.still_running)))


async def _until_finished(running: Running, task: asyncio.Task[None]) -> AsyncIterator[News]:
    while True:
        getter = asyncio.ensure_future(running.news.get())
        try:
            await asyncio.wait({getter, task}, return_when=asyncio.FIRST_COMPLETED)
            if not getter.done():
                task.result()  # raises what stopped the operation
                while running.news.empty():
                    raise FirelineError(f"{running.operation.id} ended without a result")
                continue
            news = getter.result()
        finally:
            getter.cancel()
        yield news
        if isinstance(news, Finished):
            return


def new_operation_id(now: datetime) -> str:
    """An id that sorts by time and can't be guessed: op-019b0f3c2a1-5e6f7a8b."""
    return f"op-{int(now.timestamp() * 1000):011x}-{secrets.token_hex(4)}"


def _retried(prior: Operation, hosts: Sequence[Host]) -> tuple[Target, tuple[Host, ...]]:
    ended_ok = {o.host for o in prior.outcomes if o.outcome is Outcome.OK}
    wanted = set(prior.target.hosts) - ended_ok
    here = tuple(h for h in hosts if h.name in wanted)
    if not here:
        raise EmptyTarget(f"every host of {prior.id} ended ok, or is no longer in the fleet: nothing to retry")
    return targets.freeze((h.name for h in here), spelled=f"retry of {prior.id}"), here


def _intent(operation: Operation, limits: fanout.Limits) -> Entry:
    count = len(operation.target.hosts)
    return Entry(
        kind=f"{operation.kind}.ordered",
        actor=operation.operator,
        at=operation.started_at,
        summary=f"{operation.kind} of {count} hosts: {operation.target.folded}",
        incident_id=operation.incident_id,
        operation_id=operation.id,
        data={
            "reason": operation.reason,
            "profile": operation.profile,
            "retry_of": operation.retry_of,
            "target": operation.target.spelled,
            "hosts": operation.target.folded,
            "target_sha256": operation.target.sha256,
            "concurrency": limits.concurrency,
            "host_deadline_ms": round(limits.host_deadline_s * 1000),
        },
    )


def _outcome_entries(
    running: Running, outcomes: Sequence[HostOutcome], counts: dict[str, int], now: datetime
) -> list[Entry]:
    operation = running.operation
    common = Entry(
        kind=f"{operation.kind}.outcome",
        actor="controller",
        at=now,
        summary="",
        incident_id=operation.incident_id,
        operation_id=operation.id,
    )
    # A host that ended ok with evidence has its line since the seal; here are those that did not.
    entries = [
        replace(
            common,
            host=o.host,
            summary=f"{o.outcome}: {o.detail}",
            data={"outcome": str(o.outcome), "reason": o.reason, "duration_ms": o.duration_ms},
        )
        for o in outcomes
        if o.outcome is not Outcome.OK
    ]
    total = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    data = {"counts": counts, "duration_ms": running.elapsed_ms(), "still_running": list(running.still_running)}
    entries.append(replace(common, kind=f"{operation.kind}.finished", summary=f"finished: {total}", data=data))
    return entries
