"""Deadlines: each thing is acted on once, in time or a moment later, unless it was stopped before."""

import asyncio

from fireline_controller.deadlines import Deadlines
from tests.fakes import virtual_time


def test_each_thing_is_overdue_at_its_own_time() -> None:
    """Never before, and at most a sixty-fourth of a second after."""
    late: dict[str, float] = {}

    async def all_due() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        for name, at_s in (("c", 3.001), ("a", 1.0), ("b", 1.01)):
            deadlines.set(name, at_s, lambda thing: late.__setitem__(thing, loop.time()))
        await asyncio.sleep(4)

    virtual_time.run(all_due())

    assert list(late) == ["a", "b", "c"]
    assert late["a"] == 1.0
    assert 1.01 <= late["b"] <= 1.01 + 1 / 64
    assert 3.001 <= late["c"] <= 3.001 + 1 / 64


def test_a_stopped_deadline_is_forgotten_with_its_timer() -> None:
    """And only that one: another of the same moment comes; to stop one that came is no error."""
    late: list[str] = []

    async def one_of_two() -> None:
        deadlines = Deadlines()
        deadlines.set("stopped", 1.0, late.append)
        deadlines.set("due", 1.0, late.append)
        deadlines.stop("stopped", 1.0)
        await asyncio.sleep(2)
        deadlines.stop("due", 1.0)

    virtual_time.run(one_of_two())

    assert late == ["due"]


def test_what_is_done_with_one_may_stop_another() -> None:
    """Of two that are due together the first stops the second, and may set itself a new deadline of the same moment."""
    late: list[str] = []

    async def due_together() -> None:
        deadlines = Deadlines()

        def first(thing: str) -> None:
            late.append(thing)
            deadlines.stop("second", 1.0)
            deadlines.set("again", 1.0, late.append)

        deadlines.set("first", 1.0, first)
        deadlines.set("second", 1.0, late.append)
        await asyncio.sleep(2)

    virtual_time.run(due_together())

    assert late == ["first", "again"]
