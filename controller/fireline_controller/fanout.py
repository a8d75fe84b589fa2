"""Many hosts at once: bounded, each under its own clock, every one ending in exactly one outcome (I1).

One host's failure is a result here, never an exception. Leaves to others: what the work on a host is (engine), how a
host is called (hosts), and the record (the caller's `on_outcome`, called once for each host as it ends).
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, TypeAlias

from fireline_controller.deadlines import Deadlines
from fireline_controller.model import ActionReport, ConfigError, FirelineError, Host, HostError, HostOutcome, Outcome

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Host], Awaitable[HostOutcome]]
Report: TypeAlias = Callable[[HostOutcome], None]

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%", re.ASCII)
_COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """The clocks and the width of a fan-out. A host's clock runs from when its own work starts.

    `cancel_grace_s` is what a host's work has after it was cancelled, to stop things on the host and to say what it
    knows; then it is abandoned, so that a fan-out always ends.
    """

    host_deadline_s: float
    overall_deadline_s: float
    concurrency: int
    cancel_grace_s: float = 5.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: wanted at least 1")


@dataclass(frozen=True)
class Budget:
    """How many hosts may end not ok, unreachable ones included, before no new one is started. None: all of them."""

    hosts: int
    allowed: int | None = None
    rounded: str = ""

    @classmethod
    def parse(cls, text: str, hosts: int) -> "Budget":
        """Read `--max-fail`: "5", "10%" (of the hosts, rounded down) or "" for no budget.

        Raises:
            ConfigError: neither a count nor a percentage up to 100.
        """
        text = text.strip()
        if not text:
            return cls(hosts)
        if _COUNT.fullmatch(text):
            return cls(hosts, int(text))
        percent = _PERCENT.fullmatch(text)
        if percent is None or Fraction(percent[1]) > 100:
            raise ConfigError(f"failure budget {text!r}: wanted a number of hosts (5) or a share of them (10%)")
        share = hosts * Fraction(percent[1]) / 100
        allowed = share.numerator // share.denominator
        how = "" if share == allowed else ", rounded down"
        return cls(hosts, allowed, f"{text} of {_hosts(hosts)} is {allowed}{how}")

    def room(self, *, failed: int, concurrency: int) -> int:
        """How many hosts may be at work at once after so many failed: if all of these fail too, it is one too many."""
        if self.allowed is None:
            return concurrency
        return min(concurrency, max(self.allowed - failed + 1, 0))

    def worst_case(self, concurrency: int) -> str:
        """The most harm that the operation can do before it stops by itself, as a sentence for the operator.

        Empty for a single host, of which there is nothing to say.
        """
        if self.hosts == 1:
            return ""
        width = min(concurrency, self.hosts)
        if self.allowed is None or self.allowed >= self.hosts:
            note = f"{self.rounded}: " if self.rounded else ""
            return f"{note}no failure stops the rest: all {_hosts(self.hosts)} may end not ok, {width} at work at once"
        note = f"{self.rounded}; " if self.rounded else ""
        return (
            f"{note}at most {self.allowed + 1} of {_hosts(self.hosts)} can end not ok before it stops,"
            f" at most {self.room(failed=0, concurrency=width)} at work at once"
        )


class Stopped(asyncio.CancelledError):
    """Work that was cancelled and knows more than words: what became of its action by then."""

    def __init__(self, said: str, action: ActionReport) -> None:
        super().__init__(said)
        self.action = action


async def fan_out(
    hosts: Sequence[Host],
    work: Work,
    *,
    limits: Limits,
    budget: Budget,
    cancel: asyncio.Event,
    on_outcome: Report,
) -> tuple[HostOutcome, ...]:
    """Do the work on every host and return exactly one outcome for each, sorted by name.

    A HostError that the work raises becomes that host's outcome. At a clock's end and when `cancel` is set the work
    gets CancelledError; it may still return an outcome or raise a HostError, which then counts, or raise
    `CancelledError("what is known")`, which goes into the detail.

    Raises:
        FirelineError, Exception: the controller itself failed (out of file descriptors, the store, a fault). Even then
            `on_outcome` was called once for every host before.
    """
    run = _Run(work, limits, budget, on_outcome)
    watcher = asyncio.create_task(_interrupt_on(cancel, run))
    try:
        return await run.all(sorted(hosts, key=lambda host: host.name))
    finally:
        watcher.cancel()
        await run.abandon()


async def _interrupt_on(cancel: asyncio.Event, run: "_Run") -> None:
    await cancel.wait()
    run.interrupt(_Cause(Outcome.CANCELLED, "cancelled", "cancelled by the operator"), "cancelled before it was asked")


@dataclass(frozen=True)
class _Cause:
    """Why a host's work is ended from outside, and the outcome which that makes."""

    outcome: Outcome
    reason: str
    detail: str

    def of(self, host: str, said: str = "") -> HostOutcome:
        return HostOutcome(host, self.outcome, f"{self.detail}: {said}" if said else self.detail, self.reason)


