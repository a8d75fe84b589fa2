"""An event loop whose clock jumps to the next timer: hours of time-outs in a millisecond, always in the same order."""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Never sleeps: what would be waited is added to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Ready descriptors at once; none and a time-out: the time has passed."""
        if timeout is None:
            raise RuntimeError("the loop waits for ever: nothing is scheduled")
        self.now += max(timeout, 0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, selector: _JumpingSelector) -> None:
        self._jumping = selector
        super().__init__(selector)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine to its end in virtual time; a fault in any callback fails the run."""
    faults: list[Mapping[str, Any]] = []
    loop = _Loop(_JumpingSelector())
    loop.set_exception_handler(lambda _, context: faults.append(context))
    try:
        result = loop.run_until_complete(work)
    finally:
        _cancel_rest(loop)
        loop.close()
    assert not faults, faults
    return result


def _cancel_rest(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
