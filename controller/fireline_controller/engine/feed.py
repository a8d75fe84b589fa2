"""What an operation tells its watcher, in batches: a thousand hosts that end at once must not wake him so often."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from fireline_controller.engine.values import Finished, News, Progress, Started
from fireline_controller.model import FirelineError

# A watcher that reads slowly loses progress, never an outcome.
_PROGRESS_KEPT = 1000
_BATCH_S = 0.02


class Feed:
    """News from an operation to one watcher, who may be gone. Belongs to one event loop."""

    def __init__(self) -> None:
        self._told: deque[News] = deque()
        self._wake = asyncio.Event()
        self._is_due = False
        self._is_closed = False

    def tell(self, news: News) -> None:
        """Pass something on; the first and the last news at once, the others within a moment."""
        if isinstance(news, Progress) and len(self._told) >= _PROGRESS_KEPT:
            return
        self._told.append(news)
        if isinstance(news, Started | Finished):
            self._wake.set()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_BATCH_S, self._wake.set)

    def close(self) -> None:
        """Nothing more will be told."""
        self._is_closed = True
        self._wake.set()

    async def until_finished(self, task: "asyncio.Task[None]") -> AsyncIterator[News]:
        """The news, up to `Finished`.

        Raises:
            Exception: what ended the task before it could tell that.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._is_due = False
            while self._told:
                news = self._told.popleft()
                yield news
                if isinstance(news, Finished):
                    return
            if self._is_closed:
                await task
                raise FirelineError("the operation ended without a result")
