"""Deadlines of a thousand things at once, on a timer of the event loop for each moment and not for each thing."""

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

Thing = TypeVar("Thing", bound=Hashable)

# Deadlines within so many of a second share a timer, and so come late by at most one such part: nobody who waits for
# seconds notices, and a fan-out, whose hosts begin together, needs one timer where it would set and stop thousands.
_PARTS: Final = 64


class Deadlines:
    """What is to be done with things that are not ready in time. Belongs to one event loop, and is made inside it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, dict[Any, Callable[[Any], object]]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def set(self, thing: Thing, at_s: float, overdue: Callable[[Thing], object]) -> None:
        """Have `overdue` called with this thing at this time of the loop's clock, or up to 1/64 s later."""
        part = math.ceil(at_s * _PARTS)
        things = self._due.get(part)
        if things is None:
            things = self._due[part] = {}
            self._timers[part] = self._loop.call_at(part / _PARTS, self._act, part)
        things[thing] = overdue

    def stop(self, thing: Hashable, at_s: float) -> None:
        """Forget a deadline that was set for this time; one that was due already is no error."""
        part = math.ceil(at_s * _PARTS)
        things = self._due.get(part)
        if things is None:
            return
        things.pop(thing, None)
        if not things:
            del self._due[part]
            self._timers.pop(part).cancel()

    def _act(self, part: int) -> None:
        things = self._due[part]
        while things:  # one by one: what is done with one may stop the deadlines of others
            thing, overdue = next(iter(things.items()))
            self.stop(thing, part / _PARTS)
            overdue(thing)
