"""The fan-out: exactly one outcome each (I1), clocks, width, budget and cancellation, over virtual hosts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireline_controller.fanout import Budget, Limits, fan_out
from fireline_controller.model import (
    ConfigError,
    Denied,
    Host,
    HostFailed,
    HostOutcome,
    Outcome,
    StoreError,
    Unreachable,
)
from tests.fakes import virtual_time

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
Behaviour = Callable[[Host, float], Awaitable[HostOutcome]]
_SHARED_S = 1 / 64  # what a deadline may be late, since it shares a timer
LIMITS = Limits(host_deadline_s=10, overall_deadline_s=60, concurrency=8, cancel_grace_s=2)


def hosts(count: int) -> list[Host]:
    """So many enrolled hosts, in no helpful order."""
    return [Host(f"h{n:03}", "", {}, 1, WHEN, "", WHEN) for n in reversed(range(count))]


@dataclass
class World:
    """Virtual hosts: each has a behaviour; what was started, and how many at once, is counted."""

    behaviours: list[tuple[str, float]]
    started: list[str] = field(default_factory=list)
    reported: list[HostOutcome] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    cancel: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, host: Host) -> HostOutcome:
        """What the host does."""
        self.started.append(host.name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            kind, after_s = self.behaviours[int(host.name[1:])]
            return await BEHAVIOURS[kind](host, after_s)
        finally:
            self.at_once -= 1

    async def run(self, *, limits: Limits = LIMITS, max_fail: str = "", cancel_at: float | None = None) -> list[str]:
        """Fan out over all of them; the outcomes as words in the order of names."""
        count = len(self.behaviours)
        if cancel_at is not None:
            asyncio.get_running_loop().call_later(cancel_at, self.cancel.set)
        outcomes = await fan_out(
            hosts(count),
            self.work,
            limits=limits,
            budget=Budget.parse(max_fail, count),
            cancel=self.cancel,
            on_outcome=self.reported.append,
        )
        assert [o.host for o in outcomes] == sorted(h.name for h in hosts(count))
        assert Counter(self.reported) == Counter(outcomes)
        return [str(o.outcome) for o in outcomes]

    def of(self, host: str) -> HostOutcome:
        """The one outcome that was reported of the host."""
        (outcome,) = (o for o in self.reported if o.host == host)
        return outcome


async def _ok(host: Host, after_s: float) -> HostOutcome:
    await asyncio.sleep(after_s)
    return HostOutcome(host.name, Outcome.OK)


def _raising(error: Callable[[], Exception]) -> Behaviour:
    async def raising(host: Host, after_s: float) -> HostOutcome:
        await asyncio.sleep(after_s)
        raise error()

    return raising


async def _hang(host: Host, _: float) -> HostOutcome:
    await asyncio.Event().wait()
    raise AssertionError


async def _last_words(host: Host, after_s: float) -> HostOutcome:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(min(after_s, 1.5))
        raise asyncio.CancelledError("the capture was stopped on the host") from None
    raise AssertionError


async def _last_result(host: Host, after_s: float) -> HostOutcome:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(min(after_s, 1.5))
        return HostOutcome(host.name, Outcome.OK, "sealed as partial", partial=True)
    raise AssertionError


async def _deaf(host: Host, _: float) -> HostOutcome:
    for _ in range(5):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue
    raise AssertionError


BEHAVIOURS: dict[str, Behaviour] = {
    "ok": _ok,
    "dead": _raising(lambda: Unreachable("no answer", reason="no_answer", retry_helps=True)),
    "denied": _raising(lambda: Denied("policy", reason="policy_denied")),
    "failed": _raising(lambda: HostFailed("disk", reason="disk_full")),
    "hang": _hang,
    "last_words": _last_words,
    "last_result": _last_result,
    "deaf": _deaf,
    "store": _raising(lambda: StoreError("the store is gone")),
    "fault": _raising(lambda: KeyError("oops")),
}


@pytest.mark.parametrize(
    ("kind", "outcome", "reason", "detail", "duration_ms"),
    [
        ("ok", "ok", "", "", 3000),
        ("dead", "unreachable", "no_answer", "no answer", 3000),
        ("denied", "denied", "policy_denied", "policy", 3000),
        ("failed", "failed", "disk_full", "disk", 3000),
        ("hang", "timed_out", "deadline", "not done within 10 s", 10000),
        ("last_words", "timed_out", "deadline", "not done within 10 s: the capture was stopped on the host", 11500),
        ("last_result", "ok", "", "sealed as partial", 11500),
        (
            "deaf",
            "timed_out",
            "deadline",
            "not done within 10 s: what it did on the host is not known, 2 s after it was told to stop",
            12000,
        ),
    ],
)
def test_each_end_makes_its_outcome(kind: str, outcome: str, reason: str, detail: str, duration_ms: int) -> None:
    """A result, each HostError, and a clock's end with and without last words, each make one outcome that says so."""

    async def scenario() -> None:
        world = World([(kind, 3.0)])

        assert await world.run() == [outcome]
        seen = world.of("h000")
        assert (seen.reason, seen.detail, seen.duration_ms) == (reason, detail, duration_ms)

    virtual_time.run(scenario())