_ENDED_ITSELF: Final = _Cause(Outcome.CANCELLED, "cancelled", "its connection was closed by the controller")


class _Attempt:
    """The work on one host, from when it is scheduled until it has its outcome. Times are of the loop's clock."""

    __slots__ = ("cause", "deadline", "host", "started", "task")

    def __init__(self, host: str, deadline: float) -> None:
        self.host = host
        self.deadline = deadline
        self.task: asyncio.Task[None] | None = None
        self.cause = _ENDED_ITSELF
        self.started: float | None = None  # None: the work has not begun


class _Run:
    """One fan-out: each host's own task settles its outcome and starts the next one.

    Not a TaskGroup: a group waits for a child however long it ignores its cancellation, and a fan-out must end.
    """

    def __init__(self, work: Work, limits: Limits, budget: Budget, on_outcome: Report) -> None:
        self._work = work
        self._limits = limits
        self._budget = budget
        self._on_outcome = on_outcome
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._waiting: deque[Host] = deque()
        self._attempts: dict[str, _Attempt] = {}
        self._outcomes: dict[str, HostOutcome] = {}
        self._failed = 0
        self._error: Exception | None = None
        self._ended = asyncio.Event()

    async def all(self, hosts: Sequence[Host]) -> tuple[HostOutcome, ...]:
        names = [host.name for host in hosts]
        if len(set(names)) != len(names):
            raise ValueError("a frozen target has a host twice")
        self._waiting.extend(hosts)
        clock = self._loop.call_later(self._limits.overall_deadline_s, self._overall_deadline)
        try:
            self._go_on()
            await self._ended.wait()
        finally:
            clock.cancel()
        if self._error is not None:
            raise self._error
        return tuple(self._outcomes[name] for name in names)

    def interrupt(self, cause: _Cause, skipped: str) -> None:
        """End what is under way for this cause, and start nothing more."""
        waiting = [host.name for host in self._waiting]
        self._waiting.clear()
        for attempt in list(self._attempts.values()):
            if attempt.started is not None:
                self._end(attempt, cause)
            else:
                self._stop(attempt)
                del self._attempts[attempt.host]
                waiting.append(attempt.host)
        self._skip(waiting, cause.reason, skipped)

    async def abandon(self) -> None:
        """Cancel what is left and give it its grace: only where the fan-out itself was cancelled is there any."""
        self._waiting.clear()
        left = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        for attempt in self._attempts.values():
            self._stop(attempt)
        if left:
            await asyncio.wait(left, timeout=self._limits.cancel_grace_s)

    def _go_on(self) -> None:
        room = self._budget.room(failed=self._failed, concurrency=self._limits.concurrency)
        if room == 0 and self._waiting:
            waiting = [host.name for host in self._waiting]
            self._waiting.clear()
            spent = f"the failure budget was spent: {_hosts(self._failed)} not ok before it was asked"
            self._skip(waiting, "budget", spent)
        while self._waiting and len(self._attempts) < room:
            self._start(self._waiting.popleft())
        if not self._attempts and not self._waiting:
            self._ended.set()

    def _start(self, host: Host) -> None:
        attempt = self._attempts[host.name] = _Attempt(host.name, self._loop.time() + self._limits.host_deadline_s)
        self._deadlines.set(attempt, attempt.deadline, self._overdue)
        attempt.task = self._loop.create_task(self._attend(attempt, host))

    def _stop(self, attempt: _Attempt) -> None:
        self._deadlines.stop(attempt, attempt.deadline)
        if attempt.task is not None:
            attempt.task.cancel()

    async def _attend(self, attempt: _Attempt, host: Host) -> None:
        attempt.started = self._loop.time()
        try:
            outcome = await self._work(host)
            if outcome.host != host.name:
                raise RuntimeError(f"the work on {host.name} returned the outcome of {outcome.host}")
        except HostError as error:
            outcome = HostOutcome(host.name, error.outcome, str(error), error.reason)
        except asyncio.CancelledError as error:
            outcome = attempt.cause.of(host.name, " ".join(map(str, error.args)))
            if isinstance(error, Stopped):
                outcome = replace(outcome, action=error.action)
        except FirelineError as error:
            self._halt(error)
            outcome = _stopped_by(error).of(host.name)
        except Exception as error:  # noqa: BLE001 - raised again by all(): a fault of ours leaves no host without outcome
            self._halt(error)
            outcome = HostOutcome(host.name, Outcome.FAILED, "a fault in the controller ended its work", "internal")
        self._settle(attempt, outcome)

    def _settle(self, attempt: _Attempt, outcome: HostOutcome) -> None:
        if self._attempts.get(attempt.host) is not attempt:
            return  # given up before: that outcome stands
        del self._attempts[attempt.host]
        self._deadlines.stop(attempt, attempt.deadline)
        if not outcome.duration_ms and attempt.started is not None:
            outcome = outcome.but(duration_ms=round((self._loop.time() - attempt.started) * 1000))
        self._failed += outcome.outcome is not Outcome.OK
        self._record(outcome)
        if self._waiting or not self._attempts:
            self._go_on()

    def _record(self, outcome: HostOutcome) -> None:
        self._outcomes[outcome.host] = outcome
        try:
            self._on_outcome(outcome)
        except Exception as error:  # noqa: BLE001 - raised again by all(): the others must still be settled
            self._halt(error)

    def _skip(self, hosts: Sequence[str], reason: str, detail: str) -> None:
        for host in hosts:
            self._record(HostOutcome(host, Outcome.SKIPPED, detail, reason))
        if not self._attempts:
            self._ended.set()

    def _halt(self, error: Exception) -> None:
        """The controller failed: keep the first error for all() to raise, and stop."""
        if self._error is not None:
            return
        self._error = error
        cause = _stopped_by(error)
        self.interrupt(cause, f"not asked, {cause.detail}")

    def _end(self, attempt: _Attempt, cause: _Cause) -> None:
        if attempt.cause is not _ENDED_ITSELF:
            return  # it is ending already: a second cancellation would cut its last words short
        attempt.cause = cause
        self._stop(attempt)
        attempt.deadline = self._loop.time() + self._limits.cancel_grace_s
        self._deadlines.set(attempt, attempt.deadline, self._overdue)

    def _overdue(self, attempt: _Attempt) -> None:
        if attempt.cause is not _ENDED_ITSELF:
            self._give_up(attempt)
            return
        limit = self._limits.host_deadline_s
        self._end(attempt, _Cause(Outcome.TIMED_OUT, "deadline", f"not done within {limit:g} s"))

    def _give_up(self, attempt: _Attempt) -> None:
        log.error("work ignores its cancellation", extra={"host": attempt.host})
        self._stop(attempt)
        said = f"what it did on the host is not known, {self._limits.cancel_grace_s:g} s after it was told to stop"
        self._settle(attempt, attempt.cause.of(attempt.host, said))

    def _overall_deadline(self) -> None:
        limit = self._limits.overall_deadline_s
        cause = _Cause(Outcome.TIMED_OUT, "deadline", f"not done when the operation's {limit:g} s were over")
        self.interrupt(cause, f"the operation's {limit:g} s were over before it was asked")


def _stopped_by(error: Exception) -> _Cause:
    if isinstance(error, FirelineError):
        return _Cause(Outcome.CANCELLED, error.reason, f"stopped by the controller's own failure: {error}")
    return _Cause(Outcome.CANCELLED, "internal", "stopped by a fault in the controller")


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"
