"""The one thread that writes for all callers of an event loop, and lets those that wait share a commit.

A commit costs two waits for the disk (the database's and the anchor's), whatever is in it. When a thousand hosts seal
their evidence at once, sharing makes that a few dozen waits instead of two thousand.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fireline_controller.store.transaction import Transaction

SHARED_AT_MOST: Final = 64  # pieces of work in one commit: the first of them does not wait long for the last

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """A piece of work, and the future of its caller."""

    work: Callable[[Transaction], Any]
    future: "Future[Any]" = field(default_factory=Future)

    def settle(self, outcome: Callable[[], Any]) -> None:
        """Tell the caller what the outcome is, or what it raises."""
        try:
            result = outcome()
        except Exception as error:  # noqa: BLE001 - not handled here: it is raised again where the work came from
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Writer:
    """Takes jobs in order and hands them on in groups, one group at a time, on a thread of its own."""

    def __init__(self, write: Callable[[Sequence[Job]], None]) -> None:
        self._write = write
        self._waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")

    async def run(self, work: Callable[[Transaction], Result]) -> Result:
        """The work's result, once the group that it was in is committed."""
        job = Job(work)
        self._waiting.append(job)
        self._thread.submit(self._next_group)
        # Shielded: work that was handed in is done, even when nobody waits for it any more.
        result: Result = await asyncio.shield(asyncio.wrap_future(job.future))
        return result

    def _next_group(self) -> None:
        # Each job submits one call of this; those whose job went with an earlier group find nothing to do.
        group = [self._waiting.popleft() for _ in range(min(SHARED_AT_MOST, len(self._waiting)))]
        if group:
            self._write(group)

    def close(self) -> None:
        """Wait for the work that was handed in."""
        self._thread.shutdown()