def test_cancelling_asks_the_work_and_skips_the_rest() -> None:
    """After a cancel: done hosts keep their outcome, working ones say what is known, waiting ones were never asked."""

    async def scenario() -> None:
        world = World([("ok", 1), ("last_words", 1), ("last_result", 1), ("hang", 0), ("ok", 1)])
        limits = Limits(host_deadline_s=30, overall_deadline_s=60, concurrency=3, cancel_grace_s=2)

        assert await world.run(limits=limits, cancel_at=5) == ["ok", "cancelled", "ok", "cancelled", "skipped"]
        assert world.of("h001").detail == "cancelled by the operator: the capture was stopped on the host"
        assert world.of("h003").detail == "cancelled by the operator"

    virtual_time.run(scenario())


def test_a_cancel_before_the_start_asks_nobody() -> None:
    """Hosts whose work has not begun are skipped, and are not said to be cancelled."""

    async def scenario() -> None:
        world = World([("ok", 1)] * 3)
        world.cancel.set()

        assert await world.run() == ["skipped"] * 3
        assert world.started == []
        assert world.of("h000").detail == "cancelled before it was asked"

    virtual_time.run(scenario())


def test_the_overall_clock_ends_everything() -> None:
    """Hosts at work are timed out, hosts that wait are skipped; a slow host never takes another's clock."""

    async def scenario() -> None:
        world = World([("hang", 0)] * 4)
        limits = Limits(host_deadline_s=40, overall_deadline_s=60, concurrency=2, cancel_grace_s=2)

        assert await world.run(limits=limits) == ["timed_out"] * 4
        assert world.of("h003").detail == "not done when the operation's 60 s were over"
        assert world.of("h000").detail == "not done within 40 s"

    virtual_time.run(scenario())


def test_a_spent_budget_stops_new_work() -> None:
    """I10: unreachable hosts count; the third failure passes a budget of two, and nobody is asked after it."""

    async def scenario() -> None:
        world = World([("dead", 1)] * 6)

        assert await world.run(max_fail="2") == ["unreachable"] * 3 + ["skipped"] * 3
        assert world.of("h003").detail == "the failure budget was spent: 3 hosts not ok before it was asked"
        assert world.of("h003").reason == "budget"

    virtual_time.run(scenario())


@pytest.mark.parametrize(("kind", "error"), [("store", StoreError), ("fault", KeyError)])
def test_the_controllers_failure_is_no_hosts_outcome(kind: str, error: type[Exception]) -> None:
    """The controller's own failure is raised, after every host got an outcome that does not blame it."""

    async def scenario() -> None:
        world = World([("ok", 1), (kind, 2), ("hang", 0), ("ok", 3)])
        limits = Limits(host_deadline_s=30, overall_deadline_s=60, concurrency=3, cancel_grace_s=2)
        with pytest.raises(error):
            await world.run(limits=limits)

        assert sorted(o.host for o in world.reported) == ["h000", "h001", "h002", "h003"]
        assert world.of("h000").outcome is Outcome.OK
        assert world.of("h002").outcome is Outcome.CANCELLED

    virtual_time.run(scenario())


def test_a_failing_report_still_closes_the_accounts() -> None:
    """When the record itself fails, each host is still reported once and the error is raised."""

    async def scenario() -> None:
        reported = []

        def report(outcome: HostOutcome) -> None:
            reported.append(outcome.host)
            raise StoreError("the journal is gone")

        with pytest.raises(StoreError, match="the journal is gone"):
            await fan_out(
                hosts(20),
                World([("ok", n) for n in range(20)]).work,
                limits=LIMITS,
                budget=Budget(20),
                cancel=asyncio.Event(),
                on_outcome=report,
            )
        assert sorted(reported) == [h.name for h in reversed(hosts(20))]

    virtual_time.run(scenario())


def test_an_empty_target_ends_at_once() -> None:
    """No hosts, no outcomes, no waiting."""

    async def scenario() -> None:
        assert await World([]).run() == []

    virtual_time.run(scenario())


def test_cancelling_the_fan_out_itself_cancels_the_work() -> None:
    """When the caller's own task is cancelled, the work on every host is, and has its grace."""

    async def scenario() -> None:
        world = World([("hang", 0)] * 12)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await world.run()
        assert world.at_once == 0
        assert len(world.started) == LIMITS.concurrency

    virtual_time.run(scenario())


BEHAVIOUR = st.tuples(
    st.sampled_from(["ok", "ok", "ok", "dead", "denied", "failed", "hang", "last_words", "last_result", "deaf"]),
    st.floats(0, 15),
)


@given(
    st.lists(BEHAVIOUR, max_size=12),
    st.integers(1, 6),
    st.sampled_from(["", "0", "1", "3", "25%", "100%"]),
    st.none() | st.floats(0, 50),
    st.floats(1, 40),
)
def test_every_host_has_exactly_one_outcome_whatever_happens(
    behaviours: list[tuple[str, float]], width: int, max_fail: str, cancel_at: float | None, overall_s: float
) -> None:
    """I1 and I10 over any mixture: one outcome each, in time, within the width, and within the budget by one."""

    async def scenario() -> None:
        world = World(behaviours)
        limits = Limits(host_deadline_s=8, overall_deadline_s=overall_s, concurrency=width, cancel_grace_s=2)
        budget = Budget.parse(max_fail, len(behaviours))
        began = asyncio.get_running_loop().time()
        outcomes = await world.run(limits=limits, max_fail=max_fail, cancel_at=cancel_at)

        assert asyncio.get_running_loop().time() - began <= overall_s + limits.cancel_grace_s + _SHARED_S
        assert world.most_at_once <= width + sum(kind == "deaf" for kind, _ in behaviours)
        assert all(o.duration_ms <= 10_016 for o in world.reported)
        asked_not_ok = sum(o not in ("ok", "skipped") for o in outcomes)
        if budget.allowed is not None:
            assert asked_not_ok <= budget.allowed + 1
        assert {o.host for o in world.reported if o.outcome is Outcome.OK} <= set(world.started)
        assert not set(world.started) & {o.host for o in world.reported if o.outcome is Outcome.SKIPPED}

    virtual_time.run(scenario())


@pytest.mark.parametrize(
    ("text", "count", "allowed", "sentence"),
    [
        ("", 1, None, ""),
        ("0", 1, 0, ""),
        ("", 50, None, "no failure stops the rest: all 50 hosts may end not ok, 8 at work at once"),
        ("0", 50, 0, "at most 1 of 50 hosts can end not ok before it stops, at most 1 at work at once"),
        ("5", 50, 5, "at most 6 of 50 hosts can end not ok before it stops, at most 6 at work at once"),
        (
            "10%",
            25,
            2,
            "10% of 25 hosts is 2, rounded down; at most 3 of 25 hosts can end not ok before it stops,"
            " at most 3 at work at once",
        ),
        (
            "100%",
            4,
            4,
            "100% of 4 hosts is 4: no failure stops the rest: all 4 hosts may end not ok, 4 at work at once",
        ),
        (
            "2.5%",
            400,
            10,
            "2.5% of 400 hosts is 10; at most 11 of 400 hosts can end not ok before it stops,"
            " at most 8 at work at once",
        ),
    ],
)
def test_the_budget_says_its_arithmetic(text: str, count: int, allowed: int | None, sentence: str) -> None:
    """Shares are rounded down and that is said; the worst case is a sentence before anything starts."""
    budget = Budget.parse(text, count)

    assert budget.allowed == allowed
    assert budget.worst_case(8) == sentence


@pytest.mark.parametrize("text", ["-1", "five", "101%", "10 %", "1e3", "%", "٣"])
def test_a_budget_that_is_neither_count_nor_share_is_refused(text: str) -> None:
    """The refusal says what a budget looks like."""
    with pytest.raises(ConfigError, match=r"wanted a number of hosts \(5\) or a share of them \(10%\)"):
        Budget.parse(text, 10)


def test_no_width_is_misuse() -> None:
    """A fan-out of width zero would never end."""
    with pytest.raises(ValueError, match="concurrency is 0: wanted at least 1"):
        Limits(1, 1, 0)
